"""
What a `rollout_func` returns, in the form that TRL's trainer and ours compute with: one list per row.

TRL builds its tensors from any sequence, so that tensors, arrays and tuples train there; a tensor of one token is not
found in a set of token ids, though. What is not one row per prompt is named here, before it is an `IndexError`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch


# One sequence per row; TRL itself names those of the first three that are missing
ROWS = ("prompt_ids", "completion_ids", "logprobs", "env_mask")
# Those with one entry per token of the completion
PER_TOKEN = ("logprobs", "env_mask")


def checked_rollout(rollout_func: Callable) -> Callable:
    """
    Returns a `rollout_func` whose output is checked and made of lists.

    Raises, when it is called:
        `TypeError`: Where the output is not a dictionary, or rows are not sequences.
        `ValueError`: Where rows are missing, too many, empty, or not as long as their completion.
    """

    def checked(prompts: list, trainer: Any) -> dict[str, Any]:
        output = rollout_func(prompts, trainer)
        if not isinstance(output, Mapping):
            raise TypeError(f"`rollout_func` must return a dictionary, got {type(output).__name__}.")
        found = {key: _as_lists(value) if key in ROWS else value for key, value in output.items()}
        for key in ROWS:
            if key in found:
                _check_rows(key, found[key], len(prompts))
        if found.get("completion_ids") is not None:
            _check_tokens(found)
        for key in found.keys() - set(ROWS):
            # As in TRL, a list is one value per row, and anything else is shared by all of them
            if isinstance(found[key], list) and len(found[key]) != len(prompts):
                raise ValueError(_wrong_count(key, len(found[key]), len(prompts)))
        return found

    return checked


def _as_lists(value: Any) -> Any:
    """Returns sequences of any kind as lists, and their numbers as Python's."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        # Most rows are long lists of numbers, which stay as they are
        if isinstance(value, list) and all(type(item) in (int, float) for item in value):
            return value
        return [_as_lists(item) for item in value]
    return value


def _wrong_count(key: str, found: int, expected: int) -> str:
    return (
        f"`rollout_func` returned {found} rows of {key!r} for {expected} prompts. Return one per prompt that it is "
        "called with, in their order; a prompt stands there once per generation."
    )


def _check_rows(key: str, rows: Any, expected: int) -> None:
    if rows is None and key in PER_TOKEN:
        return
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise TypeError(f"`rollout_func` must return {key!r} as one sequence per row, got {type(rows).__name__}.")
    if len(rows) != expected:
        raise ValueError(_wrong_count(key, len(rows), expected))
    for place, row in enumerate(rows):
        if not isinstance(row, list):
            raise TypeError(
                f"`rollout_func` returned {key!r} with a {type(row).__name__} in row {place}. Return a sequence of "
                "one number per token."
            )


def _check_tokens(output: dict[str, Any]) -> None:
    for place, ids in enumerate(output["completion_ids"]):
        if not ids:
            raise ValueError(
                f"`rollout_func` returned no token of 'completion_ids' in row {place}. Return at least the end token."
            )
        wrong = next((token for token in ids if type(token) is not int or token < 0), None)
        if wrong is not None:
            raise ValueError(
                f"`rollout_func` returned {wrong!r} among the 'completion_ids' of row {place}: no token id."
            )
    for key in PER_TOKEN:
        for place, row in enumerate(output.get(key) or []):
            tokens = len(output["completion_ids"][place])
            if len(row) != tokens:
                raise ValueError(
                    f"`rollout_func` returned {len(row)} values of {key!r} in row {place}, whose completion has "
                    f"{tokens} tokens. Return one per token."
                )
