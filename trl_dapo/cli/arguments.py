"""
The arguments of a command, parsed by TRL's parser, with one-line errors.

The parser knows which fields the user set, in the file or on the command line, and fills in the others before any
config is constructed. The configs are as strict here as in Python.
"""

import argparse
import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn, cast

from transformers import TrainingArguments
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser

from trl_dapo.host.planned_config import planned

from .arena_defaults import fill_in, is_arena_run
from .config_file import read_config_file
from .errors import UsageError, one_line


class Arguments(NamedTuple):
    """What was parsed, in the order of the parameters of the script's `main`."""

    script_args: Any
    training_args: Any
    model_args: ModelConfig
    dataset_args: DatasetMixtureConfig


class CommandParser(TrlParser):
    """
    TRL's parser; all its errors are [`UsageError`]s.

    Args:
        dataclass_types (`Iterable[type]`, *optional*):
            Dataclasses of which the fields are arguments.
        arena_defaults (`Mapping[str, Any]`, *optional*):
            Fields of a run that names neither a model nor a dataset.

    Attributes:
        processes (`int`): how many processes share the batch.
        notes (`list[str]`): one line for each default that gave way to a field that the user set.
    """

    def __init__(
        self, dataclass_types: Any = None, arena_defaults: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(dataclass_types=dataclass_types, **kwargs)
        self.arena_defaults = arena_defaults
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.notes: list[str] = []
        self._file_values: dict[str, Any] = {}
        for action in self._actions:
            # A `bool | None` may be written without a value, like a `bool`
            if _kind(action) == "string_to_bool" and action.nargs is None:
                action.nargs, action.const = "?", True

    def plan_for(self, processes: int) -> None:
        """Makes the parser construct configs for that many processes, none of which is this one."""
        self.processes = processes
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
        options = [option for option in self._option_string_actions if not option.startswith("--no")]
        return next(iter(difflib.get_close_matches(word.split("=")[0], options, n=1)), None)

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
        given = {*self._file_values, *self._written(args)}
        self._fill_in(vars(namespace), given)
        return namespace, unknown

    def parse_args_into_dataclasses(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Constructs the configs; a value that they refuse becomes a one-line error."""
        try:
            parsed = super().parse_args_into_dataclasses(*args, **kwargs)
        except (ValueError, TypeError, ImportError, OSError) as error:
            raise UsageError(one_line(error)) from error
        for one in parsed:
            if isinstance(one, ScriptArguments):
                cast(Any, one).notes = self.notes
        return parsed

    def _fill_in(self, values: dict[str, Any], given: set[str]) -> None:
        """Writes the command's own defaults into the fields that the user did not set."""
        if self.arena_defaults is not None and is_arena_run(values):
            fill_in(values, given, self.arena_defaults)

    def _written(self, args: Iterable[str] | None) -> set[str]:
        """Returns the fields that the command line sets."""
        defaults = {action: action.default for action in self._actions}
        try:
            for action in self._actions:
                action.default = argparse.SUPPRESS
            return set(vars(super().parse_known_args(args)[0]))
        finally:
            for action, default in defaults.items():
                action.default = default

    def _take_file(self, values: dict[str, Any]) -> None:
        self._file_values = values
        for action in self._actions:
            if action.dest in values:
                _check_type(action, values[action.dest])
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    parser._take_file(values)


def _without_config_flag(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    values = read_config_file(argv)
    if "--config" not in argv:
        return values, argv
    position = argv.index("--config")
    return values, argv[:position] + argv[position + 2 :]


def _kind(action: argparse.Action) -> str:
    return getattr(action.type, "__name__", "")


def _check_type(action: argparse.Action, value: Any) -> None:
    """Raises for a value of the wrong type in a file: argparse checks words only."""
    allowed = {"int": (int,), "float": (int, float), "string_to_bool": (bool, int)}.get(_kind(action), (object,))
    is_word = value is None or isinstance(value, str)
    if isinstance(action.nargs, str) and action.nargs in "+*" and isinstance(value, list):
        return
    wrong_bool = isinstance(value, bool) and bool not in allowed and object not in allowed
    if not is_word and (wrong_bool or not isinstance(value, allowed)):
        wanted = {"int": "an integer", "float": "a number", "string_to_bool": "true or false"}[_kind(action)]
        raise UsageError(f"{action.dest}: {value!r} in the config file is not {wanted}.")
    if action.choices is not None and value is not None and value not in action.choices:
        quotes = " YAML reads a bare no as false: write it in quotes." if value is False else ""
        raise UsageError(f"{action.dest}: {value!r} in the config file is none of {list(action.choices)}.{quotes}")
