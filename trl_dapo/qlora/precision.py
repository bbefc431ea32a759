"""
Which precision the trainable parameters of a quantized model have.

On 4-bit and 8-bit bases TRL casts every trainable parameter to bfloat16, whatever `bf16` says. A bfloat16 has 8 bits
of significand, so that an update below 1/256 of a weight is lost; at a learning rate of 1e-6 that is nearly all of
them. Here adapters and heads stay float32. Knows no trainer. The invariant: a model that is not quantized is left
alone.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


ADAPTER_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# DoRA's magnitudes move by less than bfloat16 can tell apart, so the host leaves them in float32 too
ALWAYS_FLOAT32 = "lora_magnitude_vector"


def is_quantized(model: Any) -> bool:
    """Returns whether the base of a model holds 4-bit or 8-bit weights of bitsandbytes."""
    # Only a quantized model has these
    return bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))


def check_adapter_dtype(dtype_name: str) -> None:
    """Raises `ValueError` for a name that [`set_adapter_dtype`] does not take."""
    if dtype_name not in ADAPTER_DTYPES:
        raise ValueError(f"`adapter_dtype` must be one of {list(ADAPTER_DTYPES)}, got {dtype_name!r}.")


def set_adapter_dtype(model: nn.Module, dtype_name: str = "float32") -> None:
    """
    Casts the trainable floating-point parameters of a quantized model in place, and lets its heads take any input.

    Call it before the optimizer is made. A model that is not quantized is left alone.

    Args:
        model (`nn.Module`):
            Model with its adapters, as [`~peft.get_peft_model`] returns it.
        dtype_name (`str`, *optional*, defaults to `"float32"`):
            `"float32"`, or `"bfloat16"` as in TRL.

    Raises:
        `ValueError`: Where `dtype_name` is neither.
    """
    check_adapter_dtype(dtype_name)
    if not is_quantized(model):
        return
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.is_floating_point() and ALWAYS_FLOAT32 not in name:
            parameter.data = parameter.data.to(ADAPTER_DTYPES[dtype_name])
    for name, module in model.named_modules():
        # Layers of LoRA cast their own input
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
    Gives the trainable parameters of a quantized model the values back that they had on entering.

    A constructor of TRL rounds a trained adapter, passed as part of its model, to bfloat16; casting it back does not
    bring the lost digits back. Anything but a quantized model, such as the name of one, is left alone.
    """
    if not (isinstance(model, nn.Module) and is_quantized(model)):
        yield
        return
    kept = [(p, p.data.clone()) for p in model.parameters() if p.requires_grad and p.is_floating_point()]
    yield
    for parameter, values in kept:
        parameter.data = values.to(parameter.device)
