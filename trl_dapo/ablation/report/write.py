"""
Writes the files of a report.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...evaluation.results import file_name
from ...host.whole_files import write_whole
from ..designs import Design
from ..results import RunResult
from .archive import ARCHIVE, ArchiveError, archive, read_archive
from .checks import Bounds
from .curve_figures import AXIS_LABELS, CurveSet, curve_sets, draw_curves
from .drawing import for_page
from .escaping import as_html, visible
from .figures import draw_forest, draw_ladder, goes_beyond
from .page import PageFigure, as_page
from .sections import Section, make_sections
from .tables import Table, compared
from .writers import as_csv_file, as_latex_file, as_markdown_file, capitalised, table_title


FIGURES, PAGE = "figures", "index.html"


def write_report(
    folder: Path,
    runs: Sequence[RunResult],
    designs: Sequence[Design],
    matches: Sequence[str],
    *,
    title: str,
    notes: Sequence[str] = (),
    left_out: Sequence[str] = (),
    bounds: Bounds | None = None,
) -> list[Path]:
    """
    Writes a report and returns its files. Needs matplotlib and scipy.

    Args:
        folder (`Path`):
            Where to; made if it is not there. Files of an earlier report are replaced, its figures removed; others
            are left alone.
        runs (`Sequence[RunResult]`):
            The runs.
        designs (`Sequence[Design]`):
            The tables; none for one table of all rows that there are.
        matches (`Sequence[str]`):
            Kinds of budget: `"samples"`, `"steps"`, `"seconds"`.
        title (`str`):
            Title.
        notes (`Sequence[str]`, *optional*):
            Lines for the reader.
        left_out (`Sequence[str]`, *optional*):
            Files that take no part, as [`~trl_dapo.ablation.results.Found`] names them.

        bounds (`dict[str | None, dict[str, float]]`, *optional*):
            By regime and metric, from which mean on a technique counts as having acted; see
            [`~trl_dapo.ablation.report.checks.MEASURES`].

    Raises:
        `ValueError`: If there are no runs, no kind of budget, or two designs of one name.
    """
    if not runs:
        raise ValueError("There are no finished runs, so there is nothing to report.")
    if not matches:
        raise ValueError("matches=[] names no kind of budget. Name some of 'samples', 'steps', 'seconds'.")
    names = [design.name for design in designs]
    if len(set(names)) < len(names):
        raise ValueError(f"designs={names} has a name twice. Files are named after designs: give each its own.")
    sections = make_sections(runs, designs, matches, bounds)
    pictures = folder / FIGURES
    pictures.mkdir(parents=True, exist_ok=True)
    _remove_earlier(folder)
    drawn = _Drawn(pictures)
    for section in sections:
        drawn.section(section)
    content = archive(title, sections, drawn.curves, notes, left_out)
    content["figures"] = [path.name for path in drawn.paths]
    texts = {
        "table.md": as_markdown_file(title, sections, [*notes, *left_out]),
        "table.csv": as_csv_file(sections),
        "table.tex": as_latex_file(title, sections, notes),
        ARCHIVE: _as_json(content),
        PAGE: as_page(title, sections, drawn.figures, notes, left_out),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [*(folder / name for name in texts), *drawn.paths]


class _Drawn:
    """Figures as they are drawn."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[Path] = []
        self.figures: dict[tuple[str | None, str, str | None], list[PageFigure]] = {}
        self.curves: dict[tuple[str | None, str], Sequence[CurveSet]] = {}

    def section(self, section: Section) -> None:
        for table in section.tables:
            if table.rows:
                self._table(section, table)
        for design in section.designs:
            data_sets = [table.data_set for table in section.tables if table.design is design and table.data_set]
            sets = curve_sets(section.runs, design, data_sets[0] if data_sets else "")
            self.curves[section.regime, design.name] = sets
            for one in sets:
                stem = _stem(section, design.name, one.name)
                where = (section.regime, design.name, None)
                self._add(where, draw_curves(one, self.folder, stem), _curve_caption(one))

    def _table(self, section: Section, table: Table) -> None:
        where = (section.regime, table.design.name, table.match)
        title = table_title(table)
        stem = _stem(section, table.design.name, table.match)
        of_seeds = "One dot per seed; the large dot is their mean"
        of_seeds += "." if table.is_one_seed else ", the line its 95 % interval over seeds."
        beyond = " Arrowhead: the interval goes on beyond what a score can be."
        of_seeds += beyond * any(goes_beyond(row.statistics.over_seeds, 0) for row in table.rows)
        self._add(where, draw_ladder(table, self.folder, f"{stem}-rows"), f"{title}. {of_seeds}")
        found = [compared(row, name) for row in table.rows for name in ("previous", "first")]
        is_cut = any(one is not None and goes_beyond(one.over_seeds, -100) for one in found)
        forest = draw_forest(table, self.folder, f"{stem}-differences")
        self._add(where, forest, f"{title}: differences with 95 % intervals. Hollow: not resolved.{beyond * is_cut}")

    def _add(self, where: tuple[str | None, str, str | None], paths: Sequence[Path], caption: str) -> None:
        self.paths += paths
        for path in (one for one in paths if one.suffix == ".svg"):
            markup = for_page(path.read_text(encoding="utf-8"), f"f{len(self.paths)}", as_html(caption))
            self.figures.setdefault(where, []).append(PageFigure(markup, caption))


def _remove_earlier(folder: Path) -> None:
    """Removes the figures that an earlier report says it has. Whatever else lies beside them is not ours."""
    try:
        names = read_archive(folder).get("figures", [])
    except ArchiveError:
        return
    for name in names if isinstance(names, list) else ():
        # Written by a program, but read from a file that anyone may have changed
        if isinstance(name, str) and Path(name).name == name and name.endswith((".png", ".svg")):
            (folder / FIGURES / name).unlink(missing_ok=True)


def _curve_caption(one: CurveSet) -> str:
    return f"{capitalised(one.title)} over {AXIS_LABELS[one.axis]}: mean over seeds, band over their middle half."


def _stem(section: Section, *parts: str) -> str:
    names = [*([] if section.regime is None else [section.regime]), *parts]
    return "-".join(file_name(visible(name)) for name in names)


def _as_json(content: Mapping[str, Any]) -> str:
    # ASCII alone: a name may hold half of a surrogate pair
    return json.dumps(content, indent=1, allow_nan=False, default=_number) + "\n"


def _number(value: Any) -> Any:
    if hasattr(value, "item"):  # a number of numpy
        return value.item()
    raise TypeError(f"{value!r} cannot be written as JSON.")
