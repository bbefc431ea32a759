"""
Attributes that have another value for a while.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def swapped(owner: Any, **values: Any) -> Generator[None]:
    """Gives attributes of an object other values while it is entered; afterwards they are what they were."""
    own = {name: vars(owner)[name] for name in values if name in vars(owner)}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in values:
            if name in own:
                setattr(owner, name, own[name])
            else:
                delattr(owner, name)  # the class's again
