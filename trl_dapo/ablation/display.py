"""
Shows runs while they go: a live panel on a terminal, plain lines elsewhere.

What runs say of themselves is untrusted: it is shown as plain text, without what a terminal would act on.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .jobs import Job, Outcome
from .log_lines import shown as plain
from .progress import Progress, read_progress
from .runner import Listener


# Seconds between two lines about progress where there is no terminal, and between two looks where there is one
LINE_EVERY, LOOK_EVERY = 60.0, 0.5
MOST_LINES = 16


@dataclass(frozen=True)
class Going:
    """
    A run that goes.

    Args:
        fraction (`float`):
            Share of its budget that is spent, from 0 to 1.
        at_start (`float`):
            The same when it was started: above 0 for one that goes on from a checkpoint.
        seconds (`float`):
            Since it was started.
    """

    fraction: float
    at_start: float
    seconds: float


def seconds_left(waiting: int, going: Sequence[Going], spent: Sequence[Going]) -> float | None:
    """
    Returns how long all runs will take from now, `None` while no run has come forward.

    A whole run takes as long as the runs so far took per share of their budgets. As many as go now go on together;
    none of them is faster than that.

    Args:
        waiting (`int`):
            Runs that have not started.
        going (`Sequence[Going]`):
            Runs that go.
        spent (`Sequence[Going]`):
            Runs that have finished, with fraction 1.
    """
    gained = sum(one.fraction - one.at_start for one in (*going, *spent))
    if gained <= 0:
        return None
    whole = sum(one.seconds for one in (*going, *spent)) / gained
    left = [1 - one.fraction for one in going]
    at_once = max(len(going), 1)
    return whole * max((waiting + sum(left)) / at_once, max(left, default=0.0), 1.0 if waiting else 0.0)


@contextmanager
def shown(console: Console, clock: Callable[[], float] = time.monotonic) -> Generator[Listener]:
    """Yields a listener for [`run_jobs`] that shows the runs on a console."""
    if not console.is_terminal:
        yield Lines(console, clock)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield Panel(console, live, clock)


class Lines:
    """
    Tells of runs in plain lines: one for each start and end, and at most one a minute for all that go.

    Args:
        console (`Console`):
            Where to.
        clock (`Callable[[], float]`, *optional*, defaults to `time.monotonic`):
            Seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.total = 0
        self.counts: Counter[str] = Counter()
        self.spent: list[Going] = []
        self._since: dict[str, tuple[float, float]] = {}
        self._said_at = clock()

    def begun(self, jobs: Sequence[Job]) -> None:
        """Keeps how many there are."""
        self.total = len(jobs)

    def started(self, job: Job) -> None:
        """Says that a run has started, or goes on from a checkpoint."""
        at_start = _fraction(read_progress(job.folder))
        self._since[key(job)] = (self.clock(), at_start)
        self.say(f"started   {plain(job.name)}" + (f", goes on from {at_start:.0%}" if at_start else ""))

    def ended(self, outcome: Outcome) -> None:
        """Says how a run ended; those that were finished before are only counted."""
        job = outcome.job
        self.counts[outcome.status] += 1
        since = self._since.pop(key(job), None)
        if outcome.status == "finished" and since is not None:
            self.spent.append(Going(1.0, since[1], outcome.seconds))
        if outcome.status != "skipped":
            took = f" after {duration(outcome.seconds)}" if outcome.seconds else ""
            why = f": {plain(outcome.reason)}" if outcome.reason else ""
            self.say(f"{outcome.status:9} {plain(job.name)}{took}{why}  [{self.count_words()}]")

    def told(self, job: Job, note: str) -> None:
        """Says what the runner says of a run."""
        self.say(f"note      {plain(job.name)} {plain(note)}")

    def looked(self, running: Sequence[Job]) -> None:
        """Says once a minute how far the runs are."""
        if self.clock() - self._said_at >= LINE_EVERY:
            self._said_at = self.clock()
            self.say("; ".join([self.count_words(), *(line(job, read_progress(job.folder)) for job in running)]))

    def stopping(self, runs: int, grace: float) -> None:
        """Says that it ends, and how to end at once."""
        self.say(f"stopping  {runs} runs have {duration(grace)} to end; Ctrl-C again kills them")

    def say(self, words: str) -> None:
        """Writes a line."""
        self.console.print(Text(words), soft_wrap=True)

    def count_words(self, left: float | None = None) -> str:
        """Returns how many runs are done, and how."""
        done = sum(self.counts.values())
        parts = [f"{self.counts[status]} {status}" for status in ("finished", "skipped", "failed", "stopped")]
        named = [part for part in parts if not part.startswith("0 ")]
        words = f"{done} of {self.total} runs" + (f": {', '.join(named)}" if named else "")
        return words + (f"; about {duration(left)} left" if left is not None else "")

    def going(self, running: Sequence[Job]) -> list[Going]:
        """Returns how far the runs are that go."""
        found = []
        for job in running:
            since, at_start = self._since.get(key(job), (self.clock(), 0.0))
            fraction = max(_fraction(read_progress(job.folder)), at_start)
            found.append(Going(fraction, at_start, self.clock() - since))
        return found


class Panel(Lines):
    """Shows runs as a bar over all of them and a line for each that goes, below the lines about failures and notes."""

    def __init__(self, console: Console, live: Live, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, clock)
        self._live = live
        self._looked_at = float("-inf")

    def say(self, words: str) -> None:
        """Writes a line above the panel, other than for starts and ends that it shows itself."""
        if not words.startswith(("started", "finished")):
            self.console.print(Text(words), soft_wrap=True)

    def looked(self, running: Sequence[Job]) -> None:
        """Draws the panel anew."""
        if self.clock() - self._looked_at >= LOOK_EVERY:
            self._looked_at = self.clock()
            self._live.update(self.drawn(running))

    def drawn(self, running: Sequence[Job]) -> Group:
        """Returns the panel."""
        going = self.going(running)
        done = sum(self.counts.values())
        left = seconds_left(max(self.total - done - len(running), 0), going, self.spent)
        spent = done + sum(one.fraction for one in going)
        head = Table.grid(padding=(0, 2))
        head.add_row(ProgressBar(max(self.total, 1), spent, width=30), Text(self.count_words(left)))
        rows = Table.grid(padding=(0, 2))
        for job, one in list(zip(running, going, strict=True))[:MOST_LINES]:
            progress = read_progress(job.folder)
            rows.add_row(Text(plain(job.name)), ProgressBar(1.0, one.fraction, width=12), *map(Text, _cells(progress)))
        if len(running) > MOST_LINES:
            rows.add_row(Text(f"and {len(running) - MOST_LINES} more"))
        return Group(head, rows)


def key(job: Job) -> str:
    """Returns what tells runs apart."""
    return str(job.folder)


def line(job: Job, progress: Progress | None) -> str:
    """Returns how far a run is in words."""
    return f"{plain(job.name)} " + " ".join(filter(None, _cells(progress)))


def duration(seconds: float) -> str:
    """Returns seconds as people say them: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _cells(progress: Progress | None) -> list[str]:
    if progress is None:
        return ["starting", "", "", ""]
    accuracy = "" if progress.accuracy is None else f"accuracy {progress.accuracy:.3f}"
    return [f"{_fraction(progress):.0%}", f"step {progress.step}", f"{progress.completions} completions", accuracy]


def _fraction(progress: Progress | None) -> float:
    return 0.0 if progress is None else min(max(progress.fraction, 0.0), 1.0)
