"""
Tables as grids of text, which all formats share: so they say the same.
"""

from dataclasses import dataclass

from ..statistics import Difference
from .escaping import shortened
from .numbers import (
    NOT_RESOLVED,
    NOTHING,
    RESOLVED,
    count,
    interval,
    no_interval,
    p_value,
    percent,
    points,
    seeds_needed,
    verdict,
)
from .tables import Table, TableRow, compared


REFERENCES = ("previous", "first", "last")
LONGEST_NAME = 120  # a column of names leaves room for others
PAPER = (
    "The paper's row is of Qwen2.5-32B on AIME 2024, avg@32, from one seed (Table 1). It is another task with another "
    "model: compare the order and the signs, not the numbers."
)


@dataclass(frozen=True)
class Cell:
    """
    A cell.

    Args:
        text (`str`):
            What it says. Not escaped.
        value (`float`, *optional*):
            What it is sorted by. `None` for the text.
        is_open (`bool`, *optional*, defaults to `False`):
            Whether it is a difference that is not resolved.
    """

    text: str
    value: float | None = None
    is_open: bool = False


@dataclass(frozen=True)
class Grid:
    """
    A table of text.

    Args:
        columns (`tuple[str, ...]`):
            Headings.
        rows (`tuple[tuple[Cell, ...], ...]`):
            Cells.
        texts (`int`, *optional*, defaults to `1`):
            How many columns from the left are text; the others are numbers.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    texts: int = 1


def row_grid(table: Table) -> Grid:
    """Returns one line per row: accuracy, the difference that the design is about, and what was spent."""
    has_paper = any(row.paper is not None for row in table.rows)
    columns = [
        "row",
        "accuracy % [over seeds]",
        f"minus the {table.reference} row",
        "IQM %",
        "[over seeds × questions]",
    ]
    columns += ["seeds", "completions", "steps", "seconds", *(["paper %"] if has_paper else [])]
    rows = []
    for row in table.rows:
        found = row.statistics
        cells = [
            Cell(_name(row.row.name)),
            Cell(_with_interval(percent(found.mean), interval(found.over_seeds), found.seeds), found.mean),
            _difference(compared(row, table.reference)),
            Cell(percent(found.iqm), found.iqm),
            Cell(interval(found.over_both), found.over_both.low if found.over_both else None),
            Cell(str(found.seeds), found.seeds),
            *(_spent(row, name) for name in ("completions", "steps", "seconds")),
        ]
        if has_paper:
            cells.append(Cell(NOTHING if row.paper is None else f"{row.paper:.0f}", row.paper))
        rows.append(tuple(cells))
    return Grid(tuple(columns), tuple(rows))


def difference_grids(table: Table) -> list[tuple[str, Grid]]:
    """
    Returns differences, paired by seed and question: a heading and a grid for each row that is subtracted, first the
    one that the design is about. Without those that no row has.
    """
    names = sorted(REFERENCES, key=lambda name: name != table.reference)
    grids = [(f"Differences to the {name} row", _difference_grid(table, name)) for name in names]
    return [(heading, grid) for heading, grid in grids if grid.rows]


def _difference_grid(table: Table, name: str) -> Grid:
    columns = ("row", "minus", "points [over seeds]", "verdict", "[over seeds × questions]")
    columns += ("p (Holm)", "probability of improvement", "wins", "seeds needed")
    differences = [(row, found) for row in table.rows if (found := compared(row, name)) is not None]
    return Grid(columns, tuple(_difference_row(*one) for one in differences), texts=2)


def _name(name: str) -> str:
    return shortened(name, LONGEST_NAME)


def _difference_row(row: TableRow, found: Difference) -> tuple[Cell, ...]:
    says = verdict(found)
    return (
        Cell(_name(row.row.name)),
        Cell(_name(found.other)),
        Cell(f"{points(found.mean)} {interval(found.over_seeds, points)}", found.mean),
        Cell(says, is_open=says != RESOLVED),
        Cell(interval(found.over_both, points), found.over_both.low if found.over_both else None),
        Cell(p_value(found.p_holm), found.p_holm),
        Cell(f"{found.improvement:.2f}", found.improvement),
        Cell(f"{found.wins} of {found.seeds}", found.wins / found.seeds),
        Cell(seeds_needed(found.seeds_needed), found.seeds_needed),
    )


def _difference(found: Difference | None) -> Cell:
    if found is None:
        return Cell(NOTHING)
    text = _with_interval(points(found.mean), interval(found.over_seeds, points), found.seeds)
    if found.over_seeds is not None and not found.is_resolved:
        text += f" {NOT_RESOLVED}"
    return Cell(text, found.mean, is_open=not found.is_resolved)


def _with_interval(value: str, between: str, seeds: int) -> str:
    if between != NOTHING:
        return f"{value} {between}"
    return f"{value} ({no_interval(seeds)})"


def _spent(row: TableRow, name: str) -> Cell:
    return Cell(count(row.spent[name].mean), row.spent[name].mean)


_SPENT = {"completions": "completions", "steps": "optimizer steps", "seconds": "seconds of training"}


def matched(table: Table) -> str:
    """Returns what was matched and what was not, in two sentences."""
    own = "completions" if table.match == "samples" else table.match
    others = [f"{label} ({_range(table, name)} per run)" for name, label in _SPENT.items() if name != own]
    budget, spent = _range(table, "budget"), _range(table, own) if own in _SPENT else ""
    # A policy is what it is after a whole step, which may go beyond the budget
    in_fact = f" (in fact {spent})" if spent not in ("", budget) else ""
    return (
        f"Matched by {table.match}: each policy is evaluated once it has spent {budget} "
        f"{_SPENT.get(own, own)}{in_fact}. Not matched: {' and '.join(others)}."
    )


def _range(table: Table, name: str) -> str:
    spent = [row.spent[name] for row in table.rows]
    low, high = count(min(one.low for one in spent)), count(max(one.high for one in spent))
    return low if low == high else f"{low} to {high}"


def asked(table: Table) -> str:
    """Returns what the accuracy is, in a sentence."""
    low, high = table.samples
    samples = str(low) if low == high else f"{low} to {high}"
    by = f", judged by {table.scorers[0]}" if len(table.scorers) == 1 and table.scorers[0] else ""
    return f"Accuracy on {table.data_set}: {len(table.questions):,} questions, avg@{samples}{by}."
