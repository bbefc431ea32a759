"""
Runs on this machine: a number of processes at a time, no more.
"""

import os
from collections.abc import Callable, Sequence

from ..jobs import Job
from .launcher import GRACE, Ending
from .local_run import LocalRun
from .process import Process
from .slots import THREADS, VISIBLE, Gpus, threads_per_run, visible_gpus


class LocalLauncher:
    """
    Starts runs on this machine.

    With several GPUs and several runs at once, each run sees GPUs of its own in `CUDA_VISIBLE_DEVICES`; runs share
    them where there are more runs than GPUs. One run at a time sees what this process sees. `OMP_NUM_THREADS` is the
    number of cores divided by the number of runs, unless it is set.

    Args:
        jobs_at_once (`int`, *optional*, defaults to `1`):
            Runs at the same time.
        grace (`float`, *optional*, defaults to `300.0`):
            Seconds that a run has to end when it is told to, before it is killed.
        gpus (`Sequence[str]`, *optional*):
            Names of GPUs to use, as in `CUDA_VISIBLE_DEVICES`. By default all that this process may use.

    Raises:
        `ValueError`: If `jobs_at_once` is below 1.
    """

    pause = 0.1

    def __init__(self, jobs_at_once: int = 1, grace: float = GRACE, gpus: Sequence[str] | None = None) -> None:
        if jobs_at_once < 1:
            raise ValueError(f"jobs_at_once={jobs_at_once} starts nothing. Give 1 or more.")
        self.jobs_at_once, self.grace = jobs_at_once, grace
        self._gpus = Gpus(visible_gpus() if gpus is None else gpus)
        self._running = 0

    def has_room(self, job: Job) -> bool:
        """Whether fewer than `jobs_at_once` runs are going, and the GPUs that this one needs are free."""
        return self._running < self.jobs_at_once and self._gpus.has_room(job.gpus)

    def start(self, job: Job, is_finished: Callable[[Job], bool]) -> LocalRun:
        """Starts a run. If a killed runner left a copy of it that still runs, the run starts when that has ended."""
        self._running += 1
        try:
            taken = self._gpus.take(job.gpus)
        except ValueError as error:
            return LocalRun(None, self._release, Ending(reason=str(error)))
        environment = self._environment(job, taken)

        def begin() -> Process:
            return Process(job, environment, is_finished, self.grace)

        return LocalRun(begin, lambda: self._release(taken))

    def _environment(self, job: Job, taken: Sequence[str]) -> dict[str, str]:
        environment = {THREADS: str(threads_per_run(self.jobs_at_once)), **os.environ}
        if len(self._gpus.names) > 1 and (self.jobs_at_once > 1 or job.gpus):
            environment[VISIBLE] = ",".join(taken)
        return environment | dict(job.environment)

    def _release(self, taken: Sequence[str] = ()) -> None:
        self._running -= 1
        self._gpus.give_back(taken)
