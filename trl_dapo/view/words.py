"""
How numbers of a run are said: time, counts, findings.
"""

from typing import Any

from .plain import plain
from .state import RunState


def duration(seconds: float) -> str:
    """
    Returns seconds as people say them.

    ```python
    >>> duration(45), duration(720), duration(12_000), duration(200_000)
    ('45 s', '12 min', '3 h 20 min', '2 d 8 h')

    ```
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def count(number: float) -> str:
    """
    Returns a count, with a space between thousands.

    ```python
    >>> count(20480)
    '20 480'

    ```
    """
    return f"{round(number):,}".replace(",", " ")


def about(number: float) -> str:
    """Returns a count with two digits that mean something."""
    digits = len(str(round(number))) - 2
    return count(round(number, -digits) if digits > 0 else number)


def progress(state: RunState) -> str:
    """Returns how many completions there were, how many are to come, and how fast."""
    parts = [f"{count(state.units)} {state.unit}"]
    if state.units_left and not state.ended:
        parts.append(f"about {about(state.units_left)} to go")
    rate = state.units_per_second
    if rate is not None:
        parts.append(f"{rate:.1f} a second" if rate < 100 else f"{rate:.0f} a second")
    return " · ".join(parts)


def time_left(state: RunState) -> str:
    """Returns how long the run will take, or how long it took."""
    if state.ended:
        return duration(state.seconds)
    left = state.seconds_left
    return "" if left is None else f"{duration(left)} left"


def share(state: RunState) -> float:
    """Returns how much of the run is done, from 0 to 1."""
    return min(state.step / state.max_steps, 1.0) if state.max_steps > 0 else 1.0


def finding_words(finding: Any) -> str:
    """Returns a finding on one line: what, since when, what to change."""
    change = f" Try {' '.join(finding.settings)}." if finding.settings else ""
    return plain(f"{finding.rule} since step {finding.onset}: {finding.message}{change}")
