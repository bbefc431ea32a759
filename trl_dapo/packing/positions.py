"""
Positions of a row's tokens after the padding on its left is cut.

TRL's training passes give no positions, so most models number the columns, padding included. After cutting, the same
numbers must be given explicitly, so that a token keeps the position that it has in the host's batch. Otherwise the row
would be a different input to a model with learned positions, and would round differently in one with rotary positions.
Models that take positions from the attention mask need nothing.
"""

import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import nn
from transformers import PreTrainedModel


def backbone_of(model: Any) -> PreTrainedModel:
    """Returns the decoder without head or PEFT wrapper. Hooks on what is around it do not see all of TRL's passes."""
    causal_model = model.get_base_model() if is_peft_model(model) else model
    return causal_model.base_model


def takes(backbone: nn.Module, name: str) -> bool:
    """Returns whether a model's `forward` has a parameter of this name."""
    return name in inspect.signature(backbone.forward).parameters


@torch.no_grad()
def numbers_columns(model: nn.Module) -> bool:
    """
    Returns whether a model that is given no positions numbers the columns, padding on the left included.

    The model can be with or without its head. It is tried on three tokens, the first of which is padding. All
    processes must call this together for a sharded model.
    """
    if not takes(backbone_of(model), "position_ids"):
        return False
    device = next(model.parameters()).device
    ids = torch.zeros(1, 3, dtype=torch.long, device=device)
    mask = torch.tensor([[0, 1, 1]], device=device)
    found = []
    for positions in (None, torch.arange(3, device=device).unsqueeze(0)):
        # Both passes must draw the same dropout
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
            found.append(output[0][0, -1])
    return torch.equal(*found)


@contextmanager
def with_inputs(backbone: nn.Module, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Generator[None]:
    """Changes the keyword arguments of a model's calls in this context: `change` returns the ones to replace."""

    def replace(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if args:
            kwargs = {**kwargs, "input_ids": args[0]}
        return (), {**kwargs, **change(kwargs)}

    hook = backbone.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def counted_from(first: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns a change for [`with_inputs`] that gives the columns the positions `first`, `first + 1`, ..."""

    def change(kwargs: dict[str, Any]) -> dict[str, Any]:
        ids: torch.Tensor = kwargs["input_ids"]
        return {"position_ids": torch.arange(first, first + ids.size(1), device=ids.device).unsqueeze(0)}

    return change
