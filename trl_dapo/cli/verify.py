"""
`trl-dapo verify`: a certificate of a run before it is started, from the file and flags of its own command.

The command's parser, checks and trainer are used as they are. Nothing is written into the output folder.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from typing import Any, NoReturn

from .commands import COMMANDS, Command, command_of
from .config_file import split_config_flag
from .errors import UsageError, one_line
from .grouped_help import GroupedHelp


DEFAULT = "dapo"
UNREAD = "a dry run"
# Pairs that the trainers of preferences are made with
PAIRS = 64


def make_parser(prog: str = "trl-dapo verify") -> argparse.ArgumentParser:
    """Returns the parser of what the certificate itself takes; all other words are the command's."""
    parser = GroupedHelp(
        prog=prog,
        allow_abbrev=False,
        usage=f"{prog} [{{{','.join(COMMANDS)}}}] [--config FILE] [options] [options of that command]",
        description="Checks a run before it is started: reward, data, tokenizer, model and settings. Takes the file "
        "and the flags of `trl-dapo dapo` (or of the command that is named), trains nothing, and writes nothing. "
        "Without a model and a dataset: the built-in task. Exit code 1 if a check fails, 2 for a mistake in the "
        "input.",
    )
    parser.error = _refuse
    parser.add_argument("--prompts", type=int, default=8, help="Prompts of the probe (default: 8).")
    parser.add_argument(
        "--completions", type=int, help="Completions of each (default: num_generations, from 8 to 16)."
    )
    parser.add_argument(
        "--max_new_tokens", type=int, default=256, help="Longest completion of the probe (default: 256)."
    )
    parser.add_argument("--quick", action="store_true", help="Without a model, and without a download.")
    parser.add_argument("--json", action="store_true", help="Print the report as JSON.")
    return parser


def main(argv: list[str]) -> int:
    """Prints the certificate and returns the exit code."""
    name, words = command_of(argv, DEFAULT)
    options, words = make_parser().parse_known_args(words)
    # Transformers warns about names that TRL still uses
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # Libraries print while they load, and standard output is the report's
    with redirect_stdout(sys.stderr), _shown() as listener:
        report = _report(COMMANDS[name], split_config_flag(words), options, listener)
    if options.json:
        print(report.as_json())
    else:
        from trl_dapo.verification.display import print_report

        print_report(report)
    return report.exit_code


def _report(command: Command, words: list[str], options: argparse.Namespace, listener: Any) -> Any:
    # Imported here, because it takes seconds; the environment of the file is set by then
    from .launch import plan

    listener("the settings")
    planned = plan(command, words, f"trl-dapo verify {command.name}", also=["--dry_run", "true"])
    from trl_dapo.verification.probe import Limits

    try:
        limits = Limits(options.prompts, options.completions, options.max_new_tokens)
    except ValueError as error:
        raise UsageError(one_line(error).replace("`", "--", 1).replace("`", "", 1)) from error
    if options.quick:
        from .verify_quickly import quick_report

        return quick_report(command, planned.arguments, limits, listener)
    return _full_report(command, words, planned, limits, listener)


def _full_report(command: Command, words: list[str], planned: Any, limits: Any, listener: Any) -> Any:
    from dataclasses import replace

    from trl_dapo.verification.certificate import examine, setup_of
    from trl_dapo.verification.setup import sample_rows

    from .script import construct, make_parser
    from .this_machine import ThisMachine

    with tempfile.TemporaryDirectory(prefix="trl-dapo-verify-") as folder:
        parser = make_parser(command)
        parser.processes = planned.processes
        parser.change = change = ThisMachine(folder, planned.arguments.training_args, planned.processes)
        arguments = parser.parse(words)
        listener("model and data")
        kwargs = command.load("trainer_arguments")(arguments)
        sample = sample_rows(kwargs["train_dataset"])
        if "reward_funcs" not in kwargs:
            kwargs["train_dataset"] = _some_pairs(kwargs["train_dataset"], sample)
        trainer = construct(command, arguments, kwargs)
        setup = replace(setup_of(trainer), args=planned.arguments.training_args, sample=sample)
        # A dry run reads less than this
        notes = [note for note in planned.arguments.script_args.notes if UNREAD not in note]
        return examine(trainer, setup, limits, listener, [*notes, *change.notes])


def _some_pairs(dataset: Any, sample: Any) -> Any:
    """Returns a few rows in memory: the trainers of preferences tokenize all that they are given, and keep a copy."""
    from datasets import Dataset

    from trl_dapo.verification.setup import spread

    return Dataset.from_list(spread(sample.rows, PAIRS), features=dataset.features)


@contextmanager
def _shown() -> Generator[Any]:
    """Gives what shows, on a terminal, what is looked at."""
    if not sys.stderr.isatty():
        yield lambda line: None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("the settings") as status:
        yield lambda line: status.update(escape(line))


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"{message}. See `trl-dapo verify --help`.")
