"""
The prompt of a group, read once for all of its completions, in passes without gradient.

A group's rows begin with the same tokens, and attention never looks ahead: keys and values of the prompt are the same
for each of them. They are computed once per prompt and handed to the model as its cache; the rows then have one token
of the prompt, its last, and their completion. The invariant: a row attends to the tokens that it attends to by itself,
at the same positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from .positions import takes


@dataclass(frozen=True)
class Prefix:
    """
    Prompts without their last token, as a model has read them.

    Attributes:
        keys_and_values (`list[tuple[torch.Tensor, torch.Tensor]]`):
            Of each layer, shape `(prompts, heads, columns, size)`.
        mask (`torch.Tensor`):
            Nonzero where a column has a token, shape `(prompts, columns)`.
        first (`int`):
            Position of the first column.
    """

    keys_and_values: list[tuple[torch.Tensor, torch.Tensor]]
    mask: torch.Tensor
    first: int


def can_share(backbone: PreTrainedModel) -> bool:
    """
    Returns whether a model that numbers columns can go on from a prompt that it has read: every layer attends to all
    that came before, and keeps keys and values for it.
    """
    config: Any = backbone.config
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    whole = set(layers) == {"full_attention"} and getattr(config, "sliding_window", None) is None
    return whole and _cache_name(backbone) is not None


def prompt_numbers(prompt_ids: torch.Tensor, prompt_mask: torch.Tensor) -> torch.Tensor:
    """Returns a number per row, the same where prompts are the same, shape `(B,)`; columns are padded on the left."""
    columns = torch.cat([prompt_ids * prompt_mask, prompt_mask], dim=1)
    return torch.unique(columns, dim=0, return_inverse=True)[1]


@torch.no_grad()
def read_prompts(backbone: PreTrainedModel, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, first: int) -> Prefix:
    """
    Returns the prompts as the model reads them, but for their last token.

    Args:
        backbone ([`~transformers.PreTrainedModel`]):
            Decoder without its head.
        prompt_ids (`torch.Tensor`):
            One prompt per row, padded on the left, shape `(prompts, P)` with `P` at least 2.
        prompt_mask (`torch.Tensor`):
            Nonzero where there is a token, shape `(prompts, P)`.
        first (`int`):
            Position of the first column.
    """
    ids, mask = prompt_ids[:, :-1], prompt_mask[:, :-1]
    cache = DynamicCache(config=backbone.config)
    positions = torch.arange(first, first + ids.size(1), device=ids.device).unsqueeze(0)
    name = _cache_name(backbone) or ""
    backbone(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **{name: cache})
    layers: Any = cache.layers
    return Prefix([(layer.keys, layer.values) for layer in layers], mask, first)


def going_on_from(backbone: PreTrainedModel, prefix: Prefix, prompts: torch.Tensor) -> Callable[[dict], dict]:
    """
    Returns the change of a model's inputs that lets each row go on from its prompt.

    Args:
        backbone ([`~transformers.PreTrainedModel`]):
            Decoder without its head.
        prefix ([`Prefix`]):
            What it has read.
        prompts (`torch.Tensor`):
            Number of each row's prompt in `prefix`, shape `(rows,)`.
    """

    def change(kwargs: dict[str, Any]) -> dict[str, Any]:
        cache = DynamicCache(config=backbone.config)
        for number, (keys, values) in enumerate(prefix.keys_and_values):
            cache.update(keys[prompts], values[prompts], number)
        ids, start = kwargs["input_ids"], prefix.first + prefix.mask.size(1)
        return {
            "attention_mask": torch.cat([prefix.mask[prompts], kwargs["attention_mask"]], dim=1),
            "position_ids": torch.arange(start, start + ids.size(1), device=ids.device).unsqueeze(0),
            _cache_name(backbone) or "": cache,
        }

    return change


def _cache_name(backbone: PreTrainedModel) -> str | None:
    """What a model's `forward` calls the cache: `cache`, or `past_key_values` before transformers 5.23."""
    return next((name for name in ("cache", "past_key_values") if takes(backbone, name)), None)
