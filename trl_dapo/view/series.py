"""
A metric over a run: its values by step, how it moves, and a line of small bars.

A log that has no value of it is a gap, never a 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


# So many values of the end are kept one by one; of what is older, every second where there are too many
EXACT, MOST = 128, 2048
BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-=+*#@"


@dataclass
class Series:
    """
    A metric over a run.

    Args:
        steps (`list[int]`, *optional*):
            Steps of its logs.
        values (`list[float | None]`, *optional*):
            Its value in each, `None` for a gap.
        patience (`int`, *optional*, defaults to `1`):
            Logs without a value that make a gap. What is measured once per rollout has none in the logs between two.
    """

    steps: list[int] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)
    patience: int = 1

    def __post_init__(self) -> None:
        self._missed = 0

    def add(self, step: int, value: float | None) -> None:
        """Adds a log. A step that is logged twice has its last value."""
        self._missed = 0 if value is not None else self._missed + 1
        if value is None and self._missed % self.patience:
            return
        if self.steps and self.steps[-1] == step:
            if value is not None:
                self.values[-1] = value
            return
        self.steps.append(step)
        self.values.append(value)
        if len(self.steps) > MOST:
            self.steps = self.steps[:-EXACT:2] + self.steps[-EXACT:]
            self.values = self.values[:-EXACT:2] + self.values[-EXACT:]

    @property
    def last(self) -> float | None:
        """The value of the last log, `None` where it has none."""
        return self.values[-1] if self.values else None

    @property
    def known(self) -> list[float]:
        """All values that there are."""
        return [value for value in self.values if value is not None]


def bars(values: Sequence[float | None], width: int, ascii_only: bool = False) -> str:
    """
    Returns the last values as small bars, from the lowest of them to the highest; a gap is a space.

    ```python
    >>> bars([0.0, 0.5, None, 1.0], 4)
    '▁▅ █'
    >>> bars([2.0, 2.0], 4)
    '▄▄'

    ```
    """
    steps = ASCII_BARS if ascii_only else BARS
    shown = list(values)[-width:] if width > 0 else []
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    # What rounding alone sets apart is level
    if high - low <= 1e-9 * max(abs(high), abs(low)):
        return "".join(" " if value is None else steps[3] for value in shown)
    last = len(steps) - 1
    # Halves before the difference, which overflows for numbers at both ends of the range
    scale = high / 2 - low / 2
    return "".join(
        " " if value is None else steps[min(last, int((value / 2 - low / 2) / scale * last + 0.5))] for value in shown
    )


def binned(values: Sequence[float | None], width: int, most: int = 8) -> list[float | None]:
    """
    Returns the last values as at most `width` means of up to `most` values each; of gaps alone, a gap.

    ```python
    >>> binned([9.0, 1.0, 3.0, None, 5.0], 2)
    [2.0, 5.0]

    ```
    """
    every = max(min(len(values) // max(width, 1), most), 1)
    last = list(values)[-every * width :] if width > 0 else []
    parts = [[one for one in last[at : at + every] if one is not None] for at in range(0, len(last), every)]
    return [sum(part) / len(part) if part else None for part in parts]


def direction(values: Sequence[float | None], window: int = 16) -> int:
    """
    Returns 1 where the last values rise, -1 where they fall, 0 where neither can be said.

    The mean of the later half of the last `window` values is compared with that of the earlier half, and differs by
    more than two standard errors, or by anything at all where neither half varies. Below six values nothing is said.
    """
    known = [value for value in values if value is not None][-window:]
    if len(known) < 6:
        return 0
    half = len(known) // 2
    (early, early_error), (late, late_error) = _mean(known[:half]), _mean(known[-half:])
    difference, error = late - early, (early_error + late_error) ** 0.5
    # Written so that a NaN, of values that overflow, is no trend
    if not (abs(difference) > 2 * error and abs(difference) > 1e-12 * max(abs(early), abs(late))):
        return 0
    return 1 if difference > 0 else -1


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Returns a mean and the square of its standard error."""
    mean = sum(values) / len(values)
    return mean, sum((value - mean) * (value - mean) for value in values) / max(len(values) - 1, 1) / len(values)
