"""
The parts of a report: one section per regime, with all tables of its runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..designs import Design
from ..results import RunResult
from .checks import Bounds, Check, checks_of
from .tables import Table, found_rows, make_table, row_keys


@dataclass(frozen=True)
class Section:
    """
    A regime.

    Args:
        regime (`str`, *optional*):
            Its name; `None` where runs name none.
        runs (`tuple[RunResult, ...]`):
            Its runs.
        designs (`tuple[Design, ...]`):
            Designs that it has runs of.
        tables (`tuple[Table, ...]`):
            Each design at each kind of budget.
        checks (`tuple[tuple[Check, ...], ...]`):
            The manipulation checks of each table.
        problems (`tuple[str, ...]`):
            What takes no part, one line each.
    """

    regime: str | None
    runs: tuple[RunResult, ...]
    designs: tuple[Design, ...]
    tables: tuple[Table, ...]
    checks: tuple[tuple[Check, ...], ...]
    problems: tuple[str, ...]

    @property
    def title(self) -> str:
        """What the report calls it."""
        return "Results" if self.regime is None else f"Regime: {self.regime}"


def make_sections(
    runs: Sequence[RunResult], designs: Sequence[Design], matches: Sequence[str], bounds: Bounds | None = None
) -> tuple[Section, ...]:
    """
    Returns the sections of a report, in the order in which regimes occur.

    Args:
        runs (`Sequence[RunResult]`):
            All runs.
        designs (`Sequence[Design]`):
            Tables that are wanted; none for one table of all rows that there are.
        matches (`Sequence[str]`):
            Kinds of budget.
        bounds (`dict[str | None, dict[str, float]]`, *optional*):
            Bounds of manipulation checks, by regime and metric.
    """
    regimes = list(dict.fromkeys(run.regime for run in runs))
    return tuple(
        _section(regime, [run for run in runs if run.regime == regime], designs, matches, bounds) for regime in regimes
    )


def _section(
    regime: str | None,
    runs: Sequence[RunResult],
    designs: Sequence[Design],
    matches: Sequence[str],
    bounds: Bounds | None = None,
) -> Section:
    kept, problems = _without_duplicates(runs)
    keys = {run.row.key for run in kept}
    # Rows that no design knows are shown all the same
    used = tuple(one for one in designs if _has_own(one, designs, keys)) or (found_rows(kept),)
    problems += [_absent(design, keys) for design in designs if design not in used]
    known = {key for design in used for key in row_keys(design)}
    strangers = sorted(keys - known)
    if strangers:
        problems.append(f"Rows that no table has: {', '.join(strangers)}.")
    tables = tuple(make_table(kept, design, match, regime) for design in used for match in matches)
    checks = tuple(checks_of(table, kept, bounds) for table in tables)
    return Section(regime, tuple(kept), used, tables, checks, tuple(problems))


def _has_own(design: Design, designs: Sequence[Design], keys: set[str]) -> bool:
    """Whether a design has runs, and not merely some that belong to another table, of which there are more."""
    own = keys & set(row_keys(design))
    others = [keys & set(row_keys(other)) for other in designs if other is not design]
    return bool(own) and (len(own) == len(design.rows) or not any(own < other for other in others))


def _absent(design: Design, keys: set[str]) -> str:
    own = len(keys & set(row_keys(design)))
    if not own:
        return f"No run of the design {design.name}."
    return f"Of the design {design.name} there are {own} of {len(design.rows)} rows, which another table has too."


def _without_duplicates(runs: Sequence[RunResult]) -> tuple[list[RunResult], list[str]]:
    first: dict[tuple[str, int], RunResult] = {}
    problems = []
    for run in runs:
        if (run.row.key, run.seed) in first:
            problems.append(f"{run.row.key}, seed {run.seed}, is there twice; the first takes part.")
        first.setdefault((run.row.key, run.seed), run)
    return list(first.values()), problems
