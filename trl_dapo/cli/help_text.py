"""
The lines of `--help`: sections of rows, an option on the left and what it does on the right.

In here: text only. `grouped_help.py` says which options a parser has.
"""

import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


NARROWEST, WIDEST = 60, 100
# An option that is longer has its text on the next line
LONGEST_OPTION = 33
INDENT, GAP = 2, 2

ABBREVIATIONS = ("e.g.", "i.e.", "etc.", "vs.", "approx.")


@dataclass(frozen=True)
class Row:
    """
    An option.

    Args:
        option (`str`):
            As it is written, with what it takes.
        text (`str`):
            What it does, with its default in parentheses.
    """

    option: str
    text: str


@dataclass(frozen=True)
class Section:
    """
    Options that belong together.

    Args:
        name (`str`):
            One word, which `--help` takes.
        title (`str`):
            Its heading.
        rows (`tuple[Row, ...]`):
            Its options.
    """

    name: str
    title: str
    rows: tuple[Row, ...]


def width_of_terminal() -> int:
    """Returns the columns that help may fill: those of the terminal, within reason; 80 where there is none."""
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns))


def paragraph(text: str, width: int, indent: str = "") -> list[str]:
    """Returns a text as lines of at most `width` columns, of which all but the first are indented."""
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)


def section_lines(sections: Sequence[Section], width: int) -> list[str]:
    """Returns sections as lines, each after an empty one, with all texts in one column."""
    options = [len(row.option) for section in sections for row in section.rows]
    column = INDENT + GAP + min(max(options, default=0), LONGEST_OPTION)
    lines: list[str] = []
    for section in sections:
        lines += ["", section.title]
        for row in section.rows:
            lines += _row_lines(row, column, width)
    return lines


def first_sentence(text: str) -> str:
    """Returns a text up to the end of its first sentence."""
    for end in re.finditer(r"[.!?](?=\s+[A-Z`'\"(])", text):
        if not text[: end.end()].endswith(ABBREVIATIONS):
            return text[: end.end()]
    return text


def plain(text: str | None) -> str:
    """Returns the help of a field as one line, without the marks of argparse and of Markdown."""
    words = " ".join((text or "").replace("%%", "%").split())
    return re.sub(r"\[([^\]]+)\]\(http[^)]*\)", r"\1", words)


def shown_default(value: Any) -> str | None:
    """Returns a default as help shows it; `None` for one that says nothing."""
    if value is None or value is False or value == "" or value == "==SUPPRESS==":
        return None
    if value is True:
        return "on"
    if isinstance(value, (list, tuple)):
        return " ".join(str(one) for one in value) or None
    if isinstance(value, dict):
        return str(value) if value else None
    return str(value)


def _row_lines(row: Row, column: int, width: int) -> list[str]:
    head = f"{'':{INDENT}}{row.option}"
    texts = textwrap.wrap(row.text, width - column, break_on_hyphens=False)
    if len(head) + GAP > column or not texts:
        lines, texts = [head], texts
    else:
        lines, texts = [f"{head:{column}}{texts[0]}"], texts[1:]
    return lines + [f"{'':{column}}{text}" for text in texts]
