"""
A log as rules look at it: one series per key, which grows row by row.

Keys that describe a rollout are logged once per rollout by TRL, and repeated in between for `dapo/*`; what counts as
an observation of theirs is a row with a new rollout.
"""

import math
import re
from collections.abc import Callable, KeysView
from dataclasses import dataclass, field
from statistics import fmean

from .history import Row


# TRL logs it where a rollout was scored since the last log
ROLLOUT = "reward"
_COLUMN = re.compile(r"rewards/(.+)/mean")


@dataclass
class Series:
    """
    The finite values of a key.

    Args:
        steps (`list[int]`):
            Step of each.
        values (`list[float]`):
            The values.
    """

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    def last(self, size: int) -> list[float]:
        """Returns the last values, at most `size`."""
        return self.values[-size:]

    def before(self, size: int) -> list[float]:
        """Returns the `size` values before the last `size`, or those that there are."""
        return self.values[-2 * size : -size]

    def gain(self, size: int) -> float | None:
        """Returns how much the mean of the last values is above that of as many before, `None` without enough."""
        earlier = self.before(size)
        return fmean(self.last(size)) - fmean(earlier) if len(earlier) == size else None

    def since(self, holds: Callable[[float], bool]) -> int:
        """Returns the step from which on a condition has held for every value up to the last, or the last step."""
        place = len(self.values)
        while place and holds(self.values[place - 1]):
            place -= 1
        return self.steps[min(place, len(self.steps) - 1)]


_NONE = Series()


class Observations:
    """
    All series of a log, up to the row that was added last.

    Attributes:
        row ([`Row`]): the row that was added last.
        columns (`list[str]`): names of the reward functions.
    """

    def __init__(self) -> None:
        self._all: dict[str, Series] = {}
        self._rollouts: dict[str, Series] = {}
        self.row = Row(0, {})
        self.columns: list[str] = []

    def add(self, row: Row) -> None:
        """Adds a row; values that are not finite are left out of the series."""
        self.row = row
        kinds = (self._all, self._rollouts) if self.is_rollout else (self._all,)
        for name, value in row.values.items():
            if math.isfinite(value):
                for kind in kinds:
                    series = kind.get(name)
                    if series is None:
                        series = kind[name] = Series()
                        self._note_column(name)
                    series.steps.append(row.step)
                    series.values.append(value)

    @property
    def is_rollout(self) -> bool:
        """Whether the last row tells of a new rollout."""
        return ROLLOUT in self.row.values

    @property
    def keys(self) -> KeysView[str]:
        """The keys that had a finite value."""
        return self._all.keys()

    def series(self, key: str) -> Series:
        """Returns all values of a key."""
        return self._all.get(key, _NONE)

    def rollouts(self, key: str) -> Series:
        """Returns the values of a key in rows with a new rollout."""
        return self._rollouts.get(key, _NONE)

    def first_of(self, *keys: str) -> str | None:
        """Returns the first of some keys that was ever logged."""
        return next((key for key in keys if key in self._all), None)

    def _note_column(self, key: str) -> None:
        match = _COLUMN.fullmatch(key)
        if match and match[1] not in self.columns:
            self.columns.append(match[1])
