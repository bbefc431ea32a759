"""
Manipulation checks: did a technique act at all where it was switched on?

A difference that is not resolved says something about a technique only if the technique acted. Then it is a finding;
otherwise the table did not test it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from ...dapo.toggles import TOGGLES
from ..manipulation import WORDS, measures_of
from ..results import RunResult
from ..statistics import Difference
from .numbers import interval, plain, points
from .tables import Table, TableRow, compared, row_keys, runs_of_rows


# From which size on a technique counts as having acted: a hundredth of the tokens, rows, groups or reward
ACTED = 0.01
# An interval that reaches further from 0 leaves open whether there is an effect worth having: its null is no finding
NARROW = 0.05


@dataclass(frozen=True)
class Check:
    """
    What a table says about a technique.

    Args:
        technique (`str`):
            The toggle that one row has and the other has not.
        row, other (`str`):
            The rows compared.
        measured (`dict[str, float]`):
            How often it acted in the row that has it, by metric, averaged over seeds.
        verdict (`str`):
            `"resolved"`, `"finding"` (a null that survives), `"open"` (a wide interval), `"not tested"` (it hardly
            acted), `"not checked"` (no metric says) or `"one seed"`.
        sentence (`str`):
            The same in words.
    """

    technique: str
    row: str
    other: str
    measured: Mapping[str, float]
    verdict: str
    sentence: str


def manipulation_of(runs: Sequence[RunResult]) -> dict[str, float]:
    """Returns the mean over runs of each manipulation metric, over the runs that have it."""
    names = dict.fromkeys(name for run in runs for name in run.manipulation)
    values = {name: [run.manipulation[name] for run in runs if name in run.manipulation] for name in names}
    return {name: fsum(those) / len(those) for name, those in values.items()}


def checks_of(table: Table, runs: Sequence[RunResult]) -> list[Check]:
    """Returns a check for each difference of a table, of the kind its design is about, that is one technique's."""
    by_key = runs_of_rows(runs, table.design)
    by_name = {
        row.name: list(by_key[key].values())
        for row, key in zip(table.design.rows, row_keys(table.design), strict=True)
    }
    rows = {row.row.name: row for row in table.rows}
    found = []
    for row in table.rows:
        difference = compared(row, table.reference)
        if difference is None:
            continue
        techniques = _techniques(row, rows[difference.other])
        if len(techniques) == 1:
            has_it = row if row.row.changes.get(techniques[0]) else rows[difference.other]
            measured = measures_of(techniques[0], manipulation_of(by_name[has_it.row.name]))
            found.append(_check(techniques[0], difference, measured))
    return found


def _techniques(row: TableRow, other: TableRow) -> list[str]:
    changes, others = row.row.changes, other.row.changes
    return [one for one in TOGGLES if one in changes and one in others and changes[one] != others[one]]


def _check(technique: str, difference: Difference, measured: Mapping[str, float]) -> Check:
    name = technique.replace("_", " ").replace("clip higher", "clip-higher").replace("token level", "token-level")
    amounts = ", ".join(f"{WORDS.get(metric, metric)}: {plain(value)}" for metric, value in measured.items())
    between = interval(difference.over_seeds, points)
    acted = any(abs(value) >= ACTED for value in measured.values())
    if difference.over_seeds is None:
        verdict, sentence = "one seed", f"{name}: one seed tells no difference from noise."
    elif difference.is_resolved:
        verdict, sentence = "resolved", f"{name}: {points(difference.mean)} points, {between}."
        if measured and not acted:
            sentence += f" It hardly acted ({amounts}): look for another cause."
    elif not measured:
        verdict, sentence = "not checked", f"{name}: not resolved, {between}; no metric says how often it acted."
    elif acted and not _is_narrow(difference):
        verdict = "open"
        needed = (
            ""
            if difference.seeds_needed is None
            else f" {difference.seeds_needed:,} seeds would tell its mean from 0."
        )
        sentence = f"{name} acted ({amounts}), and its effect lies in {between}: too wide to say more.{needed}"
    elif acted:
        verdict = "finding"
        sentence = f"{name} acted ({amounts}), and its effect lies in {between}: a null that survives its check."
    else:
        verdict = "not tested"
        sentence = f"{name} hardly acted ({amounts}), so the null of {between} says nothing about it."
    return Check(technique, difference.row, difference.other, measured, verdict, sentence)


def _is_narrow(difference: Difference) -> bool:
    found = difference.over_seeds
    return found is not None and max(abs(found.low), abs(found.high)) <= NARROW
