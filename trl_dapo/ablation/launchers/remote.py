"""
What Slurm and Ray run on another machine: a run from its start to its end.

That machine needs this package, and the run's folder at the same path, shared.
"""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from ..jobs import Job
from .launcher import Ending
from .local_run import LocalRun
from .process import Owner, Process, read_owner
from .slots import THREADS, threads_per_run


PAUSE = 0.2


class Task:
    """
    Runs a run when called, and returns how it ended.

    An interrupt while it runs, as [`ray.cancel`] raises it, lets the run end within its grace period first.

    Args:
        job ([`Job`]):
            The run.
        is_finished (`Callable[[Job], bool]`):
            Whether it is finished; asked on that machine.
        grace (`float`):
            Seconds that it has to end when it is told to.
    """

    def __init__(self, job: Job, is_finished: Callable[[Job], bool], grace: float) -> None:
        self.job, self.is_finished, self.grace = job, is_finished, grace
        self._run: LocalRun | None = None

    def __call__(self) -> Ending:
        environment = {THREADS: str(threads_per_run(1)), **os.environ, **self.job.environment}

        def begin() -> Process:
            return Process(self.job, environment, self.is_finished, self.grace)

        self._run = LocalRun(begin, lambda: None)
        try:
            return _wait(self._run)
        except BaseException:
            self._stop(self._run)
            raise

    def checkpoint(self) -> Any:
        """Lets the run end, and returns what goes on with it. submitit calls this when Slurm's time is over."""
        from submitit.helpers import DelayedSubmission

        if self._run is not None:
            self._stop(self._run)
        return DelayedSubmission(Task(self.job, self.is_finished, self.grace))

    def _stop(self, run: LocalRun) -> None:
        run.stop(signal.SIGTERM)
        _wait(run)


class Begun:
    """Whether the task of a run has begun on the other machine: its folder has another owner than before."""

    def __init__(self, job: Job) -> None:
        self._folder = job.folder
        self._before: Owner | None = read_owner(job.folder)
        self._has_begun = False

    def __call__(self) -> bool:
        self._has_begun = self._has_begun or read_owner(self._folder) != self._before
        return self._has_begun


def _wait(run: LocalRun) -> Ending:
    while (ending := run.poll()) is None:
        time.sleep(PAUSE)
    return ending
