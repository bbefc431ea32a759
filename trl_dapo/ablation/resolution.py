"""
Whether a table needs more seeds: each difference to the row before is resolved, shown to be nothing, or open.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .designs import Design
from .results import RunResult
from .sequential import Look, looks_of


@dataclass(frozen=True)
class State:
    """
    What is known after some seeds.

    Args:
        is_open (`bool`):
            Whether a difference is neither resolved nor hopeless.
        lines (`tuple[str, ...]`):
            One line for each difference.
    """

    is_open: bool
    lines: tuple[str, ...]


def state_of(runs: Sequence[RunResult], designs: Sequence[Design], matches: Sequence[str], margin: float) -> State:
    """
    Returns what the finished runs say about each row of each table: against the row before in a cumulative design,
    else against the first.

    The intervals are confidence sequences, so that looking after each seed is allowed, and all of them hold together
    with 95 %.

    Args:
        runs (`Sequence[RunResult]`):
            Finished runs.
        designs (`Sequence[Design]`):
            The tables.
        matches (`Sequence[str]`):
            What was matched: a table each.
        margin (`float`):
            Differences up to this size are nothing.
    """
    pairs = [
        (match, row, design.rows[number - 1] if design.is_cumulative else design.rows[0])
        for match in matches
        for design in designs
        for number, row in enumerate(design.rows)
        if number
    ]
    named = {
        (f"{match}: {row.name}", other.name): _differences(runs, match, row.key, other.key)
        for match, row, other in pairs
    }
    looks = looks_of(named, margin)
    lines = [f"{row} minus {other}: {_words(found)}" for (row, other), found in looks.by_pair.items()]
    return State(looks.is_open, tuple(lines))


def _differences(runs: Sequence[RunResult], match: str, row: str, other: str) -> list[float]:
    """Returns a row's accuracy minus another's for each common seed, in order of seeds."""
    scores: dict[str, dict[int, float]] = {row: {}, other: {}}
    for one in runs:
        if one.row.key in scores and match in one.ends:
            first = next(iter(one.ends[match].data_sets.values()))
            scores[one.row.key][one.seed] = first.accuracy
    return [scores[row][seed] - scores[other][seed] for seed in sorted(scores[row].keys() & scores[other].keys())]


def _words(found: Look) -> str:
    if found.interval is None:
        return f"{found.verdict}, too few seeds for an interval"
    return f"{found.verdict}, {found.interval.low:+.3f} to {found.interval.high:+.3f}"
