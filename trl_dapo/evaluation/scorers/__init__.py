"""
Scorers: each says whether a completion's answer is right, as a reward function for TRL and as a judge in evaluations.

Importing this module imports neither torch nor a library of mathematics: workers start with it.
"""

import difflib
import math
from typing import Literal

from .formats import ANSWER_FORMATS
from .rules import JUDGES
from .scorer import Scorer
from .verdicts import Judgement


__all__ = [
    "SCORERS",
    "Judgement",
    "Scorer",
    "boxed",
    "dapo_math",
    "exact",
    "get_scorer",
    "math_verify",
    "multiple_choice",
    "number",
    "reasoning_gym",
]

SCORERS: tuple[str, ...] = tuple(ANSWER_FORMATS)

REWARD_RANGES = {"dapo_math": (-1.0, 1.0)}
COLUMNS = {"reasoning_gym": ("entry",)}


def get_scorer(
    name: str,
    *,
    unparseable_reward: float | Literal["wrong"] | None = "wrong",
    time_limit: float = 5.0,
    workers: int | None = None,
) -> Scorer:
    """
    Returns a scorer by its name.

    Args:
        name (`str`):
            One of `SCORERS`.
        unparseable_reward (`float` or `"wrong"`, *optional*, defaults to `"wrong"`):
            Reward of a completion in which no answer is found, or whose answer takes too long. `"wrong"`: that of a
            wrong answer. `None`: the function does not apply to it.
        time_limit (`float`, *optional*, defaults to `5.0`):
            Most seconds for one answer.
        workers (`int`, *optional*):
            Worker processes, for `math_verify` and `reasoning_gym`. `None`: one per core, 8 at most.

    Raises:
        `ValueError`: For an unknown name, or a value that cannot be meant.
    """
    if name not in SCORERS:
        near = difflib.get_close_matches(str(name), SCORERS, 1)
        raise ValueError(
            f"scorer: {name!r} is unknown. {f'Did you mean {near[0]!r}? ' if near else ''}Choose among "
            f"{', '.join(SCORERS)}."
        )
    reward_range = REWARD_RANGES.get(name, (0.0, 1.0))
    return Scorer(
        name=name,
        judge_texts=JUDGES[name],
        reward_range=reward_range,
        answer_format=ANSWER_FORMATS[name],
        unparseable_reward=_reward(unparseable_reward, reward_range[0]),
        time_limit=_time_limit(time_limit),
        workers=_workers(workers),
        columns=COLUMNS.get(name, ("solution",)),
    )


def _reward(reward: float | str | None, wrong: float) -> float | None:
    if reward == "wrong":
        return wrong
    if reward is None:
        return None
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
        raise ValueError(f"unparseable_reward={reward!r}: give a finite number, 'wrong', or None for no reward.")
    return float(reward)


def _time_limit(seconds: float) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"time_limit={seconds!r}: give the seconds for one answer, above 0.")
    return float(seconds)


def _workers(count: int | None) -> int | None:
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ValueError(f"workers={count!r}: give a number of processes, at least 1, or None.")
    return count


dapo_math = get_scorer("dapo_math")
math_verify = get_scorer("math_verify")
boxed = get_scorer("boxed")
exact = get_scorer("exact")
number = get_scorer("number")
multiple_choice = get_scorer("multiple_choice")
reasoning_gym = get_scorer("reasoning_gym")
