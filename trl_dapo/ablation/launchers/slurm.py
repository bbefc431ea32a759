"""
Runs as jobs of Slurm, through submitit.
"""

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..jobs import Job
from .launcher import GRACE, Ending, LauncherError
from .remote import Begun, Task


# Which job of Slurm a run's folder was handed to last
SUBMITTED = "slurm_job.json"
# States in which a job will start, go on or start again
LIVE = {"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "REQUEUED", "COMPLETING", "PREEMPTED", "RESIZING"}
# A run may take several times its time limit: it goes on from its checkpoint
TIMEOUTS = 20
# Slurm is asked no more often than this about jobs that were told to end
FORCE = 5.0
# Seconds in which a file from another machine should be here
LATE = 15.0


class SlurmLauncher:
    """
    Starts each run as a job of Slurm.

    When the time limit of a job is near, its run is told to end, and goes on from its checkpoint in a requeued job.
    Jobs stay in the queue if this process is killed; a rerun takes them over. The nodes need this package and the
    folders at the same absolute paths, shared, on a file system on whose locks they agree.

    Args:
        folder (`Path`):
            Where submitit keeps its files: shared with the nodes.
        parameters (`dict[str, Any]`, *optional*):
            What each run takes, by submitit's names: `timeout_min`, `gpus_per_node`, `cpus_per_task`, `mem_gb`,
            `slurm_partition`, `slurm_account`, and so on.
        grace (`float`, *optional*, defaults to `300.0`):
            Seconds that a run has to end when it is told to. Slurm's own limits, `KillWait` for a cancelled job and
            `slurm_signal_delay_s` for one out of time, may be shorter.
        cluster (`str`, *optional*, defaults to `"slurm"`):
            submitit's executor; `"local"` and `"debug"` try things out without Slurm.

    Raises:
        [`LauncherError`]: If submitit or Slurm is missing, or there is no such parameter.
    """

    pause = 2.0

    def __init__(
        self,
        folder: Path,
        parameters: Mapping[str, Any] | None = None,
        grace: float = GRACE,
        cluster: str = "slurm",
    ) -> None:
        try:
            import submitit
        except ImportError as error:
            message = f"The slurm launcher needs submitit ({error}): pip install 'trl-dapo[slurm]'"
            raise LauncherError(message) from error
        self.grace = grace
        self._jobs = submitit.SlurmJob if cluster == "slurm" else None
        given = dict(parameters or {})
        timeouts = given.pop("slurm_max_num_timeout", TIMEOUTS)
        try:
            self._executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=timeouts)
            self._executor.update_parameters(**given)
        except RuntimeError as error:
            raise LauncherError(f"The slurm launcher runs where Slurm's commands are: {error}") from error
        except (NameError, TypeError, ValueError, AssertionError) as error:
            raise LauncherError(f"slurm parameters {given}: {' '.join(str(error).split())}") from error

    def has_room(self, job: Job) -> bool:
        """Always: Slurm has a queue."""
        return True

    def start(self, job: Job, is_finished: Callable[[Job], bool]) -> "SlurmRun":
        """Hands a run to Slurm, or takes over the job that it was handed to before."""
        begun = Begun(job)
        if (queued := self._queued(job)) is not None:
            return SlurmRun(queued, begun, note=f"is job {queued.job_id} of Slurm already, which is waited for")
        try:
            submitted = self._executor.submit(Task(job, is_finished, self.grace))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            return SlurmRun(None, begun, ending=Ending(reason=f"Slurm does not take it: {_last_line(error)}"))
        if self._jobs is not None:
            # Without the file, a rerun could not know of the job; the lock would still keep it from running twice
            with suppress(OSError):
                job.folder.mkdir(parents=True, exist_ok=True)
                words = {"id": submitted.job_id, "folder": str(self._executor.folder.absolute())}
                (job.folder / SUBMITTED).write_text(json.dumps(words), encoding="utf-8")
        return SlurmRun(submitted, begun)

    def _queued(self, job: Job) -> Any:
        """The job of Slurm that a runner which is gone has left for a run, `None` if there is none that lives."""
        if self._jobs is None:
            return None
        try:
            words = json.loads((job.folder / SUBMITTED).read_text(encoding="utf-8"))
            found = self._jobs(folder=words["folder"], job_id=str(words["id"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        state = found.get_info(mode="force").get("State", "UNKNOWN").split()[0]
        return found if state in LIVE else None


class SlurmRun:
    """A run that was handed to Slurm."""

    def __init__(self, job: Any, begun: Begun, note: str | None = None, ending: Ending | None = None) -> None:
        self._job, self._begun, self.note, self._ending = job, begun, note, ending
        self._force_from = self._give_up_at = float("inf")
        self._is_told = False

    @property
    def has_begun(self) -> bool:
        """Whether its command runs, as its folder says."""
        return self._begun()

    def poll(self) -> Ending | None:
        """Returns how it ended, `None` while it has not."""
        if self._ending is None and self._is_done():
            self._ending = self._read()
        return self._ending

    def stop(self, number: int) -> None:
        """Cancels its job. Slurm sends SIGTERM, and kills after its `KillWait`."""
        self._job.cancel(check=False)
        self._is_told = True
        self._force_from = time.monotonic()

    def _is_done(self) -> bool:
        is_forced = time.monotonic() >= self._force_from
        if is_forced:
            self._force_from = time.monotonic() + FORCE
        return self._job.done(force_check=is_forced)

    def _read(self) -> Ending | None:
        """What its task returned. submitit would wait for that, and nothing else could be done meanwhile."""
        is_debug = self._job.job_id.startswith("DEBUG")  # it ran in this process, and there is no file
        if is_debug or self._job.paths.result_pickle.exists():
            error = self._job.exception()
            return self._job.result() if error is None else Ending(reason=self._end(_last_line(error)))
        self._give_up_at = min(self._give_up_at, time.monotonic() + LATE)
        if not self._is_told and time.monotonic() < self._give_up_at:
            return None
        return Ending(reason=self._end(f"see {self._job.paths.stderr}"))

    def _end(self, words: str) -> str:
        return f"its job {self._job.job_id} is {self._job.state}: {words}"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip("- \t")]
    return lines[-1] if lines else type(error).__name__
