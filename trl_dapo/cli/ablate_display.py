"""
What an ablation prints at its end: a table for each design and kind of budget. The report has the rest.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Shown

from trl_dapo.ablation.designs import Design
from trl_dapo.ablation.report.checks import Bounds
from trl_dapo.ablation.report.numbers import count, interval, percent, points, verdict
from trl_dapo.ablation.report.sections import make_sections
from trl_dapo.ablation.report.tables import Table, compared
from trl_dapo.ablation.results import RunResult


def print_tables(
    console: Console,
    runs: Sequence[RunResult],
    designs: Sequence[Design],
    matches: Sequence[str],
    bounds: Bounds | None = None,
) -> None:
    """Prints the tables of finished runs, what is wrong with them, and whether each technique acted."""
    for section in make_sections(runs, designs, matches, bounds):
        for table, checks in zip(section.tables, section.checks, strict=True):
            if table.rows:
                console.print(_shown(table))
            for line in (*table.problems, *(check.sentence for check in checks)):
                console.print(line, markup=False, highlight=False, soft_wrap=True)


def _shown(table: Table) -> Shown:
    title = f"{table.design.name}, matched by {table.match}: accuracy on {table.data_set}"
    shown = Shown("row", title=escape(title), title_justify="left")
    for name in ("accuracy %", "95 % interval", f"minus the {table.reference} row", "completions", "steps", "seeds"):
        shown.add_column(name, justify="right")
    for row in table.rows:
        found = compared(row, table.reference)
        difference = "" if found is None else points(found.mean)
        if found is not None and found.over_seeds is not None:
            difference += f" {interval(found.over_seeds, points)}"
        if found is not None and not found.is_resolved:
            difference += f" {verdict(found)}"
        shown.add_row(
            escape(row.row.name),
            percent(row.statistics.mean),
            escape(interval(row.statistics.over_seeds)),
            escape(difference),
            count(row.spent["completions"].mean),
            count(row.spent["steps"].mean),
            str(row.statistics.seeds),
        )
    return shown
