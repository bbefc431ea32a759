"""
`trl-dapo diagnose`: what is wrong with a run, from its log. Logs of plain TRL do too.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from .errors import UsageError, one_line
from .grouped_help import GroupedHelp


FOUND = 1


def make_parser(prog: str = "trl-dapo diagnose") -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = GroupedHelp(
        prog=prog,
        allow_abbrev=False,
        description="Say from a run's log what is wrong with it, since when, and what to change. Exit code 0 where "
        "nothing is found, 1 where something is.",
    )
    parser.error = _refuse
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="Folder of a run, of which the latest log is read; a checkpoint; or a trainer_state.json.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    return parser


def main(argv: list[str]) -> int:
    """
    Prints the findings. Returns 0 where there are none, else 1.

    Raises:
        [`UsageError`]: If there is no log that can be read.
    """
    options = make_parser().parse_args(argv)
    from trl_dapo.monitor.diagnosis import run_through
    from trl_dapo.monitor.history import History, find_state
    from trl_dapo.monitor.settings import read_settings

    from .diagnose_display import show

    try:
        path = find_state(options.run)
        history = History.read(path)
        if not history.rows:
            raise ValueError(f"{path}: the log is empty. Nothing was logged before the checkpoint.")
        diagnosis = run_through(history, read_settings(path.parent))
    except (ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
    if options.json:
        found = {
            "log": str(path),
            "last_step": history.rows[-1].step,
            "findings": [asdict(finding) for finding in diagnosis.findings],
            "not_decided": diagnosis.undecided(),
            "notes": list(diagnosis.notes()),
        }
        print(json.dumps(found, indent=1))
    else:
        show(diagnosis, str(path), history.rows[-1].step)
    return FOUND if diagnosis.findings else 0


def _refuse(message: str) -> NoReturn:
    raise UsageError(message)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
