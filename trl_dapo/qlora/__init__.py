"""Adapters on 4-bit and 8-bit bases."""
