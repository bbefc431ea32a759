"""
Generation with transformers in bounded calls: a peak of memory that follows from the chunk, not from the rollout.

TRL gives all rows of a rollout to one call of `generate`, whose keys and values all lie in memory together. While
[`in_chunks`] is entered, that one call becomes several, each with whole groups. Random numbers are drawn chunk by
chunk, in order, so that the same seed and the same chunk give the same completions.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.logging import get_logger
from torch import nn

from ..host.swapped import swapped


logger = get_logger(__name__)

# What `generate` is given that has a row for each completion
BY_ROW = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class ChunkSize:
    """
    How many rows one call of `generate` has.

    Args:
        rows (`int`, *optional*):
            Most rows.
        tokens (`int`, *optional*):
            Most tokens of prompts and completions, padding included, in place of `rows`.
        group (`int`):
            Rows of a prompt, which stay together.
        splits_groups (`bool`, *optional*, defaults to `False`):
            Whether a group that is larger than the bound is split, as in evaluation, whose groups the bound was not
            made for.
    """

    rows: int | None
    tokens: int | None
    group: int
    splits_groups: bool = False

    def of(self, rows: int, length: int, new_tokens: int, in_groups: bool = True) -> int:
        """
        Returns the rows of a chunk.

        Args:
            rows (`int`):
                All rows.
            length (`int`):
                Tokens of the longest prompt.
            new_tokens (`int`):
                Most tokens of a completion.
            in_groups (`bool`, *optional*, defaults to `True`):
                Whether the rows are whole groups. In later turns of a conversation with tools they are not, and a
                chunk may end anywhere.

        Raises:
            `ValueError`: If one group takes more tokens than a call may.
        """
        if self.tokens is None:
            limit = rows if self.rows is None else self.rows
        else:
            limit = self.tokens // (length + new_tokens)
        group = self.group if in_groups and rows % self.group == 0 else 1
        if limit >= group:
            return limit // group * group
        if self.splits_groups or group == 1:
            return max(1, limit)
        if self.tokens is None:
            return group
        raise ValueError(
            f"max_tokens_per_generation_call={self.tokens} holds no group: {group} completions of a prompt of "
            f"{length} tokens and up to {new_tokens} new ones take {group * (length + new_tokens)}. Raise it to that, "
            "or lower `max_completion_length` or `num_generations`."
        )


@contextmanager
def in_chunks(
    model: nn.Module, size: ChunkSize, generate: Callable[..., torch.Tensor] | None = None
) -> Generator[None]:
    """
    Makes each call of a model's `generate` several ones.

    Args:
        model (`nn.Module`):
            Whose `generate` is called with `input_ids` and `attention_mask` of all rows, by keyword, and with a
            `generation_config`.
        size ([`ChunkSize`]):
            How many rows each has.
        generate (`Callable`, *optional*):
            What is called for each chunk; by default the model's own `generate`.
    """
    host: Any = model.generate if generate is None else generate

    def chunked(**kwargs: Any) -> torch.Tensor:
        ids = kwargs["input_ids"]
        rows, length = ids.shape
        new_tokens = kwargs["generation_config"].max_new_tokens
        chunk = size.of(rows, length, new_tokens, are_groups(ids, size.group))
        if chunk >= rows:
            return host(**kwargs)
        others = [name for name, value in kwargs.items() if isinstance(value, torch.Tensor) and name not in BY_ROW]
        if others:
            logger.warning_once(
                f"Completions are generated in one call, whatever its bound: of {others[0]!r} it is not known which "
                "part belongs to which prompt."
            )
            return host(**kwargs)
        by_row = {name: kwargs[name] for name in BY_ROW if name in kwargs}
        found = []
        for start in range(0, rows, chunk):
            own = {name: one[start : start + chunk] for name, one in by_row.items()}
            found.append(host(**{**kwargs, **own}))
        return _joined(found, kwargs["generation_config"])

    with swapped(model, generate=chunked):
        yield


def are_groups(ids: torch.Tensor, group: int) -> bool:
    """Whether rows, shape `(B, T)`, are blocks of `group` equal ones."""
    if len(ids) % group:
        return False
    blocks = ids.unflatten(0, (-1, group))
    return bool((blocks == blocks[:, :1]).all())


def _joined(chunks: list[torch.Tensor], config: Any) -> torch.Tensor:
    """All rows of the chunks, padded on the right as `generate` pads a row that has ended."""
    longest = max(chunk.size(1) for chunk in chunks)
    ends = config.eos_token_id
    first_end = ends[0] if isinstance(ends, list) else ends
    padding = config.pad_token_id if config.pad_token_id is not None else (first_end or 0)
    return torch.cat([nn.functional.pad(one, (0, longest - one.size(1)), value=padding) for one in chunks])
