"""
Generation with transformers that stops computing rows that have ended.

`generate` keeps a row that has ended as padding until the longest row ends: the row is computed for every further
token, and its keys and values stay in memory. Here the model is given only the unfinished rows. `generate` itself
still sees every row and draws the random numbers of every row, so the completions are the same.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


# Finding out which rows have ended waits for the device, so it is done every few tokens. Leaving rows out copies the
# cache of the others, so it is done only when enough rows have ended
LOOK_EVERY = 4
WORTH_A_COPY = 1 / 8


@contextmanager
def only_unfinished_rows(model: nn.Module, ends: Sequence[int]) -> Generator[Callable[[], None]]:
    """
    Makes a model that `generate` calls in this context compute only the rows that have not ended.

    Gives what has to be called before a `generate` that goes on from a cache which holds the prompts already.

    Args:
        model (`nn.Module`):
            Causal language model, not wrapped.
        ends (`Sequence[int]`):
            Tokens that end a row. A row that ends in another way is computed to the end.
    """
    rows = _Unfinished(torch.tensor(list(ends)))
    hooks = [
        model.register_forward_pre_hook(rows.select, with_kwargs=True),
        model.register_forward_hook(rows.put_back, with_kwargs=True),
    ]
    try:
        yield rows.prompts_are_read
    finally:
        for hook in hooks:
            hook.remove()


class _Unfinished:
    """The rows of one call of `generate`, B of them, that have not ended."""

    def __init__(self, ends: torch.Tensor) -> None:
        self.ends = ends
        self.rows: torch.Tensor | None = None
        self.last_of_prompts = False  # the next pass has the last token of each prompt
        self.ended = torch.empty(0, dtype=torch.bool)  # (B,)
        self.steps = 0

    def prompts_are_read(self) -> None:
        """Says that the next pass has one token of each row, and that it is a prompt's and ends nothing."""
        self.rows, self.last_of_prompts = None, True

    def select(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        """Replaces the inputs of all rows with those of the unfinished rows."""
        ids, cache = kwargs.get("input_ids"), _cache(kwargs)
        if ids is None or ids.size(1) != 1 or cache is None or cache.get_seq_length() == 0:
            self.rows = None  # a pass over prompts: a call of `generate` begins
            return None
        if self.last_of_prompts:
            self.last_of_prompts = False
            return None
        if self.rows is None:
            self.rows = torch.arange(len(ids), device=ids.device)
            self.ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
            self.ends, self.steps = self.ends.to(ids.device), 0
        self.ended |= torch.isin(ids[:, -1], self.ends)
        self.steps += 1
        if self.steps % LOOK_EVERY == 0:
            self._leave_out(cache)
        if len(self.rows) == len(ids):
            return None
        rows, count = self.rows, len(ids)
        chosen = {
            name: value[rows] if isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == count else value
            for name, value in kwargs.items()
        }
        return args, chosen

    def put_back(self, _: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Gives every row logits: 0 for rows that have ended, whose next token `generate` ignores."""
        if self.rows is None or len(self.rows) == len(self.ended):
            return None
        logits = output.logits.new_zeros(len(self.ended), *output.logits.shape[1:])
        logits[self.rows] = output.logits
        output.logits = logits
        return output

    def _leave_out(self, cache: DynamicCache) -> None:
        rows = self.rows
        if rows is None:
            return
        going_on = (~self.ended[rows]).nonzero().flatten()
        # A pass needs at least one row
        if len(going_on) and len(rows) - len(going_on) >= WORTH_A_COPY * len(rows):
            cache.batch_select_indices(going_on)
            self.rows = rows[going_on]


def _cache(kwargs: dict[str, Any]) -> DynamicCache | None:
    """The cache, if every layer of it keeps keys and values by row; else `None`."""
    cache = next((kwargs[name] for name in ("cache", "past_key_values") if kwargs.get(name) is not None), None)
    if type(cache) is not DynamicCache:
        return None
    by_row = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
    return cache if by_row else None
