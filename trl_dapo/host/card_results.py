"""
What a card says of evaluations: a table for people, and `EvalResult` for the Hub.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, runtime_checkable

from huggingface_hub import EvalResult

from .card_text import Section, as_code, as_name, table


NAMELESS = "held-out data"
# Scores of evaluations by this package; the other metrics, such as lengths, are in the table alone
SCORES = re.compile(r"(avg|pass|maj)@\d+")


@dataclass(frozen=True)
class CardResult:
    """
    A number that was measured on held-out data.

    Args:
        data_set (`str`):
            Name of the data set, empty where it has none.
        metric (`str`):
            Name of the metric.
        value (`float`):
            The number.
        step (`int`):
            Optimizer updates when it was measured.
        interval (`tuple[float, float]`, *optional*):
            Its 95 % interval over questions.
        is_score (`bool`, *optional*, defaults to `True`):
            Whether it says how good the model is.
    """

    data_set: str
    metric: str
    value: float
    step: int
    interval: tuple[float, float] | None = None
    is_score: bool = True


@runtime_checkable
class GivesResults(Protocol):
    """A callback that evaluates."""

    def card_results(self, step: int) -> list[CardResult]:
        """Returns the newest results that were measured at a step or before."""
        ...


def newest_results(
    callbacks: Iterable[Any], history: Sequence[Mapping[str, Any]], metrics: Sequence[str], step: int
) -> list[CardResult]:
    """
    Returns the newest results of a run, those of callbacks and those of the trainer's own evaluation.

    Args:
        callbacks (`Iterable`):
            The trainer's.
        history (`Sequence[Mapping]`):
            What the trainer logged.
        metrics (`Sequence[str]`):
            Names of the trainer's own metrics that are worth telling, without `eval_`.
        step (`int`):
            Step of the weights that are saved; nothing later is told.
    """
    measured = [one.card_results(step) for one in callbacks if isinstance(one, GivesResults)]
    names = "|".join(re.escape(name) for name in metrics)
    logged: dict[tuple[str, str], CardResult] = {}
    for entry in history if names else ():
        for key, value in entry.items():
            match = re.fullmatch(f"eval_(?:(.+)_)?({names})", key)
            if match and entry.get("step", math.inf) <= step and isinstance(value, (int, float)):
                logged[match[1] or "", match[2]] = CardResult(match[1] or "", match[2], float(value), entry["step"])
    return [one for one in (*chain.from_iterable(measured), *logged.values()) if math.isfinite(one.value)]


def results_section(results: Sequence[CardResult], step: int) -> Section | None:
    """Returns the table of results, `None` without any."""
    if not results:
        return None
    rows = [
        (as_code(one.data_set or NAMELESS), as_code(one.metric), _number(one.value), _interval(one), str(one.step))
        for one in results
    ]
    body = table(("data", "metric", "value", "95 % interval", "step"), rows)
    if any(one.step != step for one in results):
        body += f"\n\nThe weights are those of step {step}; results of an earlier step are of the policy at that step."
    return Section("Evaluation", body)


def for_hub(results: Iterable[CardResult], step: int, task: str) -> list[EvalResult]:
    """
    Returns the results that the Hub shows: scores of the very weights that are saved.

    Args:
        results (`Iterable[CardResult]`):
            What was measured.
        step (`int`):
            Step of the weights.
        task (`str`):
            Of the Hub, such as `"text-generation"`.
    """
    return [
        EvalResult(
            task_type=task,
            dataset_type=as_name(one.data_set or NAMELESS),
            dataset_name=one.data_set or NAMELESS,
            metric_type=one.metric,
            metric_name=one.metric,
            metric_value=one.value,
        )
        for one in results
        if one.is_score and one.step == step
    ]


def _number(value: float) -> str:
    return f"{value:.4g}"


def _interval(result: CardResult) -> str:
    return "" if result.interval is None else f"{_number(result.interval[0])} to {_number(result.interval[1])}"
