"""
Prompts that are read once per group: keys and values of a prompt are computed for one row and copied to the others.

`generate` reads a prompt as often as it has completions. Here the model reads each distinct prompt up to its last
token; the cache is copied to the rows, and `generate` goes on from there with the last token of each.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.logging import get_logger
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from .generation_mode import other_mode


logger = get_logger(__name__)


@dataclass
class CacheKind:
    """
    What is known of a model's cache, so that one which cannot be copied is read in vain only once.

    Args:
        by_row (`bool`, *optional*, defaults to `True`):
            Whether it may be one of keys and values by row.
    """

    by_row: bool = True


def sharing_prompts(
    causal_model: nn.Module,
    generate: Callable[..., torch.Tensor],
    prefilled: Callable[[], None],
    kind: CacheKind | None = None,
) -> Callable[..., torch.Tensor]:
    """
    Returns a `generate` that reads prompts once that rows beside each other share.

    Args:
        causal_model (`nn.Module`):
            The causal language model, not wrapped.
        generate (`Callable`):
            The model's own `generate`.
        prefilled (`Callable`):
            Called once a cache has been filled, before `generate` goes on from it.
        kind ([`CacheKind`], *optional*):
            What former calls have found out about the model's cache.
    """
    known = CacheKind() if kind is None else kind

    def shared(**kwargs: Any) -> torch.Tensor:
        ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
        first_U, row_B = distinct_prompts(ids, mask)
        read_U = mask[first_U, :-1]
        # A prompt of one token leaves nothing to read
        shares = len(first_U) < len(ids) and ids.size(1) > 1 and bool(read_U.any(dim=1).all())
        if not (shares and known.by_row and _plain(causal_model, kwargs)):
            return generate(**kwargs)
        cache = _read(causal_model, ids[first_U, :-1], read_U)
        if cache is None:
            known.by_row = False
            logger.warning(
                "prefill_once=True has no effect: the model keeps something else than keys and values of each row. "
                "Prompts are read per completion."
            )
            return generate(**kwargs)
        cache.batch_select_indices(row_B)
        prefilled()
        return generate(**kwargs, **{_cache_name(causal_model): cache})

    return shared


def distinct_prompts(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Returns which rows begin a run of equal prompts, shape `(U,)`, and which run each row belongs to, shape `(B,)`.

    Args:
        ids, mask (`torch.Tensor`):
            Prompts, padded on the left, shape `(B, T)`.
    """
    differs = (ids[1:] != ids[:-1]).any(dim=1) | (mask[1:] != mask[:-1]).any(dim=1)
    begins = torch.cat([differs.new_ones(1), differs])
    return begins.nonzero().flatten(), begins.long().cumsum(dim=0) - 1


def _plain(model: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Whether there is nothing but text, and a cache that grows."""
    only_text = set(kwargs) == {"input_ids", "attention_mask", "generation_config"}
    return only_text and other_mode(model, kwargs["generation_config"]) is None


def _read(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> DynamicCache | None:
    """The cache after reading prompts, or `None` where the model keeps something else than keys and values by row."""
    positions = (mask.long().cumsum(dim=1) - 1).masked_fill(mask == 0, 1)  # as `generate` counts them
    output = model(
        input_ids=ids,
        attention_mask=mask,
        use_cache=True,
        return_dict=True,
        **_taken(model, position_ids=positions, logits_to_keep=1),
    )
    cache = output.get(_cache_name(model))  # recurrent models call their state otherwise
    by_row = type(cache) is DynamicCache and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )
    return cache if by_row else None


def _taken(model: nn.Module, **kwargs: Any) -> dict[str, Any]:
    """The arguments that the model takes: some count positions themselves, some write all logits."""
    known = inspect.signature(type(model).forward).parameters
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    return {name: value for name, value in kwargs.items() if takes_any or name in known}


def _cache_name(model: nn.Module) -> str:
    """What the model calls its cache, by the release of transformers."""
    return "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
