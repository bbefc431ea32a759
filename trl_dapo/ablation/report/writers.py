"""
The tables as Markdown, CSV and LaTeX.
"""

import csv
import io
from collections.abc import Callable, Sequence

from ..statistics import Difference, Interval
from .checks import Check
from .escaping import as_csv, as_latex, as_markdown, as_markdown_line
from .grids import PAPER, REFERENCES, Grid, asked, difference_grids, matched, row_grid
from .numbers import verdict
from .sections import Section
from .tables import Table, compared


READING = (
    "Accuracy is the mean over seeds and questions. IQM is the interquartile mean: the mean over seeds without the "
    "best and the worst quarter of them.",
    "Intervals are at 95 %. The interval over seeds says how far a number would move with other seeds; the one over "
    "seeds × questions, with other seeds and other questions.",
    "A difference is one row minus another, in points of accuracy, paired by seed and question. Resolved: the "
    "interval over seeds leaves out 0. Not resolved: it holds 0, so these runs cannot tell the difference from none. "
    "Each interval stands by itself: where no technique has an effect, about one difference in twenty is resolved by "
    "chance.",
    "p (Holm) is the p-value of a sign-flip permutation test over seeds, corrected for all differences to the same "
    "reference in its table. Few seeds bound it from below: with six, one difference reaches 0.03, and five reach "
    "0.16.",
    "The probability of improvement is the chance that a run of the row beats a run of the other, whatever their "
    "seeds. Wins are the seeds on which the row is better. Seeds needed: with so many a paired t-test would find a "
    "difference of this size and spread four times in five.",
)
LEGEND = " ".join(READING)


def table_title(table: Table) -> str:
    """Returns the heading of a table."""
    return f"{capitalised(table.design.name)}, matched by {table.match}"


def capitalised(text: str) -> str:
    """Returns the text with a capital at its start and the rest as it is."""
    return f"{text[:1].upper()}{text[1:]}"


# ---------------------------------------------------------------------------------------------------------- Markdown


def as_markdown_file(title: str, sections: Sequence[Section], notes: Sequence[str]) -> str:
    """Returns all tables as Markdown."""
    parts = [f"# {as_markdown(title)}"]
    if notes:
        parts.append(_markdown_list(notes))
    for section in sections:
        parts.append(f"## {as_markdown(section.title)}")
        parts.extend([_markdown_list(section.problems)] if section.problems else [])
        parts.extend(
            part for one in zip(section.tables, section.checks, strict=True) for part in _markdown_table(*one)
        )
    parts += ["## How to read this", _markdown_list(READING)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table, found: Sequence[Check]) -> list[str]:
    parts = [f"### {as_markdown(table_title(table))}"]
    if table.problems:
        parts.append(_markdown_list(table.problems))
    if table.rows:
        parts += [as_markdown_line(f"{asked(table)} {matched(table)}"), _markdown_grid(row_grid(table))]
        parts += [PAPER] if any(row.paper is not None for row in table.rows) else []
        for heading, grid in difference_grids(table):
            parts += [f"{heading}:", _markdown_grid(grid)]
        checks = [f"{one.verdict}: {one.sentence}" for one in found]
        parts += ["Did each technique act?", _markdown_list(checks)] if checks else []
    return parts


def _markdown_list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {as_markdown_line(line)}" for line in lines)


