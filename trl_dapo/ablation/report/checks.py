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
            `"resolved"`, `"finding"` (a null although it acted), `"open"` (a wide interval), `"not tested"` (it hardly
            acted), `"not checked"` (no run has the metric), `"one seed"` or `"equal seeds"`.
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
    # Which row is subtracted: in leave-one-out it is the one with the technique
    says = f"“{difference.row}” minus “{difference.other}” is {points(difference.mean)} points"
    says += "" if difference.over_seeds is None else f" {interval(difference.over_seeds, points)}"
    acted = mean is not None and Measure(measure.metric, bound, measure.meaning).says_acted(mean)
    amount = "" if mean is None else f"{measure.meaning}: {plain(mean)}, bound {plain(bound)}"
    if difference.seeds == 1:
        verdict, sentence = "one seed", f"{name}: one seed cannot tell a difference from noise."
    elif difference.over_seeds is None:
        verdict = "equal seeds"
        sentence = f"{name}: {says} on each of {difference.seeds} seeds, so it has no interval"
        sentence += "." if mean is None else f" ({amount})."
    elif difference.is_resolved:
        verdict, sentence = "resolved", f"{name}: {says}"
        sentence += "." if mean is None else f" ({amount})."
        if mean is not None and not acted:
            sentence += " The technique hardly acted: look for another cause."
    elif mean is None:
        verdict = "not checked"
        sentence = f"{name}: {says}, not resolved. No run says how much the technique acted (`{measure.metric}`)."
    elif acted and not _is_narrow(difference):
        verdict = "open"
        sentence = f"{name} acted ({amount}). {says}, not resolved: the interval is too wide to call it a null."
    elif acted:
        verdict = "finding"
        sentence = f"{name} acted ({amount}). {says}, not resolved and within ±{100 * NARROW:.0f} points: "
        sentence += "a null that counts, since the technique acted."
    else:
        verdict = "not tested"
        sentence = f"{name} hardly acted ({amount}). {says}, not resolved: this table does not test the technique."
    return Check(technique, difference.row, difference.other, measure.metric, mean, bound, verdict, sentence)


def _is_narrow(difference: Difference) -> bool:
    found = difference.over_seeds
    return found is not None and max(abs(found.low), abs(found.high)) <= NARROW
