"""
The groups of a training command's `--help`: what the table of groups says of the fields that its parser has.
"""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_type_hints

from .help_rows import also_choices, kind_of, option_name, taken
from .help_text import Row, Section, first_sentence, plain, shown_default
from .option_groups import TITLES, grouped
from .option_words import FIRST_PAGE, TEXTS, VALUES


# Longer texts of other libraries end after their first sentence
LONGEST_TEXT = 200


def field_sections(
    command: str, actions: Iterable[argparse.Action], kinds: Iterable[Any], front: frozenset[str] | None
) -> list[Section]:
    """
    Returns the groups of a parser's fields.

    Args:
        command (`str`):
            Name of the command, for texts of its own.
        actions (`Iterable[argparse.Action]`):
            Options of the parser.
        kinds (`Iterable[type]`):
            Dataclasses of the fields.
        front (`frozenset[str]`, *optional*):
            Fields to show in short, with their texts for the first page. By default all fields, with whole texts.
    """
    options = fields_of(actions)
    hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    shown = [name for name in options if front is None or name in front]
    sections = []
    for group, names in grouped(shown).items():
        see = None if front is None else group
        rows = tuple(_row(command, options[name], hints.get(name), actions, see) for name in names)
        heading = group if TITLES[group] == group else f"{group}: {TITLES[group]}"
        sections.append(Section(group, heading, rows))
    return sections


def fields_of(actions: Iterable[argparse.Action]) -> dict[str, argparse.Action]:
    """Returns the option of each field by the field's name; of a field and its negation, the field's own."""
    found: dict[str, argparse.Action] = {}
    for action in actions:
        if action.help != argparse.SUPPRESS and f"--{action.dest}" in action.option_strings:
            found.setdefault(action.dest, action)
    return found


def _row(
    command: str, action: argparse.Action, hint: Any, actions: Iterable[argparse.Action], group: str | None
) -> Row:
    name = action.dest
    text = _text(command, action, is_first_page=group is not None)
    if _own(VALUES, command, name) is None:
        text = f"{text} {also_choices(action, group)}".strip()
    is_negatable = any(f"--no_{name}" in other.option_strings for other in actions)
    # A file can turn off what is on by default
    default = "off" if is_negatable and action.default is False else shown_default(action.default)
    if default is not None:
        text = f"{text.removesuffix('.')} ({default})"
    option = f"--[no_]{name}" if is_negatable else f"{option_name(action)} {_value(command, action, hint)}"
    return Row(option.strip(), text)


def _text(command: str, action: argparse.Action, is_first_page: bool) -> str:
    short = _own(FIRST_PAGE, command, action.dest) if is_first_page else None
    text = short or _own(TEXTS, command, action.dest)
    if text is not None:
        return text if is_first_page else f"{text[0].upper()}{text[1:]}."
    whole = plain(action.help)
    return first_sentence(whole) if is_first_page or len(whole) > LONGEST_TEXT else whole


def _value(command: str, action: argparse.Action, hint: Any) -> str:
    # A switch, which also takes true or false
    if action.nargs == "?":
        return ""
    if action.choices is None and action.nargs is None:
        # The parser's own type is a function where a field can be none
        kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
        return _own(VALUES, command, action.dest) or kind_of(action.dest, kinds[0] if len(kinds) == 1 else None)
    return _own(VALUES, command, action.dest) or taken(action)


def _own(table: Mapping[str, Any], command: str, name: str) -> Any:
    return table.get(f"{command}.{name}", table.get(name))
