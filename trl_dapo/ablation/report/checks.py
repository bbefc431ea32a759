"""
Manipulation checks: did a technique act at all where it was switched on?

A difference that is not resolved says something about a technique only if the technique acted. Then it is a finding;
otherwise the table did not test it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from ...dapo.toggles import TOGGLES
from ..manipulation import MEASURES, Measure
from ..results import RunResult
from ..statistics import Difference
from .numbers import interval, plain, points
from .tables import Table, compared, row_keys, runs_of_rows


# An interval that reaches further from 0 leaves open whether there is an effect worth having: its null is no finding
NARROW = 0.05

Bounds = Mapping[str | None, Mapping[str, float]]


@dataclass(frozen=True)
class Check:
    """
    What a table says about a technique.

    Args:
        technique (`str`):
            The toggle that one row has and the other has not.
        row, other (`str`):
            The rows compared.
        metric (`str`):
            The metric that says how much it acted.
        mean (`float`, *optional*):
            Its mean over the seeds of a row; `None` if no run has it.
        bound (`float`):
            See [`Measure`].
        verdict (`str`):
            `"resolved"`, `"finding"` (a null that survives), `"open"` (a wide interval), `"not tested"` (it hardly
            acted), `"not checked"` (no run has the metric) or `"one seed"`.
        sentence (`str`):
            The same in words.
    """

    technique: str
    row: str
    other: str
    metric: str
    mean: float | None
    bound: float
    verdict: str
    sentence: str


def manipulation_of(runs: Sequence[RunResult]) -> dict[str, float]:
    """Returns the mean over runs of each manipulation metric, over the runs that have it."""
    names = dict.fromkeys(name for run in runs for name in run.manipulation)
    values = {name: [run.manipulation[name] for run in runs if name in run.manipulation] for name in names}
    return {name: fsum(those) / len(those) for name, those in values.items()}


def checks_of(table: Table, runs: Sequence[RunResult], bounds: Bounds | None = None) -> tuple[Check, ...]:
    """
    Returns a check for each difference of a table, of the kind its design is about, that is one technique's.

    Args:
        table ([`~trl_dapo.ablation.report.tables.Table`]):
            The table.
        runs (`Sequence[RunResult]`):
            Runs of its regime.
        bounds (`dict[str | None, dict[str, float]]`, *optional*):
            By regime and metric, what takes the place of the bounds in [`MEASURES`].
    """
    by_key = runs_of_rows(runs, table.design)
    own_runs = {
        row.name: list(by_key[key].values())
        for row, key in zip(table.design.rows, row_keys(table.design), strict=True)
    }
    rows = {row.row.name: row.row for row in table.rows}
    found = []
    for row in table.rows:
        difference = compared(row, table.reference)
        if difference is None:
            continue
        changes, others = row.row.changes, rows[difference.other].changes
        techniques = [one for one in TOGGLES if one in changes and one in others and changes[one] != others[one]]
        if len(techniques) == 1:
            measure = MEASURES[techniques[0]]
            looked_at = difference.row if bool(changes[techniques[0]]) is measure.with_technique else difference.other
            mean = manipulation_of(own_runs[looked_at]).get(measure.metric)
            bound = (bounds or {}).get(table.regime, {}).get(measure.metric, measure.bound)
            found.append(_check(techniques[0], difference, measure, mean, bound))
    return tuple(found)


def _check(technique: str, difference: Difference, measure: Measure, mean: float | None, bound: float) -> Check:
    name = technique.replace("_", " ").replace("clip higher", "clip-higher").replace("token level", "token-level")
    between = interval(difference.over_seeds, points)
    acted = mean is not None and Measure(measure.metric, bound, measure.meaning).says_acted(mean)
    amount = "" if mean is None else f"{measure.meaning}: {plain(mean)}, bound {plain(bound)}"
    if difference.over_seeds is None:
        verdict, sentence = "one seed", f"{name}: one seed tells no difference from noise."
    elif difference.is_resolved:
        verdict, sentence = "resolved", f"{name}: {points(difference.mean)} points, {between}"
        sentence += "." if mean is None else f" ({amount})."
        if mean is not None and not acted:
            sentence += " It hardly acted: look for another cause."
    elif mean is None:
        verdict = "not checked"
        sentence = f"{name}: not resolved, {between}; no run says how much it acted (`{measure.metric}`)."
    elif acted and not _is_narrow(difference):
        verdict, sentence = "open", f"{name} acted ({amount}), and its effect lies in {between}: too wide to say more."
    elif acted:
        verdict = "finding"
        sentence = f"{name} acted ({amount}), and its effect lies in {between}: a null that survives its check."
    else:
        verdict = "not tested"
        sentence = f"{name} hardly acted ({amount}), so the null of {between} says nothing about it."
    return Check(technique, difference.row, difference.other, measure.metric, mean, bound, verdict, sentence)


def _is_narrow(difference: Difference) -> bool:
    found = difference.over_seeds
    return found is not None and max(abs(found.low), abs(found.high)) <= NARROW
