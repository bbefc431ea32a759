"""
The options of `trl-dapo rewind`, and where it says what it is doing.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from .errors import UsageError
from .folders import check_folder
from .grouped_help import GroupedHelp


EPILOG = """\
One --set is one future; several fields after one --set change together. A
value is JSON, or text:

  trl-dapo rewind runs/a --to 900 --steps 100 --set epsilon_high=0.2 \\
      --set learning_rate=1e-6 beta=0.01
  trl-dapo rewind runs/a --find entropy_collapse --set epsilon_high=0.2

A run that was started from Python has no command.json; its command is given
after --:

  trl-dapo rewind runs/a --to 900 --set epsilon_high=0.2 -- dapo --config x.yaml
"""


@dataclass(frozen=True)
class Options:
    """
    What was asked.

    Args:
        run (`Path`):
            The run's `output_dir`.
        to (`int`, *optional*):
            Step to rewind to; not with `find`.
        groups (`list[list[str]]`):
            Words of each `--set`.
        steps (`int`, *optional*):
            Length of the futures. By default up to where the run's log ends.
        folder (`Path`):
            Of the branches and the report.
        find (`str`, *optional*):
            A rule whose onset is followed back.
        command (`list[str]`):
            The run's command, where it was given.
    """

    run: Path
    to: int | None
    groups: list[list[str]]
    steps: int | None
    folder: Path
    find: str | None
    command: list[str]


def make_parser(prog: str = "trl-dapo rewind") -> argparse.ArgumentParser:
    """Returns the parser of the options."""
    parser = GroupedHelp(
        prog=prog,
        allow_abbrev=False,
        description="Begin a run again at one of its checkpoints, with the same random numbers and prompts: once as "
        "it was, and once per change. Shows the futures side by side, and whether the unchanged one is the run.",
        epilog=EPILOG,
    )
    parser.error = _refuse
    parser.add_argument("run", type=Path, help="output_dir of the run.")
    parser.add_argument("--to", type=int, metavar="STEP", help="Begin at the newest whole checkpoint at or before it.")
    parser.add_argument(
        "--set", dest="groups", action="append", nargs="+", default=[], metavar="FIELD=VALUE", help="One future."
    )
    parser.add_argument(
        "--steps", type=int, help="Updates in each future; by default up to the end of the run's log. With --find, "
        "updates after the step at which the run's finding was told (default: 0)."
    )  # fmt: skip
    parser.add_argument("--dir", type=Path, help="Folder of the futures and the report (default: RUN/rewind).")
    parser.add_argument(
        "--find", metavar="RULE", help="Find the last update at which the change still prevents a finding: a rule of "
        "the diagnosis, or a bound on a logged metric such as 'entropy<0.1'."
    )  # fmt: skip
    return parser


def say(line: str) -> None:
    """Tells what is being done, on stderr, where no table is."""
    print(line, file=sys.stderr, flush=True)


def read_options(argv: list[str]) -> Options:
    """Returns what was asked. Raises [`UsageError`], or `ValueError` for a folder that is none."""
    split = argv.index("--") if "--" in argv else len(argv)
    parsed = make_parser().parse_args(argv[:split])
    if (parsed.to is None) == (parsed.find is None):
        raise UsageError("give either --to STEP or --find RULE.")
    if parsed.to is not None and parsed.to < 1:
        raise UsageError(f"--to must be a step of the run, got {parsed.to}.")
    if parsed.steps is not None and parsed.steps < (parsed.find is None):
        raise UsageError(f"--steps must be at least 1, got {parsed.steps}.")
    if parsed.find is not None and len(parsed.groups) != 1:
        raise UsageError("--find needs one --set: the change of which it is asked until when it helps.")
    folder = parsed.dir or parsed.run / "rewind"
    check_folder("--dir", str(folder))
    run, folder = parsed.run.expanduser().absolute(), folder.expanduser().absolute()
    return Options(run, parsed.to, parsed.groups, parsed.steps, folder, parsed.find, argv[split + 1 :])


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"{message}. See `trl-dapo rewind --help`.")
