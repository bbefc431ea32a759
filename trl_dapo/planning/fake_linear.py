"""
Linear layers that behave as bitsandbytes' in memory, for fake tensors: what they hold, and what they make and free.

Sizes follow bitsandbytes 0.50: `functional.QuantState`, `autograd._functions.MatMul4Bit` and `MatMul8bitLt`. No number
that they compute means anything.
"""

from typing import Any

import torch
from torch import nn


BLOCK, SECOND_BLOCK = 64, 256
_CODE, _SECOND_CODE = 16 * 4, 256 * 4


def bytes_4bit(elements: int, double: bool) -> tuple[int, int]:
    """
    Returns the bytes of packed 4-bit weights and of the constants that are needed to unpack them.

    A block of 64 weights has a scale: a float32, or, with double quantization, one byte and a float32 for each 256
    such bytes, beside an offset and a table of 256 float32. Every matrix has a table of 16 float32.

    Args:
        elements (`int`):
            Weights of one matrix.
        double (`bool`):
            Whether the scales are quantized too.
    """
    blocks = -(-elements // BLOCK)
    packed = -(-elements // 2)
    if not double:
        return packed, 4 * blocks + _CODE
    return packed, blocks + 4 * -(-blocks // SECOND_BLOCK) + 4 + _SECOND_CODE + _CODE


def bytes_8bit(rows: int, columns: int) -> tuple[int, int]:
    """Returns the bytes of 8-bit weights of shape `(rows, columns)` and of their scales, one float32 per row."""
    return rows * columns, 4 * rows


class QuantizedLinear(nn.Linear):
    """
    A linear layer whose weight is unpacked for each product and kept nowhere.

    Args:
        features (`tuple[int, int]`):
            In and out.
        bias (`bool`):
            Whether it has one.
        quantization (`str`):
            `"4bit"` or `"8bit"`.
        double (`bool`):
            Whether the scales of 4-bit weights are quantized too.
    """

    def __init__(self, features: tuple[int, int], bias: bool, quantization: str, double: bool) -> None:
        super().__init__(1, 1, bias=bias)
        self.in_features, self.out_features = features
        elements = features[0] * features[1]
        self.state_bytes: int
        if quantization == "4bit":
            packed, self.state_bytes = bytes_4bit(elements, double)
        else:
            packed, self.state_bytes = bytes_8bit(features[1], features[0])
        self.weight = nn.Parameter(torch.empty(packed, 1, dtype=torch.uint8), requires_grad=False)
        if bias:
            self.bias = nn.Parameter(torch.empty(features[1]), requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        out = _Product.apply(input.to(dtype), self.weight, (self.out_features, self.in_features))
        # PEFT's layer for quantized weights copies the result before it adds the adapter's
        return out.clone() if self.bias is None else out + self.bias.to(dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.shape = shape
        return nn.functional.linear(x, torch.empty(shape, dtype=x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = gradients
        return torch.matmul(gradient, torch.empty(ctx.shape, dtype=gradient.dtype)), None, None
