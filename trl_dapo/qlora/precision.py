"""
The precision of the trainable parameters of a quantized model.

On 4-bit and 8-bit bases, TRL casts every trainable parameter to bfloat16, whatever `bf16` says. A bfloat16 has 8 bits
of significand, so an update below 1/256 of a weight is rounded away; at a learning rate of 1e-6, nearly all of them
are. Here adapters and heads stay in float32. Models that are not quantized are left as they are. Knows no trainer.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


ADAPTER_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# DoRA's magnitudes change by less than bfloat16 can resolve, so the host leaves them in float32 too
ALWAYS_FLOAT32 = "lora_magnitude_vector"


def is_quantized(model: Any) -> bool:
    """Returns whether the base of a model holds 4-bit or 8-bit weights of bitsandbytes."""
    # Only quantized models have these attributes
    return bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))


def check_adapter_dtype(dtype_name: str) -> None:
    """Raises `ValueError` for a name that [`set_adapter_dtype`] does not accept."""
    if dtype_name not in ADAPTER_DTYPES:
        raise ValueError(f"`adapter_dtype` must be one of {list(ADAPTER_DTYPES)}, got {dtype_name!r}.")


def set_adapter_dtype(model: nn.Module, dtype_name: str = "float32") -> None:
    """
    Casts the trainable floating-point parameters of a quantized model in place, and lets its heads accept any dtype.

    Call it before the optimizer is created. A model that is not quantized is left as it is.

    Args:
        model (`nn.Module`):
            Model with its adapters, as [`~peft.get_peft_model`] returns it.
        dtype_name (`str`, *optional*, defaults to `"float32"`):
            `"float32"`, or `"bfloat16"` as in TRL.

    Raises:
        `ValueError`: If `dtype_name` is neither.
    """
    check_adapter_dtype(dtype_name)
    if not is_quantized(model):
        return
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.is_floating_point() and ALWAYS_FLOAT32 not in name:
            parameter.data = parameter.data.to(ADAPTER_DTYPES[dtype_name])
    for name, module in model.named_modules():
        # LoRA layers cast their input themselves
        if isinstance(module, nn.Linear) and module.weight.requires_grad and "lora_" not in name:
            takes_any_float(module)


def takes_any_float(module: nn.Linear) -> None:
    """Makes a linear layer cast its input to its weight's dtype, e.g. bfloat16 hidden states for a float32 head."""
    if _cast_to_weight not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_cast_to_weight)


def _cast_to_weight(module: nn.Linear, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.to(module.weight.dtype) if tensor.is_floating_point() else tensor for tensor in inputs)


@contextmanager
def adapters_kept(model: Any) -> Generator[None]:
    """
    Restores, on leaving, the values that the trainable parameters of a quantized model had on entering.

    TRL's constructors round the adapter of a model that already has one to bfloat16, and casting it back to float32
    would not restore the lost digits. Anything but a quantized model, such as a model's name, is left as it is.
    """
    if not (isinstance(model, nn.Module) and is_quantized(model)):
        yield
        return
    kept = [(p, p.data.clone()) for p in model.parameters() if p.requires_grad and p.is_floating_point()]
    yield
    for parameter, values in kept:
        parameter.data = values.to(parameter.device)
