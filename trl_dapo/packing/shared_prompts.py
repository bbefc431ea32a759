"""
Reads the prompt of a group once for all of its completions, in passes without gradient.

The rows of a group begin with the same tokens, and attention never looks ahead, so the keys and values of the prompt
are the same for all of them. They are computed once per prompt and handed to the model as its cache. Each row then
consists of the last prompt token and its completion. It attends to the same tokens at the same positions as when it is
read alone.
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
    Prompts that a model has read, without their last token.

    Attributes:
        keys_and_values (`list[tuple[torch.Tensor, torch.Tensor]]`):
            One pair per layer, each of shape `(prompts, heads, columns, size)`.
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
    Returns whether a model that numbers columns can continue from a prompt that it has read.

    It can if every layer attends to all earlier tokens and the model takes a cache of keys and values.
    """
    config: Any = backbone.config
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    whole = set(layers) == {"full_attention"} and getattr(config, "sliding_window", None) is None
    return whole and _cache_name(backbone) is not None


def prompt_numbers(prompt_ids: torch.Tensor, prompt_mask: torch.Tensor) -> torch.Tensor:
    """Returns a number per row, shape `(B,)`: rows with the same left-padded prompt have the same number."""
    columns = torch.cat([prompt_ids * prompt_mask, prompt_mask], dim=1)
    return torch.unique(columns, dim=0, return_inverse=True)[1]


@torch.no_grad()
def read_prompts(
    backbone: PreTrainedModel, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, first: int
) -> Prefix | None:
    """
    Returns the keys and values of the prompts, without their last token; `None` if the model does not keep them.

    With gradient checkpointing, models of transformers before 5.24 keep none in train mode.

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
    kept = [(layer.keys, layer.values) for layer in layers]
    return None if not kept or any(keys is None for keys, _ in kept) else Prefix(kept, mask, first)


def going_on_from(backbone: PreTrainedModel, prefix: Prefix, prompts: torch.Tensor) -> Callable[[dict], dict]:
    """
    Returns a change for [`~positions.with_inputs`] that lets each row continue from its prompt.

    Args:
        backbone ([`~transformers.PreTrainedModel`]):
            Decoder without its head.
        prefix ([`Prefix`]):
            The prompts that it has read.
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
    """The name of the cache in a model's `forward`: `cache`, or `past_key_values` before transformers 5.23."""
    return next((name for name in ("cache", "past_key_values") if takes(backbone, name)), None)
