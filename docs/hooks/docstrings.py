"""
Reads docstrings in the Hugging Face dialect for the API reference.

In here: a griffe extension that makes sections of them, with types, defaults, and links to what is documented. Not in
here: which objects the reference has (`docs/reference/`).

A section that it does not know stays text, and so does what it cannot read: nothing is dropped.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path

import griffe


TITLES = ("Args", "Parameters", "Attributes", "Returns", "Yields", "Raises", "Example", "Examples")
SECTION = re.compile(rf"^({'|'.join(TITLES)}):$")
ENTRY = re.compile(r"^(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \((?P<type>.+?)\))?:(?: (?P<text>.+))?$")
REFERENCE = re.compile(r"^::: (\S+)$", re.M)
# Their names are shown in full, since this package has some of the same
HOSTS = ("trl", "transformers", "peft", "datasets", "accelerate", "torch")
PARTS = {
    "Args": (griffe.DocstringSectionParameters, griffe.DocstringParameter),
    "Parameters": (griffe.DocstringSectionParameters, griffe.DocstringParameter),
    "Attributes": (griffe.DocstringSectionAttributes, griffe.DocstringAttribute),
}
DEFAULT = re.compile(r",? *(?:\*optional\*)?,? *defaults to (`?)(.+)\1$")
LINK = re.compile(r"\[`(?P<tilde>~?)(?P<name>[\w.]+)`\]")


@dataclass(frozen=True)
class Entry:
    """
    One entry of `Args`, `Parameters` or `Attributes`.

    Attributes:
        name (`str`):
            With its stars, if it has some.
        type (`str`):
            As an annotation, empty if none is given.
        default (`str` or `None`):
            As code; `None` if the entry is not optional.
        text (`str`):
            The description.
    """

    name: str
    type: str
    default: str | None
    text: str


def blocks(text: str) -> Iterator[tuple[str | None, str]]:
    """Yields the title and the body of each section; text between sections has the title `None`."""
    title, lines = None, []
    for line in text.splitlines():
        found = SECTION.match(line)
        leaves = title is not None and line and not line.startswith(" ") and title not in ("Example", "Examples")
        if found or leaves:
            yield title, "\n".join(lines)
            title, lines = (found[1], []) if found else (None, [line])
        else:
            lines.append(line)
    yield title, "\n".join(lines)


def entries(body: str) -> Iterator[tuple[str | None, list[Entry]]]:
    """Yields the entries of a section, in groups by their heading (`> The five parts`), if there is one."""
    heading, found, lines = None, [], []
    # A list of names may take several lines
    for line in [*re.sub(r",\n(?=[*\w])", ", ", cleaned(body)).splitlines(), "> "]:
        if not line.startswith(" ") and line and lines:
            found += _entry(lines)
            lines = []
        if line.startswith("> "):
            if found:
                yield heading, found
            heading, found = line[2:], []
        elif line or lines:
            lines.append(line)


def cleaned(body: str) -> str:
    """Returns the text without the indentation that all lines share."""
    return cleandoc(f"\n{body}")


def _entry(lines: list[str]) -> list[Entry]:
    head = ENTRY.match(lines[0])
    if head is None:
        raise ValueError(f"Not an entry of the form 'name (`type`, *optional*, defaults to `x`):': {lines[0]!r}")
    kind, default = _type_and_default(head["type"] or "")
    text = cleaned("\n".join([head["text"] or "", *lines[1:]]))
    return [Entry(name, kind, default, text) for name in head["names"].split(", ")]


def _type_and_default(text: str) -> tuple[str, str | None]:
    default = DEFAULT.search(text)
    if default:
        return annotation(text[: default.start()]), default[2]
    is_optional = text.endswith("*optional*")
    return annotation(text.removesuffix("*optional*").rstrip(", ")), "None" if is_optional else None


def annotation(text: str) -> str:
    """Returns a type in prose, such as "`str` or [`~trl.GRPOConfig`]", as an annotation: `str | GRPOConfig`."""
    text = LINK.sub(lambda link: f"`{_shown(link)}`", text)
    parts = re.split(r"`,? or `|`, `", text.strip(" "))
    return " | ".join(part.strip("`") for part in parts if part.strip("`"))


def _shown(link: re.Match) -> str:
    is_own = link["name"].partition(".")[0] not in HOSTS
    return link["name"].rpartition(".")[2] if link["tilde"] and is_own else link["name"]


def addresses(pages: Path) -> dict[str, str]:
    """
    Returns the addresses of what the pages of the reference document, by the name that docstrings use.

    Args:
        pages (`Path`):
            The folder of the pages.
    """
    found = [address for page in sorted(pages.glob("*.md")) for address in REFERENCE.findall(page.read_text())]
    return {address.rpartition(".")[2]: address for address in found}


def linked(text: str, address_of: Callable[[str], str | None]) -> str:
    """
    Returns the text with [`Name`] as a reference to the object of that name, or as code where none is documented.

    Args:
        text (`str`):
            Markdown.
        address_of (`Callable[[str], str | None]`):
            The address in the reference, `None` if there is none.
    """

    def replace(link: re.Match) -> str:
        address = address_of(link["name"])
        return f"[`{_shown(link)}`][{address}]" if address else f"`{_shown(link)}`"

    # Behind a link's text there is its target: that is a link already
    return re.sub(LINK.pattern + r"(?![(\[])", replace, text)


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
