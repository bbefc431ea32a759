"""
Values that can be saved and loaded again without running code: what may enter a checkpoint of ours.
"""

from typing import Any

import torch


def is_plain(value: Any) -> bool:
    """Returns whether a value consists of numbers, text, tensors and containers of them, which load without code."""
    # Subclasses are named by their class in a file, which is code to be imported
    if type(value) is dict:
        return all(is_plain(key) and is_plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str) or type(value) is torch.Tensor
