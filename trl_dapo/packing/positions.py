"""
Where a row's tokens stand, for a model that counts them itself, once padding on its left is cut.

TRL's training passes name no positions, so most models number the columns, padding included. Without the same numbers
a cut row is another input to a model with learned positions, and rounds otherwise in one with rotary ones. Models that
number the tokens by the attention mask need nothing. The invariant: a token keeps the position that it has in the
host's batch.
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
    """Returns the module that TRL's passes call whatever is around it: PEFT and the head bypass the hooks above it."""
    causal_model = model.get_base_model() if is_peft_model(model) else model
    return causal_model.base_model


def takes(backbone: nn.Module, name: str) -> bool:
    """Returns whether a model's `forward` has a parameter of this name."""
    return name in inspect.signature(backbone.forward).parameters


@torch.no_grad()
def numbers_columns(model: nn.Module) -> bool:
    """
    Returns whether a model, with or without its head, takes a token's column for its position where it is told none,
    padding on the left included.

    Tries it on three tokens, of which the first is padding. A sharded model has to be tried by all processes at once.
    """
    if not takes(backbone_of(model), "position_ids"):
        return False
    device = next(model.parameters()).device
    ids = torch.zeros(1, 3, dtype=torch.long, device=device)
    mask = torch.tensor([[0, 1, 1]], device=device)
    found = []
    for positions in (None, torch.arange(3, device=device).unsqueeze(0)):
        # The same dropout in both
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
            found.append(output[0][0, -1])
    return torch.equal(*found)


@contextmanager
def with_inputs(backbone: nn.Module, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Generator[None]:
    """Lets a model be called with changed keyword arguments while it is entered: `change` returns what to replace."""

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
    """Returns the change that gives the columns of the inputs the positions `first`, `first + 1`, ..."""

    def change(kwargs: dict[str, Any]) -> dict[str, Any]:
        ids: torch.Tensor = kwargs["input_ids"]
        return {"position_ids": torch.arange(first, first + ids.size(1), device=ids.device).unsqueeze(0)}

    return change
