"""
Reads docstrings in the Hugging Face dialect: sections, entries with types and defaults, and links.

In here: text only. Not in here: what the site makes of it (`docstrings`).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path


TITLES = ("Args", "Parameters", "Attributes", "Returns", "Yields", "Raises", "Example", "Examples")
SECTION = re.compile(rf"^({'|'.join(TITLES)}):$")
ENTRY = re.compile(r"^(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \((?P<type>.+?)\))?:(?: (?P<text>.+))?$")
REFERENCE = re.compile(r"^::: (\S+)$", re.M)
# Their names are shown in full, since this package has some of the same
HOSTS = ("trl", "transformers", "peft", "datasets", "accelerate", "torch")
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
