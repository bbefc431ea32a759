"""
Lets a scorer, or any reward function of TRL's, judge completions.

A scorer says what is right, wrong or unparseable. Of a reward function only the reward is known: a completion is right
if it has the highest one, which is what the function declares as `reward_range`, else 1.
"""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from . import scorers
from .samples import Completion, Judged


Rows = list[dict[str, Any]]

HIGHEST = 1.0
# Columns that a scorer is given apart, or not at all
_APART = ("prompt", "solution", "question_id")


class ScorerError(ValueError):
    """A scorer that raises, or does not answer for each completion. Its text is one line."""


def as_scorer(scorer: Any) -> Any:
    """Returns the scorer of a name; one that is no name is returned as it is."""
    return scorers.get_scorer(scorer) if isinstance(scorer, str) else scorer


def name_of(scorer: Any) -> str:
    """Returns the name of a scorer."""
    return getattr(scorer, "__name__", type(scorer).__name__)


def judge(scorer: Any, rows: Rows, samples: Sequence[int], drawn: Sequence[Completion]) -> list[Judged]:
    """
    Returns what a scorer says about completions.

    Args:
        scorer (`Any`):
            A scorer, with a method `judge`, or a reward function.
        rows (`list[dict]`):
            The question of each completion.
        samples (`Sequence[int]`):
            Which sample of its question each is, for errors.
        drawn (`Sequence[Completion]`):
            The completions.

    Raises:
        [`ScorerError`]: If the scorer raises; the text names the question and the sample.
    """
    if not rows:
        return []
    try:
        return _judged(scorer, rows, drawn)
    except ScorerError:
        raise
    except Exception as error:
        place, cause = _culprit(scorer, rows, samples, drawn, error)
        text = " ".join(str(cause).split())[:300]
        raise ScorerError(f"the scorer {name_of(scorer)} raised {type(cause).__name__} on {place}: {text}") from cause


def _judged(scorer: Any, rows: Rows, drawn: Sequence[Completion]) -> list[Judged]:
    completions = [one.text if one.message is None else one.message for one in drawn]
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    if hasattr(scorer, "judge"):
        more = {name: column for name, column in columns.items() if name not in _APART}
        found = list(scorer.judge(completions, columns.get("solution", [None] * len(rows)), **more))
        judged = [Judged(one.outcome, one.reward, one.answer, bool(getattr(one, "timed_out", False))) for one in found]
    else:
        prompts = columns.pop("prompt")
        ids = [one.ids for one in drawn]
        rewards = _rewards(scorer, prompts=prompts, completions=completions, completion_ids=ids, **columns)
        judged = [_from_reward(reward, _highest(scorer)) for reward in rewards]
    if len(judged) != len(rows):
        raise ScorerError(
            f"the scorer {name_of(scorer)} returned {len(judged)} values for {len(rows)} completions; one each is "
            "needed."
        )
    return judged


def _rewards(function: Callable[..., Any], **given: Any) -> list[Any]:
    # What TRL's trainer passes beside the columns
    beside = {"trainer_state": None, "log_extra": _ignore, "log_metric": _ignore}
    found = function(**given, **beside)
    if inspect.isawaitable(found):
        found = asyncio.run(_awaited(found))
    return list(found)


async def _awaited(found: Any) -> Any:
    return await found


def _ignore(*_: Any) -> None:
    pass


def _highest(function: Any) -> float:
    declared = getattr(function, "reward_range", None)
    return HIGHEST if declared is None else float(declared[1])


def _from_reward(reward: Any, highest: float) -> Judged:
    value = None if reward is None else float(reward)
    if value is None or value != value:
        return Judged("unparseable")
    return Judged("right" if value >= highest else "wrong", value)


def _culprit(
    scorer: Any, rows: Rows, samples: Sequence[int], drawn: Sequence[Completion], error: Exception
) -> tuple[str, Exception]:
    """Returns the first completion that the scorer raises on alone, in words, and what it raises."""
    for row, sample, one in zip(rows, samples, drawn, strict=True):
        try:
            _judged(scorer, [row], [one])
        except Exception as own:
            return f"question {row.get('question_id')!r}, sample {sample}", own
    return f"a batch from question {rows[0].get('question_id')!r} on", error
