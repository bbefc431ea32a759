"""
Shows an evaluation: a bar with the time left on a terminal, a line now and then elsewhere, and the table of results.

Names of data sets come from the user, so they are printed as plain text, never as markup.
"""

import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .runner import Progress as Listener


SECONDS_BETWEEN_LINES = 15.0
# Of pass@k, the table has the largest k alone
LEFT_OUT = ("timed_out", "mean_reward")


@contextmanager
def shown(console: Console) -> Generator[Listener]:
    """Gives the function that an evaluation tells how far it is."""
    if not console.is_terminal:
        yield _Lines(console).tell
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[right]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def tell(name: str, done: int, total: int, right: float | None) -> None:
            # What was there before this run says nothing about its speed
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total, completed=done, right="")
            progress.update(tasks[name], completed=done, right="" if right is None else f"{right:.1%} right")

        yield tell


class _Lines:
    """Prints a line at the start and the end of a data set, and every so many seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began: dict[str, tuple[float, int]] = {}
        self._last = 0.0

    def tell(self, name: str, done: int, total: int, right: float | None) -> None:
        now = time.monotonic()
        first = name not in self._began
        began, before = self._began.setdefault(name, (now, done))
        if not first and done < total and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        share = "" if right is None else f", {right:.1%} right"
        per_sample = (now - began) / max(done - before, 1)
        left = "" if done in (before, total) else f", {_duration(per_sample * (total - done))} left"
        self._console.print(Text(f"{name}: {done} of {total} samples{share}{left}"))


def table(scores: dict[str, Any]) -> Table:
    """
    Returns the scores of data sets as a table, with their intervals.

    Args:
        scores (`dict[str, Any]`):
            Summaries by data set, as `results.json` has them.
    """
    found = Table(title="95 % intervals over questions", title_justify="left")
    found.add_column("data set")
    found.add_column("questions", justify="right")
    names = dict.fromkeys(name for score in scores.values() for name in _columns(score["metrics"]))
    for name in names:
        found.add_column(name.replace("_", " "), justify="right")
    for data_set, score in scores.items():
        cells = [_cell(name, score["metrics"].get(name)) for name in names]
        found.add_row(Text(data_set), str(score["questions"]), *cells)
    shown_metrics = [score["metrics"][name] for score in scores.values() for name in names if name in score["metrics"]]
    reasons = dict.fromkeys(one["no_interval"] for one in shown_metrics if "no_interval" in one)
    if reasons:
        found.caption, found.caption_justify = "no interval: " + ", or ".join(reasons), "left"
    return found


def _columns(metrics: dict[str, Any]) -> list[str]:
    largest = max(int(name.partition("@")[2]) for name in metrics if name.startswith("pass@"))
    smaller = {name for name in metrics if re.fullmatch(r"pass@\d+", name) and name != f"pass@{largest}"}
    return [name for name in metrics if name not in smaller and name not in LEFT_OUT]


def _cell(name: str, metric: dict[str, Any] | None) -> Text:
    if metric is None:
        return Text("")
    scale, form = (1.0, "{:.0f}") if name == "mean_length" else (100.0, "{:.1f}")
    text = form.format(scale * metric["value"]) + ("" if scale == 1.0 else " %")
    if metric["interval"] is None:
        return Text(text)
    low, high = (form.format(scale * end) for end in metric["interval"])
    return Text(f"{text}\n{low} to {high}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
