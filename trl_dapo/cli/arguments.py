"""
The arguments of a command, parsed by TRL's parser, with one-line errors.

The parser knows which fields the user set, in the file or on the command line, and fills in the others before any
config is constructed. The configs are as strict here as in Python.
"""

import argparse
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn, cast

from transformers import TrainingArguments
from trl import DatasetMixtureConfig, ModelConfig, RewardConfig, ScriptArguments, TrlParser

from trl_dapo.host.planned_config import planned
from trl_dapo.ppo.config import PPOConfig

from .arena_defaults import fill_in, is_arena_run
from .config_file import read_config_file, without_config
from .errors import UsageError, one_line
from .field_help import field_sections, fields_of
from .field_types import check_values
from .grouped_help import GroupedHelp
from .help_text import Section, paragraph
from .option_groups import FRONT
from .quantized_defaults import check_adapters, fill_in_quantized
from .spelling import nearest
from .target import SetAside


class Arguments(NamedTuple):
    """What was parsed, in the order of the parameters of the script's `main`."""

    script_args: Any
    training_args: Any
    model_args: ModelConfig
    dataset_args: DatasetMixtureConfig


class CommandParser(GroupedHelp, TrlParser):
    """
    TRL's parser; all its errors are [`UsageError`]s.

    Args:
        dataclass_types (`Iterable[type]`, *optional*):
            Dataclasses of which the fields are arguments.
        arena_defaults (`Mapping[str, Any]`, *optional*):
            Fields of a run that names neither a model nor a dataset.
        command (`str`, *optional*, defaults to `"dapo"`):
            Name of the command, which decides what the first page of its help shows.

    Attributes:
        processes (`int`): how many processes share the batch.
        notes (`list[str]`): one line for each default that gave way to a field that the user set.
        is_for_another_machine (`bool`): whether this machine's card says nothing about the run's.
        change (`Callable[[dict], None]`): what changes the values, by field, before any config is made of them.
    """

    def __init__(
        self,
        dataclass_types: Any = None,
        arena_defaults: Mapping[str, Any] | None = None,
        command: str = "dapo",
        **kwargs: Any,
    ) -> None:
        super().__init__(dataclass_types=dataclass_types, **kwargs)
        self.command = command
        self.arena_defaults = arena_defaults
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.notes: list[str] = []
        self.change: Callable[[dict[str, Any]], None] = lambda values: None
        self.is_for_another_machine = False
        self._is_planning = False
        self._scores = any(issubclass(cast(type, kind), RewardConfig) for kind in self.dataclass_types)
        self._scales_losses = not any(issubclass(cast(type, kind), PPOConfig) for kind in self.dataclass_types)
        self._set_aside = SetAside({})
        self._file_values: dict[str, Any] = {}
        for action in self._actions:
            # A `bool | None` may be written without a value, like a `bool`
            if _kind(action) == "string_to_bool" and action.nargs is None:
                action.nargs, action.const = "?", True

    def plan_for(self, processes: int) -> None:
        """Makes the parser construct configs for that many processes, none of which is this one."""
        self.processes, self._is_planning = processes, True
        kinds = [
            planned(kind, processes) if issubclass(cast(type, kind), TrainingArguments) else kind
            for kind in self.dataclass_types
        ]
        self.dataclass_types = cast(list, kinds)

    def parse(self, argv: list[str]) -> Arguments:
        """Returns the configs that the file and the command line give; words that name no field are ignored."""
        parsed = self.parse_args_and_config(argv, return_remaining_strings=True)
        return Arguments(*cast(list[Any], parsed[:4]))

    def unknown_words(self, argv: list[str]) -> tuple[list[str], list[str]]:
        """Returns the words that name no field, of the file and of the command line; `--help` prints and exits."""
        values, words = _without_config_flag(argv)
        from_file = self.set_defaults_with_config(**values)
        return from_file, super().parse_known_args(words)[1]

    def nearest_option(self, word: str) -> str | None:
        """Returns the option most like a misspelt one, or `None`."""
        # Of the two spellings that a field has, the one with underscores
        options = [f"--{action.dest}" for action in self._actions if f"--{action.dest}" in action.option_strings]
        return nearest(word, options)

    def sections(self, is_first_page: bool) -> list[Section]:
        """Returns the groups of the table, with the fields that the parser has."""
        front = FRONT.get(self.command, FRONT["dapo"]) if is_first_page else None
        return field_sections(self.command, self._actions, cast(list, self.dataclass_types), front)

    def ending(self, width: int, group: str | None) -> list[str]:
        """Returns where the other options are, and how a page is read."""
        groups, count = ", ".join(self.group_names()), len(fields_of(self._actions))
        words = [
            "In parentheses: the default. --no_X turns X off. FILE is YAML with these names.",
            f"--help all shows all {count} options, --help GROUP those of one group: {groups}.",
        ]
        return [line for one in words for line in paragraph(one, width)]

    def error(self, message: str) -> NoReturn:
        """Raises the message as a [`UsageError`]; argparse would print all options before it."""
        raise UsageError(re.sub(r"^argument (--\w+)[^:]*:", r"\1:", message))

    def set_defaults_with_config(self, **kwargs: Any) -> list[str]:
        """Takes the values of a file; each counts as set by the user."""
        kwargs.pop("env", None)
        self._take_file(kwargs)
        return super().set_defaults_with_config(**kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        """Parses, then fills in the fields that the user did not set."""
        namespace, unknown = super().parse_known_args(args, namespace)
        given = {*self._file_values, *self.written_values(args)[0]}
        for action in self._actions:
            # argparse takes `--name=--` for no value at all
            if action.nargs is None and getattr(namespace, action.dest, None) == []:
                self.error(f"argument --{action.dest}: expected one argument")
        _check_text(vars(namespace))
        self.notes = []
        self._fill_in(vars(namespace), given)
        self.change(vars(namespace))
        if self._is_planning and vars(namespace).get("dry_run"):
            self._set_aside = SetAside.take(vars(namespace))
        return namespace, unknown

    def parse_args_into_dataclasses(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Constructs the configs; a value that they refuse becomes a one-line error."""
        try:
            parsed = super().parse_args_into_dataclasses(*args, **kwargs)
        except UsageError:
            raise
        except Exception as error:
            # Only the user's values are in play: whatever a config trips over is one of them
            raise UsageError(_refused(error)) from error
        for one in parsed:
            self._set_aside.put_back(one)
            if isinstance(one, ScriptArguments):
                cast(Any, one).notes = self.notes
        return parsed

    def _fill_in(self, values: dict[str, Any], given: set[str]) -> None:
        """Writes the command's own defaults into the fields that the user did not set."""
        if self.arena_defaults is not None and is_arena_run(values):
            fill_in(values, given, self.arena_defaults)
        elsewhere = bool(self.is_for_another_machine or values.get("dry_run"))
        self.notes += fill_in_quantized(values, given, self._scores, self._scales_losses, elsewhere)
        check_adapters(values, self._scores)

    def written_values(self, words: Iterable[str] | None) -> tuple[dict[str, Any], list[str]]:
        """Returns the fields that words of the command line set, with their values, and the words that set none."""
        defaults = {action: action.default for action in self._actions}
        try:
            for action in self._actions:
                action.default = argparse.SUPPRESS
            namespace, unknown = super().parse_known_args(words)
            return vars(namespace), unknown
        finally:
            for action, default in defaults.items():
                action.default = default

    @property
    def file_values(self) -> dict[str, Any]:
        """The fields of the file that was read last."""
        return self._file_values

    def _take_file(self, values: dict[str, Any]) -> None:
        self._file_values = values
        for action in self._actions:
            if action.dest in values:
                _check_choice(action, values[action.dest])
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    parser._take_file(values)
        check_values(values, cast(list[type], self.dataclass_types))


def _without_config_flag(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    return read_config_file(argv), without_config(argv)


def _check_text(values: dict[str, Any]) -> None:
    """Raises for text that a config would read as JSON or as a number, and then not say which field it was."""
    for name, value in values.items():
        if not isinstance(value, str) or not (name.endswith(("_kwargs", "_config")) or name == "deepspeed"):
            continue
        if value.startswith("{"):
            try:
                json.loads(value)
            except ValueError as error:
                raise UsageError(f"{name}: {value!r} is not valid JSON: {one_line(error)}.") from error
        elif name.endswith("_kwargs"):
            raise UsageError(f'{name}: {value!r} is not a mapping. Write it as JSON, {{"name": value}}.')
    padding = values.get("pad_to_multiple_of")
    if isinstance(padding, str) and padding.lower() not in ("auto", "none", "null") and not padding.isdecimal():
        raise UsageError(f"pad_to_multiple_of: {padding!r} is neither a number of at least 1 nor 'auto'.")


def _refused(error: Exception) -> str:
    # Those that configs raise on purpose say what is wrong; others need their class to be understood
    if isinstance(error, (ValueError, ImportError, OSError, NotImplementedError)):
        return one_line(error)
    return f"the config cannot be made of these values: {type(error).__name__}: {one_line(error)}"


def _kind(action: argparse.Action) -> str:
    return getattr(action.type, "__name__", "")


def _check_choice(action: argparse.Action, value: Any) -> None:
    """Raises for a value of a file that is none of a field's choices: argparse checks words only."""
    if action.choices is not None and value is not None and value not in list(action.choices):
        quotes = " YAML reads a bare no as false: write it in quotes." if value is False else ""
        raise UsageError(f"{action.dest}: {value!r} in the config file is none of {list(action.choices)}.{quotes}")
