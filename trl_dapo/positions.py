"""
Where a row's tokens stand, for a model that counts them itself, once padding on its left is cut.

TRL's training passes name no positions, so models number the columns, padding included. Without the same numbers a cut
row is another input to a model with learned positions, and rounds otherwise in one with rotary ones. The invariant: a
token keeps the position that it has in the host's batch.
"""

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import nn


@contextmanager
def positions_from(model: nn.Module, first: int) -> Generator[None]:
    """
    Lets the columns of the model's inputs have the positions `first`, `first + 1`, ... while it is entered.

    Args:
        model (`nn.Module`):
            Causal language model, unwrapped. One that takes no `position_ids` is left alone: it has no positions, or
            tells them by the attention mask.
        first (`int`):
            Columns that were cut on the left.
    """
    backbone = _backbone(model)
    if first == 0 or "position_ids" not in inspect.signature(backbone.forward).parameters:
        yield
        return

    def name_positions(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if kwargs.get("position_ids") is None:
            ids: torch.Tensor = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            kwargs["position_ids"] = torch.arange(first, first + ids.size(1), device=ids.device).unsqueeze(0)
        return args, kwargs

    hook = backbone.register_forward_pre_hook(name_positions, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _backbone(model: Any) -> nn.Module:
    """The module that TRL's passes call whatever is around it: PEFT and the head bypass the hooks of the one above."""
    causal_model = model.get_base_model() if is_peft_model(model) else model
    return causal_model.base_model
