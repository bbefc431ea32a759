"""
Makes the sections of the API reference from docstrings in the Hugging Face dialect.

In here: a griffe extension. Not in here: the dialect (`dialect`), and which objects the reference has
(`docs/reference/`). A section that is not known stays text: nothing is dropped.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import griffe


# Griffe loads this file by its path
sys.path.insert(0, str(Path(__file__).parent))
from dialect import Entry, addresses, annotation, blocks, cleaned, entries, linked


PARTS = {
    "Args": (griffe.DocstringSectionParameters, griffe.DocstringParameter),
    "Parameters": (griffe.DocstringSectionParameters, griffe.DocstringParameter),
    "Attributes": (griffe.DocstringSectionAttributes, griffe.DocstringAttribute),
}


class HuggingFaceDocstrings(griffe.Extension):
    """
    Gives each object of a package the sections of its docstring.

    Args:
        pages (`str`, *optional*, defaults to `"docs/reference"`):
            Folder of the reference: what is documented there is linked to.
    """

    def __init__(self, pages: str = "docs/reference") -> None:
        self._addresses = addresses(Path(pages))

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            # A cached property, which would else ask a parser for another dialect
            vars(obj.docstring)["parsed"] = list(self._sections(obj.docstring))

    def _address(self, name: str) -> str | None:
        """Of `DAPOConfig`, `DAPOConfig.paper` or a whole path."""
        if name in self._addresses.values():
            return name
        first, dot, member = name.partition(".")
        return f"{self._addresses[first]}{dot}{member}" if first in self._addresses else None

    def _linked(self, text: str) -> str:
        return linked(text, self._address)

    def _sections(self, docstring: griffe.Docstring) -> Iterator[griffe.DocstringSection]:
        for title, body in blocks(docstring.value):
            if title in PARTS:
                section, part = PARTS[title]
                for heading, found in entries(body):
                    yield section([self._part(part, entry, docstring) for entry in found], title=heading)
            elif title == "Raises":
                yield griffe.DocstringSectionRaises(list(self._raised(cleaned(body), docstring)))
            else:
                text = self._linked(cleaned(body))
                yield griffe.DocstringSectionText(f"**{title}:**\n\n{text}" if title else text)

    def _part(self, part: type, entry: Entry, docstring: griffe.Docstring) -> griffe.DocstringNamedElement:
        kind = griffe.parse_docstring_annotation(entry.type, docstring) if entry.type else None
        return part(entry.name, description=self._linked(entry.text), annotation=kind, value=entry.default)

    def _raised(self, body: str, docstring: griffe.Docstring) -> Iterator[griffe.DocstringRaise]:
        # A line that goes on is indented
        for item in re.split(r"\n(?! )", body):
            kind, _, text = item.partition(": ")
            name = griffe.parse_docstring_annotation(annotation(kind), docstring)
            yield griffe.DocstringRaise(annotation=name, description=self._linked(text))
