"""
The distance between the rewards of a wrong and of a right answer, which the length penalty is measured by.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..dapo.worth import declared_range
from .answers import Scored, asked_rows, scored_functions
from .setup import Setup


@dataclass(frozen=True)
class Range:
    """
    Lowest and highest raw metric.

    Args:
        lowest, highest (`float`):
            The ends.
        source (`str`):
            `"declared"` by all reward functions (`reward_range`), or `"seen"`.
    """

    lowest: float
    highest: float
    source: str

    @property
    def distance(self) -> float:
        """From a wrong answer to a right one."""
        return self.highest - self.lowest

    @property
    def middle(self) -> float:
        """What lies above counts as right."""
        return (self.lowest + self.highest) / 2


def declared_ends(setup: Setup) -> Range | None:
    """
    Returns the range of the raw metric if every reward function in it declares its own.

    Raises:
        `ValueError`: If one declares what is no range.
    """
    columns, weights = setup.metric_columns, setup.metric_weights
    declared = [declared_range(setup.functions[column], setup.names[column]) for column in columns]
    known = [one for one in declared if one is not None]
    if not columns or len(known) < len(columns):
        return None
    ends = [sorted(weight * end for end in one) for weight, one in zip(weights, known, strict=True)]
    return Range(sum(low for low, _ in ends), sum(high for _, high in ends), "declared")


def observed_range(metric: Iterable[float]) -> Range | None:
    """Returns the range of metrics that were seen, or `None` where they are all alike."""
    seen = [value for value in metric if math.isfinite(value)]
    if not seen or max(seen) <= min(seen):
        return None
    return Range(min(seen), max(seen), "seen")


def range_of_answers(setup: Setup) -> Range | None:
    """Returns the range of the raw metric over answers written by hand, or `None` where no function reads them."""
    asked = asked_rows(setup)
    scored = {one.name: one for one in scored_functions(setup, asked) if one.crash is None} if asked else {}
    names = [setup.names[column] for column in setup.metric_columns]
    weights = dict(zip(names, setup.metric_weights, strict=True))
    rows = [
        sum(weights[one.name] * _mean(values) for one, values in columns)
        for columns in _by_form(list(scored.values()))
    ]
    return observed_range(rows)


def _by_form(scored: list[Scored]) -> list[list[tuple[Scored, list[float | None]]]]:
    """Returns, for each form of an answer, right or wrong, the rewards of each function that has any."""
    sides = [[one.right for one in scored], [one.wrong for one in scored]]
    found = []
    for side in sides:
        names = dict.fromkeys(name for rewards in side for name in rewards)
        found += [
            [(one, rewards[name]) for one, rewards in zip(scored, side, strict=True) if name in rewards]
            for name in names
        ]
    return found


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0