def _markdown_grid(grid: Grid) -> str:
    rule = ["---"] * grid.texts + ["---:"] * (len(grid.columns) - grid.texts)
    lines = [map(as_markdown, grid.columns), rule, *([as_markdown(cell.text) for cell in row] for row in grid.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --------------------------------------------------------------------------------------------------------------- CSV


def as_csv_file(sections: Sequence[Section]) -> str:
    """Returns all tables as one CSV: a line for each row of each table, shares from 0 to 1 and unrounded."""
    lines = [
        _csv_line(section, table, number)
        for section in sections
        for table in section.tables
        for number in _rows(table)
    ]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns or ["regime", "design", "match"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: as_csv(v) if isinstance(v, str) else v for name, v in line.items()} for line in lines)
    return file.getvalue()


def _rows(table: Table) -> range:
    return range(len(table.rows))


def _csv_line(section: Section, table: Table, number: int) -> dict[str, object]:
    row, found = table.rows[number], table.rows[number].statistics
    line: dict[str, object] = {
        "regime": section.regime or "",
        "design": table.design.name,
        "match": table.match,
        "data_set": table.data_set,
        "row": row.row.name,
        "key": row.key,
        "seeds": found.seeds,
        "questions": found.questions,
        "accuracy": found.mean,
        **_ends("accuracy_over_seeds", found.over_seeds),
        **_ends("accuracy_over_both", found.over_both),
        "iqm": found.iqm,
    }
    for name in REFERENCES:
        line |= _csv_difference(f"to_{name}", compared(row, name))
    line |= {f"{name}_mean": one.mean for name, one in row.spent.items()}
    return line | {"truncated": row.truncated, "mean_length": row.mean_length, "paper_percent": row.paper}


def _csv_difference(name: str, found: Difference | None) -> dict[str, object]:
    fields = ("other", "seeds", "mean", "improvement", "wins", "p_value", "p_holm", "seeds_needed")
    return {
        **{f"{name}_{field}": None if found is None else getattr(found, field) for field in fields},
        **_ends(f"{name}_over_seeds", None if found is None else found.over_seeds),
        **_ends(f"{name}_over_both", None if found is None else found.over_both),
        f"{name}_verdict": None if found is None else verdict(found),
    }


def _ends(name: str, found: Interval | None) -> dict[str, object]:
    return {f"{name}_low": None if found is None else found.low, f"{name}_high": None if found is None else found.high}


# ------------------------------------------------------------------------------------------------------------- LaTeX


def as_latex_file(title: str, sections: Sequence[Section], notes: Sequence[str]) -> str:
    r"""
    Returns all tables as LaTeX: a `table` environment for rows and one for each kind of difference. They need no
    package, and UTF-8 text.
    """
    lines = [f"% {as_latex(title)}", *(f"% {as_latex(note)}" for note in notes)]
    for section in sections:
        lines.append(f"% {as_latex(section.title)}")
        lines += [f"% {as_latex(problem)}" for problem in section.problems]
        for table in section.tables:
            lines.append(f"% {as_latex(table_title(table))}")
            lines += [f"% {as_latex(problem)}" for problem in table.problems]
            lines += _latex_table(section, table)
    return "\n".join(lines) + "\n"


def _latex_table(section: Section, table: Table) -> list[str]:
    if not table.rows:
        return []
    heading = table_title(table) if section.regime is None else f"{table_title(table)}; regime {section.regime}"
    paper = PAPER if any(row.paper is not None for row in table.rows) else ""
    # What a table lacks belongs under it wherever it is copied to, so it stands in the caption
    caption = " ".join(filter(None, [f"{heading}.", asked(table), matched(table), *table.problems, paper]))
    lines = _latex_grid(row_grid(table), caption)
    for name, grid in difference_grids(table):
        lines += _latex_grid(grid, f"{heading}. {name}. {LEGEND}")
    return lines


def _latex_grid(grid: Grid, caption: str) -> list[str]:
    def line(texts: Sequence[str], escape: Callable[[str], str] = _latex_text) -> str:
        return " & ".join(map(escape, texts)) + r" \\"

    return [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{_latex_text(caption)}}}",
        rf"\begin{{tabular}}{{{'l' * grid.texts}{'r' * (len(grid.columns) - grid.texts)}}}",
        r"\hline",
        line(grid.columns),
        r"\hline",
        *(line([cell.text for cell in row]) for row in grid.rows),
        r"\hline",
        r"\end{tabular}",
        r"\end{table}",
    ]


def _latex_text(text: str) -> str:
    escaped = as_latex(text).replace("×", r"$\times$").replace("–", "--").replace("…", r"\dots{}")
    # After the end of a row, a bracket is an argument
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped
