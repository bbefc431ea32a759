"""
`trl-dapo plan`: whether a run fits on a GPU, how long a step takes, and what to change, before it is started.

The run is read by its own command's parser, planned for the processes that it asks for. There is no GPU, no weight and
no download but a config file.
"""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from .commands import COMMANDS, Command, command_of
from .config_file import split_config_flag
from .errors import UsageError, one_line
from .grouped_help import GroupedHelp


DEFAULT = "dapo"


def make_parser(prog: str = "trl-dapo plan") -> argparse.ArgumentParser:
    """Returns the parser of what the plan itself takes; all other words are the command's."""
    parser = GroupedHelp(
        prog=prog,
        allow_abbrev=False,
        usage=f"{prog} [{{{','.join(COMMANDS)}}}] [--config FILE] [--gpu CARD] [options] [options of that command]",
        description="Says before a run whether it fits on a GPU, how long a step takes, and what to change. Takes the "
        "file and the flags of `trl-dapo dapo` (or of the command that is named). Loads no weights, needs no GPU, and "
        "downloads nothing but a config file. Exit code 1 if it does not fit, 2 for a mistake in the input.",
    )
    parser.error = _refuse
    parser.add_argument("--gpu", help="A card (4070, a100), its size (12gb), or what is free on it (10.5GiB).")
    parser.add_argument("--prompt_length", type=int, help="Tokens of the longest prompt (default: of the data).")
    parser.add_argument(
        "--informative", type=float, default=0.5, help="Share of groups that dynamic sampling keeps (default: 0.5)."
    )
    parser.add_argument("--tokens_per_second", type=float, help="Completion tokens that the card writes per second.")
    parser.add_argument(
        "--update_ratio", type=float, default=10.0, help="Tokens a pass reads while one is written (default: 10)."
    )
    parser.add_argument("--like", metavar="RUN", help="Output folder of a run whose measured speeds are taken.")
    parser.add_argument("--report", metavar="RUN", help="Output folder of a run to hold against its plan.")
    parser.add_argument("--json", action="store_true", help="Print the plan as JSON.")
    return parser


def main(argv: list[str]) -> int:
    """Prints the plan and returns the exit code."""
    name, words = command_of(argv, DEFAULT)
    options, words = make_parser().parse_known_args(words)
    _check(options)
    # Transformers warns about names that TRL still uses
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # What it lacks on this machine says nothing of the run's
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Libraries print while they load, and standard output is the plan's
    with redirect_stdout(sys.stderr):
        card, measured = _card(options), _measured(options)
        planned, batch = _planned(COMMANDS[name], split_config_flag(words), options)
    if measured is not None and options.report:
        return _print_report(planned, measured, options.json)
    with redirect_stdout(sys.stderr), _traced():
        warnings.simplefilter("ignore")  # of the model's code, which is traced and not run
        result = _result(name, planned, batch, card, measured, options)
    if options.json:
        print(json.dumps(result.as_dict(), indent=2))
    else:
        from .plan_display import print_result

        print_result(result)
    return result.exit_code


@contextmanager
def _traced() -> Generator[None]:
    from trl_dapo.planning.log_prob_head import NoTracedHead

    try:
        yield
    except NoTracedHead as error:
        raise UsageError(one_line(error)) from error


def _check(options: argparse.Namespace) -> None:
    for name in ("prompt_length", "tokens_per_second", "update_ratio"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name} must be above 0, got {value}.")
    if not 0 < options.informative <= 1:
        raise UsageError(f"--informative is a share of groups, above 0 and at most 1, got {options.informative}.")
    if options.like and options.tokens_per_second:
        raise UsageError("--like and --tokens_per_second both say how fast the card is. Leave one of them out.")
    if options.report and (options.like or options.gpu):
        other = "--like" if options.like else "--gpu"
        raise UsageError(f"--report compares with a run, and {other} asks for a plan. Leave one of them out.")


def _card(options: argparse.Namespace) -> Any:
    from trl_dapo.planning.cards import card

    try:
        return None if options.gpu is None else card(options.gpu)
    except ValueError as error:
        raise UsageError(one_line(error)) from error


def _measured(options: argparse.Namespace) -> Any:
    folder = options.report or options.like
    if folder is None:
        return None
    from trl_dapo.planning.measured import read_measured

    try:
        return read_measured(Path(folder))
    except ValueError as error:
        raise UsageError(one_line(error)) from error


def _planned(command: Command, words: list[str], options: argparse.Namespace) -> tuple[Any, tuple[str, ...]]:
    # Imported here, because it takes seconds; the environment of the file is set by then
    from .launch import plan

    planned = plan(command, words, f"trl-dapo plan {command.name}", also=["--dry_run", "true"])
    from trl_dapo.dapo.batch_plan import batch_plan, describe

    from .plan_shape import planned_run

    run = planned_run(command.name, planned.arguments, options.prompt_length, options.informative, planned.processes)
    args = planned.arguments.training_args
    return run, tuple(describe(batch_plan(args), args)) if command.name == "dapo" else ()


def _result(name: str, planned: Any, batch: tuple[str, ...], card: Any, measured: Any, options: Any) -> Any:
    from .plan_result import Result, fitting_sizes, judged, plans_on

    plans = plans_on(None if card is None else card.total)
    plan = plans.of(planned.shape)
    verdict = None if card is None else judged(planned, plan, card, plans)
    return Result(name, planned, plan, batch, verdict, _time(planned, measured, options), fitting_sizes(plan))


def _time(planned: Any, measured: Any, options: argparse.Namespace) -> Any:
    from trl_dapo.planning.throughput import measured_speeds, stated_speeds, step_time

    shape = planned.shape
    try:
        if measured is not None:
            speeds = measured_speeds(measured, shape)
        elif options.tokens_per_second:
            speeds = stated_speeds(shape, options.tokens_per_second, options.update_ratio)
        else:
            return None
    except ValueError as error:
        raise UsageError(f"--like {options.like}: {one_line(error)}") from error
    return step_time(shape, speeds, planned.trained_rows, planned.iterations, shape.completion_length)


def _print_report(planned: Any, measured: Any, as_json: bool) -> int:
    from trl_dapo.planning.memory import plan_memory

    from .plan_report import compared, report_dict, report_lines

    with redirect_stdout(sys.stderr), _traced():
        rows = compared(plan_memory(planned.shape, device=measured.device), measured)
    print(json.dumps(report_dict(rows, measured), indent=2) if as_json else "\n".join(report_lines(rows, measured)))
    return 0


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"{message}. See `trl-dapo plan --help`.")
