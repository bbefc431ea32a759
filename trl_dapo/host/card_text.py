"""
Text of a model card: Markdown from names and sentences that nobody has looked at.

Names of folders, data sets and functions can hold anything. In a card they stand as code, and sentences are escaped,
so that neither can end the front matter, open a tag or start a heading.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Section:
    """
    A part of a card below its own heading.

    Args:
        title (`str`):
            The heading.
        body (`str`):
            Markdown.
    """

    title: str
    body: str

    def __str__(self) -> str:
        return f"## {self.title}\n\n{self.body.strip()}\n"


def plain(text: Any) -> str:
    """Returns a text as one line without control characters."""
    kept = "".join(character if character.isprintable() else " " for character in str(text))
    return " ".join(kept.split())


def as_name(text: Any) -> str:
    """Returns a name of letters, digits and `._+-` alone, everything else as an underscore."""
    return re.sub(r"[^\w.+-]+", "_", str(text)) or "_"


def as_code(text: Any) -> str:
    """Returns a text as code, in which nothing is interpreted."""
    return f"`{plain(text).replace('`', chr(39)) or ' '}`"


def escaped(text: Any) -> str:
    """Returns a sentence in which no character has a meaning for Markdown or HTML."""
    found = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", found)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table whose cells are Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    # Also within code, a bar ends the cell
    return re.sub(r"(?<!\\)\|", r"\\|", text)
