"""
What a rule is: which key it waits for, how long, and what it sees.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from .observations import Observations
from .settings import Settings


@dataclass(frozen=True)
class Symptom:
    """
    What a rule sees in a log, up to a row.

    Args:
        onset (`int`):
            Step since which it is to be seen.
        message (`str`):
            One sentence with its numbers.
        numbers (`dict[str, float]`):
            What it is told from.
        settings (`tuple[str, ...]`):
            The one or two settings to change, as `name=value`.
    """

    onset: int
    message: str
    numbers: Mapping[str, float]
    settings: tuple[str, ...] = ()


class Look(Protocol):
    """Sees a symptom in a log up to its last row, or none."""

    def __call__(self, seen: Observations, settings: Settings, /) -> Symptom | None:
        """Returns what is to be seen."""
        ...


@dataclass(frozen=True)
class Rule:
    """
    One fault, and how it is told.

    Args:
        name (`str`):
            Its name, as in `stop_on`.
        watches (`Callable`):
            Returns the key of which each new value is an observation, or `None` where the log has none that tells.
        needs (`str`):
            What the log must have for that, in words.
        look (`Callable`):
            Sees the symptom at an observation.
        minimum (`int`):
            Observations before it looks at all.
        patience (`int`):
            Observations in a row with the symptom before it is told.
        advice (`str`):
            One sentence: what to change and why.
        reference (`str`):
            A paper's section, or a page of the documentation.
        of_rollouts (`bool`, *optional*, defaults to `True`):
            Whether only rows with a new rollout are observations.
    """

    name: str
    watches: Callable[[Observations], str | None]
    needs: str
    look: Look
    minimum: int
    patience: int
    advice: str
    reference: str
    of_rollouts: bool = True

    @property
    def calm(self) -> int:
        """Observations in a row without the symptom before it can be told again."""
        return 2 * self.patience
