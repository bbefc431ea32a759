"""
A run as processes on this machine.

At any time at most one process has the lock on a run's folder, and a run is only started with it. The lock belongs to
the run and its watcher, not to the runner: it lasts while anything of the run does, whoever is killed. It needs a file
system with `flock`, on which all machines that share the folder agree.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from ..jobs import Job


LOCK, LOG = "run.lock", "log.txt"
# What a line of the log begins with that marks a start
START = "--- started "
WATCHER = Path(__file__).with_name("watcher.py")


@dataclass(frozen=True)
class Owner:
    """Who started a run: host, process and when that process started, in seconds since 1970."""

    host: str
    pid: int
    since: float

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended. Of other machines nothing is known."""
        if self.host != socket.gethostname():
            return False
        try:
            # Process numbers are used again
            return abs(psutil.Process(self.pid).create_time() - self.since) > 2
        except psutil.NoSuchProcess:
            return True


class LockedError(Exception):
    """Another process has the run; `owner` started it, as far as known."""

    def __init__(self, owner: Owner | None) -> None:
        super().__init__()
        self.owner = owner

    def __str__(self) -> str:
        who = f"process {self.owner.pid} on {self.owner.host}" if self.owner else "a process"
        return f"another runner ({who}) is at work on it"


class Process:
    """
    Starts a run in its folder.

    Args:
        job ([`Job`]):
            The run.
        environment (`dict[str, str]`):
            All its variables.
        is_finished (`Callable[[Job], bool]`):
            Asked once more when the folder is locked: another runner may have done it in the meantime.
        grace (`float`):
            Seconds that it has to end when it is told to.

    Raises:
        [`LockedError`]: If another process has the run.
        `OSError`: If the folder or the log cannot be written.
    """

    def __init__(
        self, job: Job, environment: dict[str, str], is_finished: Callable[[Job], bool], grace: float
    ) -> None:
        self._watcher: subprocess.Popen | None = None
        job.folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(job.folder)
        try:
            if not is_finished(job):
                self._watcher = _start(job, environment, lock, grace)
        finally:
            os.close(lock)

    def poll(self) -> int | None:
        """Returns the exit code: `None` while it runs, 0 if it was finished before, 128 + n for signal n."""
        if self._watcher is None:
            return 0
        code = self._watcher.poll()
        return code if code is None or code >= 0 else 128 - code

    @property
    def was_started(self) -> bool:
        """Whether it was started, rather than found finished."""
        return self._watcher is not None

    def stop(self, number: int) -> None:
        """Sends a signal to all processes of the run; what is left after the grace period is killed."""
        if self._watcher is not None and self._watcher.stdin is not None:
            with suppress(BrokenPipeError):
                self._watcher.stdin.write(bytes([number]))
                self._watcher.stdin.flush()


def read_owner(folder: Path) -> Owner | None:
    """Returns who started the run last, `None` where the file does not say."""
    try:
        return Owner(**json.loads((folder / LOCK).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _lock(folder: Path) -> int:
    import fcntl  # not on Windows, where importing the package should work

    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        owner = Owner(socket.gethostname(), os.getpid(), psutil.Process().create_time())
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(asdict(owner)).encode(), 0)
    except BlockingIOError as error:
        os.close(lock)
        raise LockedError(read_owner(folder)) from error
    except OSError:
        os.close(lock)
        raise
    return lock


def _start(job: Job, environment: dict[str, str], lock: int, grace: float) -> subprocess.Popen:
    with (job.folder / LOG).open("a", encoding="utf-8") as log:
        command = shlex.join(job.command).replace("\n", "\\n").replace("\r", "\\r")
        log.write(f"{START}{time.strftime('%Y-%m-%d %H:%M:%S %z')}: {command}\n")
        log.flush()
        return subprocess.Popen(
            # -P: the folder of the script is no place to import from
            [sys.executable, "-P", str(WATCHER), str(grace), str(lock), *job.command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            # What a run said last before a crash should be in its log
            env={"PYTHONUNBUFFERED": "1", **environment},
            pass_fds=[lock],
            start_new_session=True,
        )
