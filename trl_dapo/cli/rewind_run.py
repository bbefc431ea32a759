"""
Starts branches, one after the other, each as the run was started; those that have ended are not run again.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from trl_dapo.host.whole_files import write_whole
from trl_dapo.rewind.branch import (
    CONFIG_FILE,
    OUTPUT_FILE,
    RUN_FOLDER,
    Branch,
    Future,
    read_future,
    write_branch,
)

from .children import ended_with_us
from .command_file import Started
from .commands import COMMANDS
from .errors import UsageError, one_line
from .rewind_plan import as_yaml, branch_values, words_of


HIDDEN = "rewind-branch"
Say = Callable[[str], None]


def run_hidden(argv: list[str]) -> int:
    """Runs `trl-dapo rewind-branch COMMAND ...`: launches the script of a branch as that of the command is."""
    from .launch import run

    return run(replace(COMMANDS[argv[0]], name="rewind_branch"), argv[1:])


def future_of(branch: Branch, start: Started, folder: Path, say: Say) -> tuple[Future | None, str]:
    """
    Returns the future of a branch and, where there is none, why.

    Args:
        branch ([`Branch`]):
            What to run.
        start ([`Started`]):
            How.
        folder (`Path`):
            Of all branches.
        say (`Callable[[str], None]`):
            Gets one line where the branch has to be run.

    Raises:
        [`UsageError`]: If its folder is another branch's, or cannot be written.
    """
    own = folder / branch.folder_name
    try:
        write_branch(own, branch)
        found = read_future(own, branch.end)
        if found is not None and _has_its_checkpoint(branch, own):
            return found, ""
        say(f"{branch.name}: steps {branch.base + 1} to {branch.end}, in {own}")
        values = branch_values(start, branch.changes, own / RUN_FOLDER, Path(branch.checkpoint), branch.saves_end)
        write_whole(own / CONFIG_FILE, as_yaml(values))
        code = run_branch(start, own)
        found = read_future(own, branch.end)
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    except OSError as error:
        raise UsageError(
            f"{own} cannot be written: {error.strerror}. Make room, or name another with --dir."
        ) from error
    if code or found is None:
        return None, f"{_last_line(own / OUTPUT_FILE)} (exit code {code}; {own / OUTPUT_FILE})"
    return found, ""


def run_branch(start: Started, folder: Path) -> int:
    """Runs the branch of a folder in processes of its own, and returns their exit code."""
    words = words_of(folder / CONFIG_FILE, start)
    command = [sys.executable, "-m", "trl_dapo.cli.main", HIDDEN, start.command, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": str(start.threads)}
    with (folder / OUTPUT_FILE).open("wb") as output, ended_with_us():
        return subprocess.run(
            command, cwd=start.folder, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode


def _has_its_checkpoint(branch: Branch, folder: Path) -> bool:
    return not branch.saves_end or (folder / RUN_FOLDER / f"checkpoint-{branch.end}").is_dir()


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    lines = [line.split("\r")[-1].strip() for line in lines]
    errors = [line for line in lines if line.startswith("trl-dapo: error:")]
    said = [line for line in lines if line]
    return (errors or said or ["it printed nothing"])[-1].removeprefix("trl-dapo: error: ")
