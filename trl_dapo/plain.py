"""
Values that can be saved and loaded again without running code: what may enter a checkpoint of ours.
"""

from typing import Any

import torch


def is_plain(value: Any) -> bool:
    """Returns whether a value consists of numbers, text, tensors and containers of them, which load without code."""
    if isinstance(value, dict):
        return all(is_plain(key) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str, bytes) or type(value) is torch.Tensor
