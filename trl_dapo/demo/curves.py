"""
The curves of runs against generated completions: where each begins, and several seeds as a mean with their range.

What a rollout says of its completions is of the policy that generated them, so it stands where the rollout began: the
first point of every run is the warm start's. Held-out accuracy is measured after a rollout; its first point is the
warm start's score, and its last one the final score.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .run import Point, RunResult


# Fewer points than this are drawn as dots too, since one alone makes no line
FEW = 12


@dataclass(frozen=True)
class Curve:
    """
    One run, or the mean of several.

    Args:
        completions, values (`tuple[float, ...]`):
            Its points.
        low, high (`tuple[float, ...]`):
            The smallest and the largest of the seeds at each point; empty for one run.
    """

    completions: tuple[float, ...]
    values: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def is_short(self) -> bool:
        """Whether it has so few points that each is worth a dot."""
        return len(self.values) < FEW


def generated_curve(run: RunResult, value: Callable[[Point], float]) -> Curve:
    """Returns what the completions of each rollout say, at the completions generated before it."""
    before = (0, *(point.completions for point in run.curve[:-1]))
    return Curve(tuple(map(float, before[: len(run.curve)])), tuple(value(point) for point in run.curve))


def held_out_curve(run: RunResult, start: float) -> Curve:
    """Returns the held-out accuracy from the warm start's to the final one."""
    measured = [(point.completions, point.held_out) for point in run.curve if point.held_out is not None]
    between = [(x, y) for x, y in measured if x < run.completions]
    points = [(0, start), *between, (run.completions, run.score.accuracy)]
    return Curve(tuple(float(x) for x, _ in points), tuple(y for _, y in points))


def mean_curve(runs: Sequence[Curve]) -> Curve:
    """
    Returns the mean of runs with their range, interpolated at every point that a run has.

    Args:
        runs (`Sequence[Curve]`):
            At least one. It ends where the first of them does, so that each point is a mean of all.
    """
    if len(runs) == 1:
        return runs[0]
    first = max(run.completions[0] for run in runs)
    last = min(run.completions[-1] for run in runs)
    places = sorted({x for run in runs for x in run.completions if first <= x <= last})
    values = np.stack([np.interp(places, run.completions, run.values) for run in runs])  # (runs, points)
    return Curve(tuple(places), *(tuple(map(float, one)) for one in (values.mean(0), values.min(0), values.max(0))))
