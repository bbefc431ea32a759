"""
Curves over a run, averaged over the seeds of a row.

A run may have logged ten thousand points. Each is first averaged within bins of the axis, so that what is drawn and
written has a bounded size and no point stands for its neighbours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..results import RunResult


BINS = 60
AXES = ("completions", "steps", "seconds")
_FIELD = {"steps": "step"}
ACCURACY = "dapo/accuracy_generated"
# What is drawn over completions, with what the axis says
METRICS = {
    "entropy": "entropy (nats per token)",
    "dapo/mean_length_generated": "tokens per completion",
    "dapo/overlong_frac": "share of completions truncated",
    "dapo/frac_informative": "share of informative groups",
    "clip_ratio/high_mean": "share of tokens clipped from above",
    "dapo/above_symmetric": "share of tokens above the symmetric range",
    "clip_ratio/low_mean": "share of tokens clipped from below",
    "reward": "mean reward (trained on)",
}

Points = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Curve:
    """
    A metric over an axis, averaged over seeds.

    Args:
        x (`np.ndarray`):
            Where; shape `(points,)`.
        mean, low, high (`np.ndarray`):
            Mean over seeds, and the quarter and three quarters of them; shape `(points,)`.
        seeds (`int`):
            How many.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def mean_curve(runs: Sequence[Points], axis: str, metric: str, bins: int = BINS) -> Curve | None:
    """
    Returns the mean over runs, where all of them have points; `None` if there is no such place.

    Args:
        runs (`Sequence[Sequence[Mapping[str, float]]]`):
            Points of each run.
        axis (`str`):
            `"completions"`, `"steps"` or `"seconds"`.
        metric (`str`):
            Name of the metric.
        bins (`int`, *optional*, defaults to `60`):
            Most points of the curve.
    """
    drawn = [_xy(points, _FIELD.get(axis, axis), metric) for points in runs]
    drawn = [(x, y) for x, y in drawn if len(x)]
    if not drawn:
        return None
    first, last = max(x[0] for x, _ in drawn), min(x[-1] for x, _ in drawn)
    if last < first:
        return None
    binned = [_binned(x, y, bins) for x, y in drawn]
    longest = max(len(x) for x, _ in binned)
    grid = np.linspace(first, last, longest) if last > first else np.array([first])
    values = np.stack([np.interp(grid, x, y) for x, y in binned])  # (runs, points)
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    return Curve(grid, values.mean(axis=0), low, high, len(drawn))


def _xy(points: Points, axis: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(point[axis], point[metric]) for point in points if metric in point and axis in point]
    x, y = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    order = np.argsort(x, kind="stable")
    return x[order], y[order]


def _binned(x: np.ndarray, y: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of `x` and `y` within bins of equally many points."""
    if len(x) <= bins:
        return x, y
    edges = np.linspace(0, len(x), bins + 1).astype(int)[:-1]
    sizes = np.diff(np.append(edges, len(x)))
    return np.add.reduceat(x, edges) / sizes, np.add.reduceat(y, edges) / sizes


def accuracy_source(runs: Sequence[RunResult], data_set: str) -> tuple[str, dict[int, Points]]:
    """
    Returns what says how accuracy rose, and its points by position of the run: measurements on held-out questions if
    every run has them, else the accuracy of the completions generated for training.

    The name is empty if there is neither.
    """
    for name in [data_set, *_held_out_names(runs)]:
        if runs and all(any(name in point for point in run.held_out) for run in runs):
            return name, {number: run.held_out for number, run in enumerate(runs)}
    if any(ACCURACY in point for run in runs for point in run.curve):
        return ACCURACY, {number: run.curve for number, run in enumerate(runs)}
    return "", {}


def _held_out_names(runs: Sequence[RunResult]) -> list[str]:
    names = (name for run in runs[:1] for point in run.held_out for name in point)
    return [name for name in dict.fromkeys(names) if name not in ("step", "completions", "seconds")]


def logged(runs: Sequence[RunResult]) -> list[str]:
    """Returns those of [`METRICS`] that a run has."""
    there = {name for run in runs for point in run.curve for name in point}
    return [name for name in METRICS if name in there]
