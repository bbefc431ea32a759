"""
What a trainer does with a quantized model once it has it.
"""

from torch import nn

from .one_kernel import keep_one_kernel
from .precision import set_adapter_dtype


def prepare_quantized(model: nn.Module, adapter_dtype: str = "float32") -> None:
    """
    Gives the adapters of a quantized model their type, and its 4-bit layers one kernel; leaves other models alone.

    Args:
        model (`nn.Module`):
            Model with its adapters, before the optimizer is created.
        adapter_dtype (`str`, *optional*, defaults to `"float32"`):
            `"float32"`, or `"bfloat16"` as in TRL.
    """
    set_adapter_dtype(model, adapter_dtype)
    keep_one_kernel(model)
