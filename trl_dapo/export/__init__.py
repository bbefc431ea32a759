"""Merging an adapter into its base, with what the rounding loses."""
