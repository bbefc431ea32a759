"""
Values that can be saved and loaded again without running code. Only these go into the checkpoints of this package.
"""

from typing import Any

import torch


def is_plain(value: Any) -> bool:
    """Returns whether a value consists only of numbers, text, tensors, and containers of these."""
    # Exact types: a file refers to a subclass by its name, so loading it would import code
    if type(value) is dict:
        return all(is_plain(key) and is_plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str) or type(value) is torch.Tensor
