"""
Slurm's commands for tests, under the names `sbatch`, `srun`, `sacct`, `scancel` and `scontrol`: jobs start at once.

The folder FAKE_SLURM holds `<job>/script`, `<job>/process`, the first process of a started job, and `<job>/state`.
"""

import os
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil


FOLDER = Path(os.environ["FAKE_SLURM"])


def sbatch(words):
    number = str(100 + len(list(FOLDER.iterdir())))
    (FOLDER / number).mkdir()
    script = FOLDER / number / "script"
    script.write_text(Path(words[-1]).read_text().replace("%j", number).replace("%t", "0"))
    start(number)
    sys.stdout.write(f"Submitted batch job {number}\n")


def start(number):
    environment = {**os.environ, "SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_NODEID": "0"}
    environment |= {"SLURM_LOCALID": "0", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here"}
    (FOLDER / number / "state").write_text("RUNNING")
    with open(os.devnull) as nothing, (FOLDER / number / "out").open("a") as out:
        words = [sys.executable, __file__, "batch", number]
        subprocess.Popen(words, stdin=nothing, stdout=out, stderr=out, start_new_session=True, env=environment)


def batch(words):
    folder = FOLDER / words[0]
    (folder / "process").write_text(str(os.getpid()))
    code = subprocess.call(["bash", str(folder / "script")])
    if (folder / "state").read_text() == "RUNNING":
        (folder / "state").write_text("FAILED" if code else "COMPLETED")


def srun(words):
    while words[0].startswith("-"):
        words = words[2:] if words[0] in ("--output", "--error") else words[1:]
    os.execvp(words[0], words)


def sacct(words):
    sys.stdout.write("JobID|State|NodeList\n")
    for number in (after for word, after in pairwise(words) if word == "-j"):
        if (FOLDER / number / "state").exists():
            sys.stdout.write(f"{number}|{(FOLDER / number / 'state').read_text()}|here\n")


def scancel(words):
    (FOLDER / words[0] / "state").write_text("CANCELLED by 0")
    with suppress(psutil.NoSuchProcess):
        # As slurmd does: to all processes of the job, those in sessions of their own as well
        first = psutil.Process(int((FOLDER / words[0] / "process").read_text()))
        for process in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.terminate()


def scontrol(words):
    assert words[0] == "requeue"
    (FOLDER / words[1] / "state").write_text("REQUEUED")
    start(words[1])


if __name__ == "__main__":
    commands = {one.__name__: one for one in (batch, sbatch, srun, sacct, scancel, scontrol)}
    commands[sys.argv[1]](sys.argv[2:])
