"""
What an interval is, and the level that intervals have by default.
"""

from dataclasses import dataclass


LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """Lower and upper end of an interval."""

    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether 0 is in it, the ends included."""
        return self.low <= 0.0 <= self.high


def check_level(level: float) -> None:
    """Raises `ValueError` if a level is none, such as 95 for 0.95."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level!r}; it is a probability between 0 and 1, such as {LEVEL}.")
