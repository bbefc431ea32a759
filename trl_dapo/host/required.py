"""
Fields of a config that a user may leave out and that construction fills in.
"""

from typing import TypeVar


T = TypeVar("T")


def required(value: T | None) -> T:
    """Returns a value that is never `None` once its config is constructed; `RuntimeError` where it is."""
    if value is None:
        raise RuntimeError("this field of the config is filled in at construction, and the config was not constructed")
    return value
