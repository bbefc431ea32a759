"""
`--help` that can be read: a parser with a short first page, `--help all`, and `--help GROUP`.
"""

import argparse
from typing import Any

from .commands import COMMANDS
from .errors import UsageError
from .help_rows import needed_words, row_of
from .help_text import Section, paragraph, plain, section_lines, width_of_terminal


ALL = "all"


class ShowHelp(argparse.Action):
    """`--help [all|GROUP]`: prints a page and ends the program."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        # A word behind it can be one that the command takes, such as the folder of a run
        is_group = values in (ALL, *parser.group_names())
        if not is_group and (values in COMMANDS or any(not action.option_strings for action in parser._actions)):
            values = None
        print(parser.help_page(values), end="")
        parser.exit()


class GroupedHelp(argparse.ArgumentParser):
    """A parser whose `--help` shows its options in groups, one line each where they fit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, add_help=False, **kwargs)
        hidden = argparse.SUPPRESS
        self.add_argument("-h", "--help", nargs="?", default=hidden, action=ShowHelp, help=hidden)

    def format_help(self) -> str:
        """Returns the first page."""
        return self.help_page(None)

    def help_page(self, group: str | None) -> str:
        """
        Returns a page of the help, with a line break at its end.

        Args:
            group (`str`, *optional*):
                `"all"`, or the name of a group. By default the first page.

        Raises:
            [`UsageError`]: If there is no such group.
        """
        names = self.group_names()
        if group not in (None, ALL, *names):
            raise UsageError(f"--help {group}: no group has this name. The groups are {', '.join(names)}, and {ALL}.")
        width = width_of_terminal()
        sections = self.sections(is_first_page=group is None)
        if group in names:
            lines = section_lines([section for section in sections if section.name == group], width)[1:]
        else:
            lines = [*self._beginning(width), *section_lines(sections, width)]
        end = self.ending(width, group)
        return "\n".join([*lines, *([""] if end else []), *end]) + "\n"

    def group_names(self) -> list[str]:
        """Returns the names that `--help` takes, in the order of the groups."""
        return [section.name for section in self.sections(is_first_page=False)]

    def sections(self, is_first_page: bool) -> list[Section]:
        """Returns the groups of options that a page shows; here, those of argparse, all of them on the first page."""
        own = [group for group in self._action_groups if group not in (self._positionals, self._optionals)]
        members = {"options": [*self._positionals._group_actions, *self._optionals._group_actions]}
        members |= {group.title or "": group._group_actions for group in own}
        found = []
        for title, actions in members.items():
            name = title.split()[0]
            shown = [action for action in actions if action.help != argparse.SUPPRESS]
            rows = tuple(row_of(action, name if is_first_page and own else None) for action in shown)
            found += [Section(name, f"{title}:", rows)] if rows else []
        return found

    def ending(self, width: int, group: str | None) -> list[str]:
        """Returns the last lines of a page."""
        names = self.group_names()
        lines = self.epilog.splitlines() if self.epilog and group is None else []
        words = f"--help {ALL} shows each text in full; --help GROUP one group of {', '.join(names)}."
        return lines if len(names) == 1 else [*lines, *paragraph(words, width)]

    def _beginning(self, width: int) -> list[str]:
        usage = self.usage or " ".join([self.prog, *needed_words(self._actions), "[options]"])
        return [*paragraph(f"usage: {usage}", width, "  "), "", *paragraph(plain(self.description), width)]
