"""
The weights of a policy as one dense model: `W + s B A`, with `W` dequantized. The trained model is only read.
"""

import importlib
from collections.abc import Generator
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn


def dense_weights(model: PeftModel, name: str, dtype: torch.dtype) -> Generator[tuple[str, torch.Tensor]]:
    """
    Gives each weight with the name it has in the model without adapters, one at a time.

    The sum is made in float32 and rounded once, to `dtype`; nothing is rounded to 4 bits again. Tied weights are given
    once. Other adapters of the model are left out.

    Args:
        model ([`~peft.PeftModel`]):
            The model, on a 4-bit base or another.
        name (`str`):
            The adapter that is added.
        dtype (`torch.dtype`):
            Dtype of what is given.
    """
    base: Any = model.get_base_model()
    layers = {path: module for path, module in base.named_modules() if isinstance(module, LoraLayer)}
    for path, parameter in base.named_parameters():
        plain = _plain_name(path, name)
        if plain is None:
            continue
        weight = dequantized(parameter)
        layer: Any = layers.get(path.removesuffix(".base_layer.weight"))
        if layer is not None and path.endswith(".base_layer.weight") and name in layer.scaling:
            with torch.no_grad():
                weight = weight.float() + layer.get_delta_weight(name).float()
        yield plain, weight.detach().to(dtype)


def dequantized(parameter: nn.Parameter) -> torch.Tensor:
    """Returns the values that a weight stands for, in 4 bits or not."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return parameter.data
    return importlib.import_module("bitsandbytes.functional").dequantize_4bit(parameter.data, state)


def _plain_name(path: str, name: str) -> str | None:
    parts = path.split(".")
    if any(part.startswith("lora_") for part in parts) or "original_module" in parts:
        return None
    if "modules_to_save" in parts:
        place = parts.index("modules_to_save")
        if parts[place + 1] != name:
            return None  # another adapter's, such as the head of a critic
        parts = parts[:place] + parts[place + 2 :]
    return ".".join(part for part in parts if part != "base_layer")
