"""
What is set side by side: a few metrics of each future, at its end and over it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .branch import AS_IT_WAS, Branch, Future


# The first of each line that is logged by any future is shown
METRICS = (
    ("dapo/accuracy_generated", "rewards/accuracies", "accuracy", "reward"),
    ("eval_dapo/accuracy", "eval_reward", "eval_rewards/accuracies", "eval_accuracy", "eval_loss"),
    ("entropy", "rewards/margins", "margin"),
    ("dapo/mean_length_generated", "completions/mean_length"),
    ("dapo/frac_informative", "frac_reward_zero_std"),
    ("clip_ratio/region_mean",),
    ("kl",),
    ("value/explained_variance",),
    ("grad_norm",),
    ("loss",),
    ("learning_rate",),
)


@dataclass(frozen=True)
class Told:
    """A branch with its future, or with the reason why it has none."""

    branch: Branch
    future: Future | None
    failure: str = ""
    findings: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        return self.branch.name

    @property
    def is_as_it_was(self) -> bool:
        return self.name == AS_IT_WAS


@dataclass(frozen=True)
class Row:
    """Numbers of one future: of each metric its last value and its mean, `None` where it was not logged."""

    name: str
    last: tuple[float | None, ...]
    mean: tuple[float | None, ...]
    findings: tuple[str, ...] | None
    failure: str


def shown_metrics(told: Sequence[Told]) -> list[str]:
    """Returns the metrics that are shown; held-out accuracies come with the names that they were given."""
    logged = dict.fromkeys(key for one in told if one.future for entry in one.future.log for key in entry)
    found = [next((key for key in line if key in logged), None) for line in METRICS]
    held_out = [key for key in logged if key.startswith("held_out/") and "avg@" in key]
    return [key for key in [*found[:2], *held_out, *found[2:]] if key is not None]


def points(future: Future, key: str) -> list[tuple[int, float]]:
    """Returns step and value wherever a metric was logged as a finite number."""
    pairs = [(entry["step"], entry[key]) for entry in future.log if isinstance(entry.get(key), (int, float))]
    return [(step, float(value)) for step, value in pairs if math.isfinite(value)]


def rows_of(told: Sequence[Told], metrics: Sequence[str]) -> list[Row]:
    """Returns the table's rows."""
    rows = []
    for one in told:
        values = [[value for _, value in points(one.future, key)] if one.future else [] for key in metrics]
        last = tuple(own[-1] if own else None for own in values)
        mean = tuple(sum(own) / len(own) if own else None for own in values)
        rows.append(Row(one.name, last, mean, one.findings, one.failure))
    return rows


def findings_in(log: Sequence[Mapping[str, Any]], judge: Any, base: int) -> tuple[str, ...]:
    """Returns the rules that a judge finds in a log and tells after a step, with their onsets."""
    return tuple(f"{one.rule} (step {one.onset})" for one in judge(list(log)) if one.step > base)
