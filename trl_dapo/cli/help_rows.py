"""
How an option of a parser is shown in `--help`: its name, what it takes, and what it does.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .help_text import Row, first_sentence, plain


# Choices up to this length stand behind the option; longer ones are listed behind its text
INLINE = 24
# Of more choices than these, the first page shows the first ones
SHOWN = 2
KINDS = {int: "N", float: "X", Path: "PATH", dict: "JSON"}


def row_of(action: argparse.Action, group: str | None = None) -> Row:
    """
    Returns the row of an option that was added by hand, whose help names its default.

    Args:
        action (`argparse.Action`):
            The option.
        group (`str`, *optional*):
            Its group, for the row on the first page, where a text ends after a sentence. By default the whole text.
    """
    text = plain(action.help)
    if group is not None:
        text = first_sentence(text)
    return Row(f"{option_name(action)} {taken(action)}".strip(), f"{text} {also_choices(action, group)}".strip())


def needed_words(actions: Iterable[argparse.Action]) -> list[str]:
    """Returns what a command cannot do without, as its usage shows it."""
    needed = [action for action in actions if action.required]
    return [f"{option_name(action)} {taken(action)}".strip() for action in needed]


def option_name(action: argparse.Action) -> str:
    """Returns an option as it is shown: of several spellings, the one with underscores."""
    own = f"--{action.dest}"
    options: Sequence[str] = action.option_strings
    if not options:
        return str(action.metavar or action.dest).upper()
    return own if own in options else options[0]


def taken(action: argparse.Action) -> str:
    """Returns what stands behind an option: its choices where they are short, else a word for the kind of value."""
    if action.nargs == 0 or not action.option_strings:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    word = action.metavar or (_braces(action) if _is_short(action) else kind_of(action.dest, action.type))
    return f"{word} ..." if action.nargs in ("+", "*") else str(word)


def also_choices(action: argparse.Action, group: str | None = None) -> str:
    """Returns a sentence with the choices that do not fit behind the option; cut where a group is named to see."""
    if action.choices is None or action.metavar is not None or _is_short(action):
        return ""
    choices = [str(one) for one in action.choices]
    if group is not None and len(choices) > SHOWN:
        choices = [*choices[:SHOWN], f"…, see --help {group}"]
    return f"One of {', '.join(choices)}."


def kind_of(name: str, kind: Any) -> str:
    """Returns a word for what a field takes."""
    if name.endswith(("_kwargs", "_config")):
        return "JSON"
    return KINDS.get(kind, "VALUE")


def _is_short(action: argparse.Action) -> bool:
    return action.choices is not None and len(_braces(action)) <= INLINE


def _braces(action: argparse.Action) -> str:
    return "{" + ",".join(str(one) for one in action.choices or ()) + "}"
