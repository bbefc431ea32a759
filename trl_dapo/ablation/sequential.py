"""
Confidence sequences: intervals for the mean of a growing sample that hold at all sample sizes at once.

One may look after each new seed and stop when one likes: the probability that the interval ever misses the mean is
at most `1 - level`. The usual interval has no such promise; looking at it often finds a difference in noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .statistics import LEVEL, Interval


Verdict = Literal["resolved", "hopeless", "open"]


@dataclass(frozen=True)
class Look:
    """
    What is known of a difference after some seeds.

    Args:
        interval (`Interval`, *optional*):
            The confidence sequence at this size. `None` while it is unbounded.
        verdict (`str`):
            `"resolved"` if it leaves 0 out, `"hopeless"` if it lies within the margin of 0, else `"open"`.
    """

    interval: Interval | None
    verdict: Verdict


def look(differences: Sequence[float], margin: float, level: float = LEVEL) -> Look:
    """
    Returns what the seeds so far say about the mean of paired differences.

    Args:
        differences (`Sequence[float]`):
            A row's score minus another's, one for each common seed.
        margin (`float`):
            Differences up to this size are nothing.
        level (`float`, *optional*, defaults to `0.95`):
            Probability with which the sequence never misses the mean.
    """
    raise NotImplementedError
