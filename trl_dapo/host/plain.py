"""
Values that can be saved and loaded again without running code. Only these go into the checkpoints of this package.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


# Marks a value of NumPy in what `storable` returns
_NUMPY = "__numpy__"


def is_plain(value: Any) -> bool:
    """Returns whether a value consists only of numbers, text, tensors, and containers of these."""
    # Exact types: a file refers to a subclass by its name, so loading it would import code
    if type(value) is dict:
        return all(is_plain(key) and is_plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str) or type(value) is torch.Tensor


def storable(value: Any, left_out: set[str]) -> Any:
    """
    Returns a value in which everything is plain, from which [`stored`] makes it again.

    Scalars and arrays of NumPy come back as they were, and subclasses of numbers, text and containers as those. What
    cannot be saved without code, such as an image, comes back as `None`, so that lists keep their lengths.

    Args:
        value (`Any`):
            The value.
        left_out (`set[str]`):
            Gets the names of the types that come back as `None`.
    """
    if is_plain(value):
        return value
    if isinstance(value, np.generic | np.ndarray) and not (value.dtype.hasobject or value.dtype.names):
        return _numpy(value)
    if isinstance(value, Mapping):
        return {_key(key): storable(item, left_out) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [storable(item, left_out) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, torch.Tensor):
        return value.detach().as_subclass(torch.Tensor)
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    left_out.add(type(value).__name__)
    return None


def _numpy(value: np.generic | np.ndarray) -> dict[str, Any]:
    content = bytearray(value.tobytes())
    return {
        _NUMPY: value.dtype.str,
        "shape": None if isinstance(value, np.generic) else list(value.shape),
        "data": torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8),
    }


def _key(key: Any) -> Any:
    key = key.item() if isinstance(key, np.generic) else key
    return key if is_plain(key) else str(key)


def stored(value: Any) -> Any:
    """Returns what [`storable`] was given, up to what it left out."""
    if type(value) is dict:
        if _NUMPY in value:
            array = np.frombuffer(bytearray(value["data"].numpy()), dtype=np.dtype(value[_NUMPY]))
            return array[0] if value["shape"] is None else array.reshape(value["shape"])
        return {key: stored(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(stored, value))
    return value
