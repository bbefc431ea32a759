"""
Runs a training command: checks it, then starts its script with `accelerate launch`, as TRL does.
"""

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .children import Ended, ended_with_us
from .command_file import LAUNCH_WORDS
from .commands import Command
from .config_file import read_config_file, set_environment, split_config_flag
from .errors import UsageError, one_line
from .launch_words import launch_words
from .quick_imports import collector_off, loaded_quietly


if TYPE_CHECKING:
    from .arguments import CommandParser

# Exit codes above it are numbers of signals
SIGNALLED = 128

# One process on the CPU. Accelerate warns about each of these that is left out
ON_CPU = ["--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


@dataclass(frozen=True)
class Plan:
    """
    A run that was checked and not started.

    Args:
        parser ([`CommandParser`]):
            Of the command.
        arguments (`Any`):
            The [`Arguments`], as its processes will have them.
        processes, machines (`int`):
            How many there will be.
        launch_args (`argparse.Namespace`):
            Arguments of `accelerate launch`.
        from_file, from_command_line (`list[str]`):
            The words that these were made from.
    """

    parser: "CommandParser"
    arguments: Any
    processes: int
    machines: int
    launch_args: argparse.Namespace
    from_file: list[str]
    from_command_line: list[str]


def plan(command: Command, argv: list[str], prog: str, also: Sequence[str] = ()) -> Plan:
    """
    Returns the run that the words ask for, or raises [`UsageError`] for the first mistake found.

    Args:
        command ([`Command`]):
            Row of the table.
        argv (`list[str]`):
            What the user wrote, after [`split_config_flag`].
        prog (`str`):
            Name of the program in its help.
        also (`Sequence[str]`, *optional*):
            Words of the command that win over the user's.
    """
    set_environment(read_config_file(argv))
    _check_releases()
    with collector_off(), loaded_quietly():
        # Imported here, because it takes seconds and its libraries read the environment
        from .script import make_parser

        parser = make_parser(command, prog=prog)
    from_file, from_command_line = parser.unknown_words(argv)
    launch_args = _launch_args(from_file, from_command_line, parser, command.module)
    processes = _processes(launch_args)
    parser.plan_for(processes)
    with _quietly():
        arguments = parser.parse([*argv, *also])
        command.load("preflight")(arguments)
    return Plan(parser, arguments, processes, _machines(launch_args), launch_args, from_file, from_command_line)


def run(command: Command, argv: list[str]) -> int:
    """Runs a command and returns its exit code."""
    argv = split_config_flag(argv)
    planned = plan(command, argv, f"trl-dapo {command.name}")
    arguments, launch_args = planned.arguments, planned.launch_args
    if arguments.script_args.dry_run:
        command.load("print_dry_run")(arguments, command.load("host_config"))
        from .plan_before import print_memory

        with _quietly():
            print_memory(command.name, arguments, planned.processes)
        return 0
    if arguments.training_args.use_cpu and not planned.from_file + planned.from_command_line:
        launch_args = _launch_args([], ON_CPU, planned.parser, command.module)
    launch_args.training_script_args = without_words(argv, planned.from_command_line)
    os.environ[LAUNCH_WORDS] = json.dumps(planned.from_command_line)
    try:
        return _launch(launch_args)
    finally:
        # For the processes of this run alone, and not for one that this process trains itself later
        del os.environ[LAUNCH_WORDS]


def _check_releases() -> None:
    """Refuses a release of TRL, or of a library below it, that the trainers would refuse later."""
    from trl_dapo.host.releases import check_releases

    try:
        check_releases()
    except ImportError as error:
        raise UsageError(one_line(error)) from error


def without_words(words: list[str], unwanted: list[str]) -> list[str]:
    """Returns `words` without the subsequence `unwanted`."""
    rest = iter([*unwanted, None])
    skipped = next(rest)
    kept = []
    for word in words:
        if word == skipped:
            skipped = next(rest)
        else:
            kept.append(word)
    return kept


@contextmanager
def _quietly() -> Generator[None]:
    """Hides warnings, which the training processes repeat, and progress bars unless there is a terminal."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _launch_args(
    from_file: list[str], from_command_line: list[str], parser: "CommandParser", script: str
) -> argparse.Namespace:
    """Returns the arguments of `accelerate launch`; a word that it does not know is a [`UsageError`]."""
    from accelerate.commands.launch import launch_command_parser

    def unknown(word: str) -> NoReturn:
        nearest = parser.nearest_option(word) if word.startswith("--") else None
        raise UsageError(
            f"unrecognized argument {word}: neither {parser.prog} nor `accelerate launch` has such an option."
            + (f" Did you mean {nearest}?" if nearest else f" See `{parser.prog} --help`.")
        )

    def refuse(message: str) -> NoReturn:
        raise UsageError(f"accelerate launch: {message}. See `accelerate launch --help`.")

    launcher = launch_command_parser()
    launcher.error = refuse
    words = launch_words(from_file, from_command_line, launcher)
    for word in words:
        # Before it parses: it would take a word that it does not know for the script
        if word.startswith("--") and not _is_option(launcher, word):
            unknown(word)
    # As a module: a file's folder would come before the user's own modules on the path
    args, rest = launcher.parse_known_args([*words, "--module", script])
    if rest or args.training_script != script:
        unknown((rest or [args.training_script])[0])
    # With it, each exit code would become 1
    args.quiet = False
    return args


def _is_option(launcher: argparse.ArgumentParser, word: str) -> bool:
    name = word.split("=", 1)[0]
    return any(option.startswith(name) for option in launcher._option_string_actions)


def _processes(args: argparse.Namespace) -> int:
    """Returns how many processes accelerate will start on all machines together."""
    import torch

    if args.num_processes is not None:
        if args.num_processes < 1:
            raise UsageError(f"num_processes must be at least 1, got {args.num_processes}.")
        return args.num_processes
    config = _config_file(args)
    return max(1, torch.cuda.device_count() if config is None else config.num_processes)


def _machines(args: argparse.Namespace) -> int:
    """Returns on how many machines accelerate will start them."""
    if args.num_machines is not None:
        return args.num_machines
    config = _config_file(args)
    return 1 if config is None else max(1, getattr(config, "num_machines", 1) or 1)


def _config_file(args: argparse.Namespace) -> Any:
    """Returns what the file says that accelerate will read, or `None` where it will read none."""
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file

    if args.config_file is None and (args.cpu or not Path(default_config_file).is_file()):
        return None
    try:
        return load_config_from_file(args.config_file)
    except Exception as error:
        # Whatever it trips over is in the user's file
        raise UsageError(f"--accelerate_config {args.config_file}: {one_line(error)}") from error


def _launch(args: argparse.Namespace) -> int:
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        with ended_with_us():
            launch_command(args)
    except (Ended, SignalException) as ended:
        return SIGNALLED + (ended.number if isinstance(ended, Ended) else ended.sigval)
    except subprocess.CalledProcessError as error:
        # The process has printed its own error; a negative code is the number of a signal
        return error.returncode if error.returncode > 0 else SIGNALLED - error.returncode
    except ChildFailedError as error:
        return max(1, *(failure.exitcode for failure in error.failures.values()))
    except (ValueError, OSError, ImportError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"accelerate launch: {one_line(error)}") from error
    return 0
