"""
The arguments of a command: TRL's, parsed by TRL's parser, with errors of one line and DAPO's toggles that yield.

The parser knows which fields were given, in the file or on the command line, and settles the others before any config
is constructed; the configs themselves stay as strict as they are in Python.
"""

import argparse
import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, cast

import torch
from transformers import TrainingArguments
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser

from .arena_run import is_arena_run, settle_arena_run
from .check_batch import check_batch
from .errors import UsageError, one_line
from .precedence import yield_to_given
from .reward_names import KNOWN


@dataclass
class DAPOScriptArguments(ScriptArguments):
    """
    What the script needs besides the configs of model and training.

    Args:
        reward_model_name_or_path (`str`, *optional*):
            Model whose score is a reward: its id on the Hub, or a folder.
        reward_funcs (`list[str]`, *optional*):
            Reward functions: `"accuracy_reward"`, `"reasoning_accuracy_reward"`, `"think_format_reward"`,
            `"get_soft_overlong_punishment"` (its widths are `max_completion_length` and `soft_punish_cache`),
            `"arena_accuracy"`, or dotted import paths.
        dry_run (`bool`, *optional*, defaults to `False`):
            Print the resolved config and the batch arithmetic, and stop.

    Attributes:
        notes (`list[str]`): one line for each default that gave way to what the user gave.
    """

    reward_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model whose score is a reward: its id on the Hub, or a folder."}
    )
    reward_funcs: list[str] | None = field(
        default=None, metadata={"help": f"Reward functions: {', '.join(KNOWN)}, or dotted import paths."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Print the resolved config and the batch arithmetic, and stop."}
    )
    notes: list[str] = field(default_factory=list, init=False)


class Arguments(NamedTuple):
    """What is parsed, in the order of the parameters of the script's `main`."""

    script_args: Any
    training_args: Any
    model_args: ModelConfig
    dataset_args: DatasetMixtureConfig


class CommandParser(TrlParser):
    """
    TRL's parser, whose every error is a [`UsageError`].

    Attributes:
        processes (`int`): how many processes the batch is shared among.
        notes (`list[str]`): one line for each default that gave way to what the user gave.
    """

    def __init__(self, dataclass_types: Any = None, **kwargs: Any) -> None:
        super().__init__(dataclass_types=dataclass_types, **kwargs)
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.notes: list[str] = []
        self._file_values: dict[str, Any] = {}
        for action in self._actions:
            # A `bool | None` may be written without a value, like a `bool`
            if _kind(action) == "string_to_bool" and action.nargs is None:
                action.nargs, action.const = "?", True

    def plan_for(self, processes: int) -> None:
        """Makes configs for a run on that many processes, none of which is this one."""
        self.processes = processes
        kinds = [
            _planned(kind, processes) if issubclass(cast(type, kind), TrainingArguments) else kind
            for kind in self.dataclass_types
        ]
        self.dataclass_types = cast(list, kinds)

    def parse(self, argv: list[str]) -> Arguments:
        """Returns the configs that the file and the command line give; words that are no field are passed over."""
        parsed = self.parse_args_and_config(argv, return_remaining_strings=True)
        return Arguments(*cast(list[Any], parsed[:4]))

    def unknown_words(self, argv: list[str]) -> tuple[list[str], list[str]]:
        """Returns what is no field: from the file, and from the command line; `--help` answers and exits."""
        values, words = _without_config_flag(argv)
        from_file = self.set_defaults_with_config(**values)
        return from_file, super().parse_known_args(words)[1]

    def nearest_option(self, word: str) -> str | None:
        """Returns the option that a misspelt one may have meant."""
        options = [option for option in self._option_string_actions if not option.startswith("--no")]
        return next(iter(difflib.get_close_matches(word.split("=")[0], options, n=1)), None)

    def error(self, message: str) -> NoReturn:
        """Raises the message, without the list of all options that argparse prints with it."""
        raise UsageError(re.sub(r"^argument (--\w+)[^:]*:", r"\1:", message))

    def set_defaults_with_config(self, **kwargs: Any) -> list[str]:
        """Takes the values of a file, each of which counts as given."""
        kwargs.pop("env", None)
        self._take_file(kwargs)
        return super().set_defaults_with_config(**kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        """Parses, then settles the fields that were not given."""
        namespace, unknown = super().parse_known_args(args, namespace)
        given = {*self._file_values, *self._written(args)}
        values = vars(namespace)
        self._settle(values, given)
        return namespace, unknown

    def parse_args_into_dataclasses(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Constructs the configs; what they refuse is an error of one line."""
        try:
            parsed = super().parse_args_into_dataclasses(*args, **kwargs)
        except (ValueError, TypeError, ImportError, OSError) as error:
            raise UsageError(one_line(error)) from error
        for one in parsed:
            if isinstance(one, ScriptArguments):
                cast(Any, one).notes = self.notes
        return parsed

    def _settle(self, values: dict[str, Any], given: set[str]) -> None:
        """Gives the fields that were not given the values that they have in this command."""

    def _written(self, args: Iterable[str] | None) -> set[str]:
        """Returns the fields that the command line itself sets."""
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


class DAPOParser(CommandParser):
    """The parser of `trl-dapo dapo`."""

    def _settle(self, values: dict[str, Any], given: set[str]) -> None:
        if isinstance(values["reward_funcs"], str):
            # A single name in a file
            values["reward_funcs"] = [values["reward_funcs"]]
        if is_arena_run(values):
            settle_arena_run(values, given)
        self.notes = yield_to_given(values, given)
        check_batch(values, self.processes)


def _without_config_flag(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    from .config_file import read_config_file

    values = read_config_file(argv)
    if "--config" not in argv:
        return values, argv
    place = argv.index("--config")
    return values, argv[:place] + argv[place + 2 :]


def _kind(action: argparse.Action) -> str:
    return getattr(action.type, "__name__", "")


def _check_type(action: argparse.Action, value: Any) -> None:
    """Raises for a value that argparse would let pass: it looks at words, and a file may hold anything."""
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


def _planned(kind: Any, processes: int) -> type[TrainingArguments]:
    class PlannedConfig(kind):
        """A config for processes that are not started yet."""

        @property
        def world_size(self) -> int:
            return processes

        @property
        def _setup_devices(self) -> torch.device:
            # The process that launches must not take memory on the device that the run needs
            self.distributed_state, self._n_gpu = None, 1
            return torch.device("cpu")

    return PlannedConfig
