"""
Runs as tasks of a Ray cluster, which decides when and where each starts.
"""

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from ..jobs import Job
from .launcher import GRACE, Ending, LauncherError
from .remote import Begun, Task


class RayLauncher:
    """
    Starts each run as a task of a Ray cluster.

    The cluster is that of `RAY_ADDRESS`, or one on this machine for as long as this process runs. Its machines need
    this package and the folders of the runs at the same absolute paths, shared. Variables of this process do not
    reach them, other than a job's own.

    Args:
        resources (`dict[str, Any]`, *optional*):
            What each run takes, as options of a Ray task: `num_cpus`, `num_gpus`, `memory`, `resources`,
            `accelerator_type`. By default one CPU.
        grace (`float`, *optional*, defaults to `300.0`):
            Seconds that a run has to end when it is told to.

    Raises:
        [`LauncherError`]: If ray is not installed, the cluster cannot be reached, or it knows no such option.
    """

    pause = 0.5

    def __init__(self, resources: Mapping[str, Any] | None = None, grace: float = GRACE) -> None:
        try:
            import ray
        except ImportError as error:
            raise LauncherError(f"The ray launcher needs ray ({error}): pip install 'trl-dapo[ray]'") from error
        self.grace = grace
        self._ray = ray
        options: dict[str, Any] = {"num_cpus": 1, **(resources or {})}
        try:
            # No task: only the options are looked at
            self._remote = ray.remote(**options)(_run)
        except (TypeError, ValueError) as error:
            raise LauncherError(f"resources={options}: {_first_line(error)}") from error
        if not ray.is_initialized():
            _connect(ray)

    def has_room(self, job: Job) -> bool:
        """Always: the cluster has a queue."""
        return True

    def start(self, job: Job, is_finished: Callable[[Job], bool]) -> "RayRun":
        """Hands a run to the cluster."""
        return RayRun(self._ray, self._remote, Task(job, is_finished, self.grace))


class RayRun:
    """
    A run that was handed to a cluster.

    A second wish to end kills the task's worker; the run then gets SIGTERM and its grace period from its watcher.
    """

    note: str | None = None

    def __init__(self, ray: Any, remote: Any, task: Task) -> None:
        self._ray = ray
        self._begun = Begun(task.job)
        self._ending: Ending | None = None
        self._result = remote.remote(task)

    @property
    def has_begun(self) -> bool:
        """Whether its command runs, as its folder says."""
        return self._begun()

    def poll(self) -> Ending | None:
        """Returns how it ended, `None` while it has not."""
        if self._ending is None and self._ray.wait([self._result], timeout=0)[0]:
            try:
                self._ending = self._ray.get(self._result)
            except self._ray.exceptions.RayError as error:
                self._ending = Ending(reason=f"its Ray task ended: {_first_line(error)}")
        return self._ending

    def stop(self, number: int) -> None:
        """Cancels its task."""
        self._ray.cancel(self._result, force=number == signal.SIGKILL)


def _run(task: Task) -> Ending:
    return task()


def _connect(ray: Any) -> None:
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address, log_to_driver=False)
        else:
            ray.init("local", include_dashboard=False, log_to_driver=False)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = f"the Ray cluster at RAY_ADDRESS={address}" if address else "a Ray cluster on this machine"
        raise LauncherError(f"Cannot use {where}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
