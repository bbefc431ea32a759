"""
Calls reward functions as TRL's trainers do, outside of a trainer, on completions that were written by hand.
"""

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import nn
from transformers import TrainerState

from ..reward_model.adapter import AdapterReward
from ..reward_model.function import RewardModelFunction
from .setup import is_conversation


class RewardCrash(Exception):
    """A reward function raised, or did not return one number per completion; the text says what."""


def is_model(function: Any) -> bool:
    """Returns whether a reward comes from a model: what it likes is learned, and no format is its business."""
    return isinstance(function, nn.Module | str | RewardModelFunction | AdapterReward) or not callable(function)


def rewards_of(
    function: Callable[..., Any], rows: list[dict[str, Any]], texts: list[str], tokenizer: Any
) -> list[float | None]:
    """
    Returns the rewards of one completion per row.

    Args:
        function (`Callable`):
            A reward function of TRL's signature, which may be a coroutine.
        rows (`list[dict[str, Any]]`):
            Rows of the dataset, with `prompt`.
        texts (`list[str]`):
            The completions.
        tokenizer (`Any`):
            Makes `completion_ids`; without one they are as many as there are characters.

    Raises:
        [`RewardCrash`]: Where the function raises or does not return one number or `None` per row.
    """
    prompts = [row["prompt"] for row in rows]
    completions: list[Any] = [
        [{"role": "assistant", "content": text}] if is_conversation(prompt) else text
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    columns = {name: [row.get(name) for row in rows] for name in rows[0] if name not in ("prompt", "completion")}
    try:
        found = _settled(
            function(
                prompts=prompts,
                completions=completions,
                completion_ids=_ids(texts, tokenizer),
                **{**columns, "trainer_state": TrainerState(), "log_extra": _ignored, "log_metric": _ignored},
            )
        )
        rewards = [None if one is None else float(one) for one in found]
    except Exception as error:
        raise RewardCrash(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    if len(rewards) != len(texts):
        raise RewardCrash(f"it returned {len(rewards)} rewards for {len(texts)} completions")
    return rewards


def _settled(found: Any) -> Any:
    if not inspect.isawaitable(found):
        return found
    # In a thread, because a notebook has a loop that runs already
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _awaited(found)).result()


async def _awaited(found: Any) -> Any:
    return await found


def _ids(texts: list[str], tokenizer: Any) -> list[list[int]]:
    if tokenizer is None:
        return [list(range(len(text))) for text in texts]
    try:
        return [tokenizer(text)["input_ids"] for text in texts]
    except Exception:
        # A tokenizer of few characters, like the arena's, may refuse text that no policy of its could write
        return [list(range(len(text))) for text in texts]


def _ignored(*args: Any) -> None:
    pass
