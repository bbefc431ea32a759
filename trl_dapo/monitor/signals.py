"""
Which key of a log says what: those of this package where they are logged, else those of plain TRL.

`dapo/*` keys count every completion generated; TRL's count those of the batch. Both are told from the names alone.
"""

import re
from statistics import fmean

from .observations import Observations, Series


# Rewards that shape, and do not say whether a completion is right
SHAPING = re.compile(r"length|overlong|penalty|punish|repetition|format|cosine|language|brevity", re.IGNORECASE)


def is_shaping(name: str) -> bool:
    """Returns whether a reward function shapes, by its name."""
    return SHAPING.search(name) is not None


def accuracy(seen: Observations) -> str | None:
    """
    Returns the key that says how many completions are right: of all generated, else of the only reward that judges.

    It is the whole reward where several functions judge, and `None` where there is none, as in DPO.
    """
    if "dapo/accuracy_generated" in seen.keys:
        return "dapo/accuracy_generated"
    judging = [name for name in seen.columns if not is_shaping(name)]
    return f"rewards/{judging[0]}/mean" if len(judging) == 1 else seen.first_of("reward")


def length(seen: Observations) -> str | None:
    """Returns the key of the mean length of completions."""
    return seen.first_of("dapo/mean_length_generated", "completions/mean_length")


def truncation(seen: Observations) -> str | None:
    """Returns the key of the share of completions that were cut off."""
    return seen.first_of("dapo/overlong_frac", "completions/clipped_ratio")


def accuracies(seen: Observations) -> Series | None:
    """Returns accuracy per rollout."""
    key = accuracy(seen)
    return None if key is None else seen.rollouts(key)


def falls(series: Series | None, size: int, by: float) -> bool:
    """Returns whether the mean of the last values is lower by so much than the best mean of as many before them."""
    if series is None or len(series) < 2 * size:
        return False
    values = series.values
    best = max(fmean(values[i : i + size]) for i in range(len(values) - 2 * size + 1))
    return fmean(values[-size:]) <= best - by


def is_flat(series: Series | None, size: int, gain: float) -> bool:
    """Returns whether the mean of the last values is at most so much above that of as many before them."""
    found = None if series is None else series.gain(size)
    return found is not None and found <= gain
