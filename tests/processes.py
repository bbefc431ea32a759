"""Runs for the tests of the ablation's runner: tiny Python commands, and what is left of them."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from trl_dapo.ablation.jobs import Job


# Names of a run's own code. `mark` appends a line to a file in one write, so that starts can be counted
PRELUDE = """
import json, os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def mark(name, text=""):
    with open(folder / name, "a") as file:
        file.write(f"{os.getpid()} {text}\\n")
def finish():
    (folder / "result.json").write_text("{}")
"""
FINISHES = "mark('starts'); finish()"
SLEEPS = "mark('starts'); time.sleep(600); finish()"


def job(folder: Path, code: str = FINISHES, **fields) -> Job:
    command = (sys.executable, "-S", "-c", PRELUDE + code, str(folder))
    return Job(fields.pop("name", folder.name), command, folder, **fields)


def is_finished(one: Job) -> bool:
    return (one.folder / "result.json").exists()


def starts(folder: Path) -> list[int]:
    """Process numbers of all starts of a run."""
    path = folder / "starts"
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes that have the folder among the words of their command, watchers included."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until(condition: Callable[[], object], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# A runner as a process of its own, which tests may kill: folder of the runs, number of runs, runs at once, grace, code
RUNNER = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[6]]
from processes import is_finished, job
from trl_dapo.ablation.launchers import LocalLauncher
from trl_dapo.ablation.runner import run_jobs
folder, number, at_once, grace, code = Path(sys.argv[1]), *map(int, sys.argv[2:5]), sys.argv[5]
jobs = [job(folder / f"run-{n}", code) for n in range(number)]
for outcome in run_jobs(jobs, LocalLauncher(at_once, grace), is_finished):
    print(outcome.job.name, outcome.status, outcome.reason, flush=True)
"""


def runner_command(folder: Path, number: int, at_once: int, code: str, grace: int = 30) -> list[str]:
    here = str(Path(__file__).parent)
    return [sys.executable, "-c", RUNNER, str(folder), str(number), str(at_once), str(grace), code, here]
