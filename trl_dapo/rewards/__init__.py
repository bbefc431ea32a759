"""Rewards that TRL does not treat the way DAPO needs them."""
