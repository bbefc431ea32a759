"""
The page: one file that opens offline and asks nobody for anything.

All text goes through `as_html`; what surrounds the body is in `document`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..results import RunResult
from .checks import Check, manipulation_of
from .document import as_document
from .escaping import as_html
from .grids import PAPER, asked, difference_grids, matched, row_grid
from .numbers import plain, points
from .page_tables import figure_as_html, folded, grid_as_html, listed, texts_as_html, values_as_html
from .samples import samples_as_html
from .sections import Section
from .settings import ABSENT, described, differing, settings_of
from .tables import Table, compared, row_keys, runs_of_rows
from .writers import READING, capitalised, table_title


@dataclass(frozen=True)
class PageFigure:
    """A figure of the page: markup of the SVG and what it shows."""

    svg: str
    caption: str


Figures = Mapping[tuple[str | None, str, str | None], Sequence[PageFigure]]  # by regime, design and match


def as_page(
    title: str, sections: Sequence[Section], figures: Figures, notes: Sequence[str], left_out: Sequence[str]
) -> str:
    """
    Returns the page.

    Args:
        title (`str`):
            Its title.
        sections (`Sequence[Section]`):
            The sections.
        figures (`dict[tuple[str | None, str, str | None], Sequence[PageFigure]]`):
            Figures by regime, design and what was matched; the curves of a design have `None` for that.
        notes, left_out (`Sequence[str]`):
            Lines of the report.
    """
    body = [f"<h1>{as_html(title)}</h1>", _facts(sections), _links(sections), listed(notes), _in_short(sections)]
    body += [_section(number, section, figures) for number, section in enumerate(sections)]
    body.append(f'<h2 id="reading">How to read this</h2>{listed(READING)}')
    if left_out:
        body.append(f'<h2 id="left-out">Files that take no part</h2>{listed(left_out)}')
    return as_document(title, body)


def _facts(sections: Sequence[Section]) -> str:
    runs = [run for section in sections for run in section.runs]
    tables = [table for section in sections for table in section.tables if table.rows]
    facts = {
        "runs": len(runs),
        "rows": len({run.row.key for run in runs}),
        "seeds": len({run.seed for run in runs}),
        "regimes": len(sections),
        "questions": max((len(table.questions) for table in tables), default=0),
    }
    return f'<dl class="facts">{"".join(f"<div><dt>{k}</dt><dd>{v:,}</dd></div>" for k, v in facts.items())}</dl>'


def _links(sections: Sequence[Section]) -> str:
    links = [(f"section-{number}", section.title) for number, section in enumerate(sections)]
    links.append(("reading", "How to read this"))
    return "<nav>" + "".join(f'<a href="#{name}">{as_html(title)}</a>' for name, title in links) + "</nav>"


def _in_short(sections: Sequence[Section]) -> str:
    lines = [line for section in sections for table in section.tables if (line := _summary(section, table))]
    return f"<h2>In short</h2>{listed(lines)}" if lines else ""


def _summary(section: Section, table: Table) -> str:
    found = [one for row in table.rows if (one := compared(row, table.reference)) is not None]
    if not found:
        return ""
    where = table_title(table) if section.regime is None else f"{section.regime}: {table_title(table)}"
    to = f"{table.reference} row"
    if table.is_one_seed:
        return f"{where}: one seed, so no difference can be told from noise."
    resolved = [f"{one.row} ({points(one.mean)})" for one in found if one.is_resolved]
    said = f": {', '.join(resolved)}" if resolved else ""
    return f"{where}: {len(resolved)} of {len(found)} differences to the {to} resolved{said}."


def _section(number: int, section: Section, figures: Figures) -> str:
    parts = [f'<h2 id="section-{number}">{as_html(section.title)}</h2>', listed(section.problems, "problems")]
    for design in section.designs:
        for table, checks in zip(section.tables, section.checks, strict=True):
            if table.design is not design:
                continue
            parts.append(_table(table, checks, figures.get((section.regime, design.name, table.match), ())))
        curves = figures.get((section.regime, design.name, None), ())
        if curves:
            shown = "".join(figure_as_html(one.svg, one.caption) for one in curves)
            heading = as_html(f"{capitalised(design.name)}, on the way")
            parts.append(f'<h3>{heading}</h3><div class="figures">{shown}</div>')
    named = _named_rows(section)
    samples = samples_as_html(named)
    parts += [
        _manipulation(named),
        f"<h3>Sample completions</h3><p class=soft>Of the last policies; untrusted text.</p>{samples}"
        if samples
        else "",
        _settings(section, dict.fromkeys(name for name, _ in named)),
    ]
    return "\n".join(filter(None, parts))


def _named_rows(section: Section) -> list[tuple[str, list[RunResult]]]:
    """The rows of all designs with their runs, each once, under the name of the first design that has it."""
    rows: dict[str, tuple[str, list[RunResult]]] = {}
    for design in section.designs:
        by_key = runs_of_rows(section.runs, design)
        for row, key in zip(design.rows, row_keys(design), strict=True):
            if by_key[key]:
                rows.setdefault(key, (row.name, list(by_key[key].values())))
    return list(rows.values())


def _table(table: Table, checks: Sequence[Check], figures: Sequence[PageFigure]) -> str:
    title = table_title(table)
    parts = [f"<h3>{as_html(title)}</h3>"]
    if table.rows:
        parts.append(f"<p>{as_html(f'{asked(table)} {matched(table)}')}</p>")
    parts.append(listed(table.problems, "problems"))
    if table.rows:
        parts.append(grid_as_html(row_grid(table), title))
        parts.append(f"<p class=soft>{as_html(PAPER)}</p>" if any(r.paper is not None for r in table.rows) else "")
    if figures:
        shown = "".join(figure_as_html(one.svg, one.caption) for one in figures)
        parts.append(f'<div class="figures">{shown}</div>')
    for number, (heading, grid) in enumerate(difference_grids(table)):
        shown = grid_as_html(grid, f"{title}: {heading}")
        # The design is about the first; the others are at hand
        parts.append(folded(heading, shown) if number else f"<h4>{as_html(heading)}</h4>{shown}")
    parts += [_checks(checks), _other_data_sets(table)]
    return "\n".join(filter(None, parts))


_TAGS = {"finding": "finding", "resolved": "resolved"}


def _checks(checks: Sequence[Check]) -> str:
    items = [
        f'<li><span class="tag {_TAGS.get(one.verdict, "doubt")}">{one.verdict}</span> {as_html(one.sentence)}</li>'
        for one in checks
    ]
    return f"<h4>Did each technique act?</h4><ul>{''.join(items)}</ul>" if items else ""


def _other_data_sets(table: Table) -> str:
    names = list(dict.fromkeys(name for row in table.rows for name in row.others or {}))
    if not names:
        return ""
    rows = [
        [
            row.row.name,
            *(plain(100 * row.others[name]) if row.others and name in row.others else "–" for name in names),
        ]
        for row in table.rows
    ]
    return folded("Further data sets: mean accuracy %", texts_as_html(["row", *names], rows, "further data sets"))


def _manipulation(named: Sequence[tuple[str, list[RunResult]]]) -> str:
    values = {name: manipulation_of(runs) for name, runs in named}
    metrics = list(dict.fromkeys(metric for own in values.values() for metric in own))
    if not metrics:
        return ""
    rows = [[name, *(plain(own[one]) if one in own else "–" for one in metrics)] for name, own in values.items()]
    table = texts_as_html(["row", *metrics], rows, "manipulation checks")
    return f"<h3>How often each technique acted</h3><p class=soft>Means over the run and over seeds.</p>{table}"


def _settings(section: Section, names: Mapping[str, None]) -> str:
    settings = settings_of(section.runs)
    keyed = {
        key: row.name
        for design in reversed(section.designs)
        for row, key in zip(design.rows, row_keys(design), strict=True)
    }
    # As the tables have them; runs come by their paths
    place = {key: at for at, key in enumerate(dict.fromkeys(key for one in section.designs for key in row_keys(one)))}
    fields = list(dict.fromkeys(name for own in settings.own.values() for name in own))
    rows = [
        [keyed.get(key, key), *(own.get(name, ABSENT) for name in fields)]
        for key, own in sorted(settings.own.items(), key=lambda one: place.get(one[0], 0))
    ]
    shared = {name: [value] for name, value in settings.shared.items()}
    differs = listed(differing(section.runs)) or "<p>Nothing besides what the rows change.</p>"
    environment = values_as_html(described(run.environment for run in section.runs), ("what", "value"), "environment")
    checkpoint = values_as_html(described(run.checkpoint for run in section.runs), ("what", "value"), "checkpoint")
    own = texts_as_html(["row", *fields], rows, "config by row") if fields else ""
    return "\n".join(
        [
            "<h3>What differs between runs</h3>",
            differs,
            f"<h3>Config by row</h3>{own}" if own else "",
            folded("Config that all rows share", values_as_html(shared, ("field", "value"), "shared config")),
            f"<h3>Which checkpoint was evaluated, and why</h3>{checkpoint}" if checkpoint else "",
            f"<h3>Versions, hardware, commit</h3>{environment}" if environment else "",
        ]
    )
