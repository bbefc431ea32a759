"""
Runs as processes: which there are, and what became of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


Status = Literal["finished", "skipped", "failed", "stopped"]


@dataclass(frozen=True)
class Job:
    """
    A run to start as a process of its own.

    Args:
        name (`str`):
            What it is called on the screen, such as `"dapo, seed 3"`.
        command (`tuple[str, ...]`):
            Words of the command.
        folder (`Path`):
            Its folder. Output goes to `log.txt` there; `progress.json` there says how far it is, see
            `progress.Progress`; the run is finished when `result.json` is there.
        environment (`dict[str, str]`):
            Variables that it has besides those of this process.
        gpus (`int`, *optional*, defaults to `0`):
            GPUs that it needs for itself. 0 takes one of those there are, which others may use as well.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0


@dataclass(frozen=True)
class Outcome:
    """
    What became of a run.

    Args:
        job ([`Job`]):
            The run.
        status (`str`):
            `"finished"` now, `"skipped"` because it was finished before, `"failed"`, or `"stopped"` by Ctrl-C or a
            signal.
        seconds (`float`):
            How long it took.
        reason (`str`, *optional*):
            Why it failed: the last line of its log that says something, and the exit code.
    """

    job: Job
    status: Status
    seconds: float = 0.0
    reason: str | None = None
