"""
A process between a run and whoever started it, so that nothing of the run outlives either.

`python watcher.py GRACE LOCK WORD...` starts the command in a session of its own and ends with its exit code. Bytes on
standard input are numbers of signals for the run. When standard input closes, whoever started the run is gone, killed
perhaps, and the run gets SIGTERM. What is still there after `GRACE` seconds is killed. The run holds the open file
`LOCK` as well: the lock lasts as long as the run, even if this process is killed.

Knows nothing of the package, so that it starts in a moment and takes little memory.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import psutil


# For processes that a run leaves behind when it ends by itself
LEFTOVER = 3.0
CHECK = 0.2
HEARD = [getattr(signal, name) for name in ("SIGCHLD", "SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# Slurm sends them to all processes of a job, and they are for submitit's alone
IGNORED = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
# Of Linux's prctl
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main(words: list[str]) -> int:
    """Runs a command and returns its exit code, 128 + n for signal n."""
    grace, lock, command = float(words[0]), int(words[1]), words[2:]
    wake = _wake()
    try:
        job = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=[lock],
            start_new_session=True,
            preexec_fn=_tie_processes(),
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126
    os.close(lock)
    watch(job, grace, wake)
    return job.returncode if job.returncode >= 0 else 128 - job.returncode


def watch(job: subprocess.Popen, grace: float, wake: int) -> None:
    """Returns when nothing of a run is left."""
    sources = [0, wake]
    deadline = float("inf")
    while True:
        ended = job.poll() is not None
        rest = _rest() if ended else []
        if ended and not rest:
            return
        if ended and deadline == float("inf"):
            _send(job, rest, signal.SIGTERM)
            deadline = time.monotonic() + LEFTOVER
        if time.monotonic() >= deadline:
            _send(job, _descendants(), signal.SIGKILL)
        is_waiting = deadline < float("inf")
        for source in select.select(sources, [], [], CHECK if is_waiting else None)[0]:
            numbers = os.read(source, 64)
            if not numbers:  # Whoever started the run is gone
                sources.remove(source)
                numbers = bytes([signal.SIGTERM])
            for number in numbers:
                if number != signal.SIGCHLD:
                    _send(job, [], number)
                    wait = 0.0 if number == signal.SIGKILL else grace
                    deadline = min(deadline, time.monotonic() + wait)


def _wake() -> int:
    """Returns a file from which the numbers of arriving signals can be read."""
    wake, write = os.pipe()
    os.set_blocking(write, False)
    for number in HEARD:
        # A handler, so that the run starts with the default even where a signal was ignored
        signal.signal(number, lambda number, frame: None)
    for number in IGNORED:
        # As handlers are not, this is inherited by the run
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    return wake


def _tie_processes() -> Callable[[], object] | None:
    """Makes this process the parent of what a run leaves behind. Returns what ties the run to this process."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _rest() -> list[psutil.Process]:
    # The command itself is waited for already; without it, whatever can be waited for was left to this process
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return _descendants()


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _send(job: subprocess.Popen, others: list[psutil.Process], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(job.pid, number)
    for process in others:
        with suppress(psutil.Error):
            process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
