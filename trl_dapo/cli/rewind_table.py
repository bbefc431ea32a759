"""
The futures on a terminal: a metric per line, a future per column, in as many tables as the width asks for.
"""

import re
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from trl_dapo.rewind.futures import Row
from trl_dapo.rewind.report import NOTHING, cell


METRIC, FINDINGS = "last (mean)", "findings"
# Cells of a future's column; where a value and its mean do not fit beside each other, they stand below each other
LEAST, MOST = 12, 26


def tables(title: str, rows: Sequence[Row], metrics: Sequence[str], width: int) -> Iterator[Table]:
    """
    Returns the tables of futures, none wider than `width` cells as far as names allow.

    Args:
        title (`str`):
            Stands above the first one.
        rows (`Sequence[Row]`):
            The futures, the unchanged one first: it is the first column of each table.
        metrics (`Sequence[str]`):
            Their metrics.
        width (`int`):
            Cells that there are.
    """
    first = max(len(name) for name in (*metrics, METRIC, FINDINGS))
    # Each column has a border and two blanks
    room = max(width - first - 4, LEAST + 3)
    unchanged, others = rows[0], rows[1:]
    each = max(room // (LEAST + 3) - 1, 1)
    for at in range(0, max(len(others), 1), each):
        shown = [unchanged, *others[at : at + each]]
        yield _table("" if at else title, shown, metrics, min(max(room // len(shown) - 3, LEAST), MOST))


def findings_of(rows: Sequence[Row]) -> list[str]:
    """Returns a line for each future that failed or has findings."""
    lines = [(row.name, f"failed: {row.failure}" if row.failure else ", ".join(row.findings or ())) for row in rows]
    return [f"{name}: {told}" for name, told in lines if told]


def _table(title: str, rows: Sequence[Row], metrics: Sequence[str], column: int) -> Table:
    table = Table(title=title or None)
    table.add_column(Text(METRIC), no_wrap=True)
    for row in rows:
        table.add_column(Text(broken(row.name, column)), max_width=column, overflow="fold")
    for place, name in enumerate(metrics):
        table.add_row(Text(name), *(Text(cell(row, place)) for row in rows))
    table.add_section()
    table.add_row(Text(FINDINGS), *(Text(_found(row)) for row in rows))
    return table


def _found(row: Row) -> str:
    if row.failure:
        return "failed"
    return NOTHING if row.findings is None else str(len(row.findings)) if row.findings else "none"


def broken(name: str, width: int) -> str:
    """
    Returns the name of a future on lines of at most `width` letters, broken between changes, behind `=` and `_`.

    ```python
    >>> broken("learning_rate=1e-06, max_completion_length=10", 20).split("\\n")
    ['learning_rate=1e-06,', 'max_completion_', 'length=10']

    ```
    """
    lines = [""]
    for change in re.split(r"(?<=, )", name):
        if lines[-1]:
            lines.append("")
        for part in re.findall(r"[^_=]+[_=]?|[_=]", change.strip()):
            if lines[-1] and len(lines[-1] + part) > width:
                lines.append("")
            lines[-1] += part
    return "\n".join(lines)
