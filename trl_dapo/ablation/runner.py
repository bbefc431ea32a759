"""
Runs many runs: each exactly once, whatever becomes of the others.

Knows nothing of training: a run is a command with a folder.
"""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from .jobs import Job, Outcome, Status
from .launchers.launcher import Ending, Launcher, Run
from .log_lines import exit_words, last_line


SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# After the grace period of a launcher that did not keep it
PATIENCE = 10.0


class Listener(Protocol):
    """Is told what happens; see `display`."""

    def begun(self, jobs: Sequence[Job]) -> None:
        """These are the runs."""

    def started(self, job: Job) -> None:
        """The command of a run runs."""

    def ended(self, outcome: Outcome) -> None:
        """A run has ended, or was finished before."""

    def told(self, job: Job, note: str) -> None:
        """Something that the user should know of a run, such as what it waits for."""

    def looked(self, running: Sequence[Job]) -> None:
        """The runs whose commands run were looked at; called every moment."""

    def stopping(self, runs: int, grace: float) -> None:
        """So many runs were told to end, and have `grace` seconds for it."""


def run_jobs(
    jobs: Sequence[Job],
    launcher: Launcher,
    is_finished: Callable[[Job], bool],
    listener: Listener | None = None,
) -> list[Outcome]:
    """
    Runs all that are not finished, and returns what became of each, in order.

    A run that fails does not stop the others. Ctrl-C, SIGTERM and SIGHUP stop: runs get the signal and time for a
    checkpoint, a second signal kills them; what was not finished is `"stopped"`.

    Args:
        jobs (`Sequence[Job]`):
            The runs, each with a folder of its own.
        launcher ([`Launcher`]):
            Where they are started.
        is_finished (`Callable[[Job], bool]`):
            Whether a run is finished, told from its folder. A command that ends without it has failed.
        listener ([`Listener`], *optional*):
            Is told what happens.

    Raises:
        `ValueError`: If two runs have the same folder.
    """
    folders = [job.folder.resolve() for job in jobs]
    if doubles := {str(folder) for folder in folders if folders.count(folder) > 1}:
        raise ValueError(f"Several runs have the same folder, {', '.join(sorted(doubles))}. Give each its own.")
    runner = _Runner(jobs, launcher, is_finished, listener)
    with _signals(runner.heard):
        return runner.run()


class _Started:
    """A run that was started: since when, and whether its command runs already."""

    def __init__(self, job: Job, run: Run) -> None:
        self.job, self.run = job, run
        self.since: float | None = None
        self.note: str | None = None

    @property
    def seconds(self) -> float:
        return 0.0 if self.since is None else time.monotonic() - self.since


class _Runner:
    def __init__(
        self,
        jobs: Sequence[Job],
        launcher: Launcher,
        is_finished: Callable[[Job], bool],
        listener: Listener | None,
    ) -> None:
        self.jobs, self.launcher, self.is_finished, self.listener = jobs, launcher, is_finished, listener
        self.waiting = deque(range(len(jobs)))
        self.running: dict[int, _Started] = {}
        self.elsewhere: dict[int, str | None] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.signals: list[int] = []
        self.acted_on = 0
        self.deadline = float("inf")

    def heard(self, number: int) -> None:
        self.signals.append(number)

    def run(self) -> list[Outcome]:
        if self.listener:
            self.listener.begun(self.jobs)
        try:
            while (self.waiting and not self.signals) or self.running:
                self._stop_if_told()
                self._start()
                self._look()
                if self.running:
                    time.sleep(self.launcher.pause)
        except BaseException:
            # A defect of ours or of a listener: nothing may go on unseen
            for started in self.running.values():
                started.run.stop(signal.SIGTERM)
            raise
        for index in self.waiting:
            self._end_unstarted(index, "stopped", None)
        for index, reason in self.elsewhere.items():
            self._end_unstarted(index, "failed", reason)
        return [self.outcomes[index] for index in range(len(self.jobs))]

    def _end_unstarted(self, index: int, status: Status, reason: str | None) -> None:
        job = self.jobs[index]
        self._end(index, Outcome(job, "skipped") if self.is_finished(job) else Outcome(job, status, 0.0, reason))

    def _start(self) -> None:
        # In order: a run that needs more GPUs than are free holds up the next, or it might never start
        while self.waiting and not self.signals:
            job = self.jobs[self.waiting[0]]
            if self.is_finished(job):
                self._end(self.waiting.popleft(), Outcome(job, "skipped"))
            elif self.launcher.has_room(job):
                index = self.waiting.popleft()
                self.running[index] = _Started(job, self.launcher.start(job, self.is_finished))
            else:
                return

    def _look(self) -> None:
        for index, started in list(self.running.items()):
            ending = started.run.poll()
            self._tell(started)
            if ending is not None:
                del self.running[index]
                self._settle(index, started, ending)
        if self.listener:
            self.listener.looked([one.job for one in self.running.values() if one.since is not None])

    def _tell(self, started: _Started) -> None:
        if started.since is None and started.run.has_begun:
            started.since = time.monotonic()
            if self.listener:
                self.listener.started(started.job)
        if started.run.note not in (None, started.note) and self.listener:
            self.listener.told(started.job, started.run.note)
        started.note = started.run.note

    def _settle(self, index: int, started: _Started, ending: Ending) -> None:
        job = started.job
        if self.is_finished(job):
            self._end(index, Outcome(job, "skipped" if ending.code is None else "finished", started.seconds))
        elif ending.is_elsewhere:
            self.elsewhere[index] = ending.reason
            if self.listener:
                self.listener.told(job, ending.reason or "is done elsewhere")
        elif self.signals:
            self._end(index, Outcome(job, "stopped", started.seconds))
        else:
            self._end(index, Outcome(job, "failed", started.seconds, why_failed(job, ending)))

    def _stop_if_told(self) -> None:
        new, self.acted_on = self.signals[self.acted_on :], len(self.signals)
        # A closing terminal and systemd send SIGHUP beside another signal, in any order: that is no second wish
        is_urgent = sum(number != getattr(signal, "SIGHUP", None) for number in self.signals) > 1
        is_late = time.monotonic() >= self.deadline
        if (new and is_urgent) or is_late:
            self._stop(signal.SIGKILL, PATIENCE)
        elif new and len(new) == len(self.signals):
            if self.listener:
                self.listener.stopping(len(self.running), self.launcher.grace)
            # A run has no terminal that could hang up
            number = signal.SIGINT if new[0] == signal.SIGINT else signal.SIGTERM
            self._stop(number, self.launcher.grace + PATIENCE)

    def _stop(self, number: int, seconds: float) -> None:
        for started in self.running.values():
            started.run.stop(number)
        self.deadline = time.monotonic() + seconds

    def _end(self, index: int, outcome: Outcome) -> None:
        self.outcomes[index] = outcome
        if self.listener:
            self.listener.ended(outcome)


def why_failed(job: Job, ending: Ending) -> str:
    """Returns why a run is not finished: the last line of its log that says something, and the exit code."""
    if ending.code is None:
        return ending.reason or "was not started, and its launcher does not say why"
    said = last_line(job.folder) or "it printed nothing"
    end = exit_words(ending.code)
    if ending.code == 0:
        end = "exit code 0, yet it is not finished: its result is missing"
    return f"{said} ({end})"


@contextmanager
def _signals(heard: Callable[[int], None]) -> Generator[None]:
    """Passes on signals to end, other than those that are ignored, as SIGHUP is under `nohup`."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        heard(number)

    # Elsewhere Python allows no handlers
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS if is_main}
    caught = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])
