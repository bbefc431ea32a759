"""
Shows a run while it trains: a live panel on a terminal, one line per rollout elsewhere.

Completions come from a model, so they are printed as plain text, never as markup.
"""

import itertools
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .run import Example, Listener, Point


SPARKS = "▁▂▃▄▅▆▇█"
TREND_ROLLOUTS = 5
CURVE_WIDTH, LEAST_CURVE = 60, 10
# What stands beside a curve, with the frame
BESIDE_CURVE = 60


@contextmanager
def shown(console: Console, name: str, seed: int, budget: int) -> Generator[Listener]:
    """Yields the listener that shows a run while it trains."""
    points: list[Point] = []
    if not console.is_terminal:

        def print_line(point: Point) -> None:
            points.append(point)
            console.print(Text(line(name, seed, budget, points)), soft_wrap=True)

        yield print_line
        return

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    width = max(LEAST_CURVE, min(CURVE_WIDTH, console.width - BESIDE_CURVE))
    task = progress.add_task(f"{name}, seed {seed}, completions", total=budget)
    with Live(progress, console=console, refresh_per_second=4, transient=True) as live:

        def update(point: Point) -> None:
            points.append(point)
            progress.update(task, completed=min(point.completions, budget))
            live.update(Panel(Group(progress, numbers(points, width), examples(points[-1])), title=f"training {name}"))

        yield update


def line(name: str, seed: int, budget: int, points: list[Point]) -> str:
    """Returns the last rollout as one line."""
    last = points[-1]
    held_out = "" if last.held_out is None else f"  held-out {last.held_out:.3f}"
    return (
        f"{name} seed {seed}  rollout {last.rollout:3d}  completions {last.completions:5d}/{budget}  "
        f"accuracy {last.accuracy:.3f}{gain(points)}  informative {last.informative:.2f}  "
        f"entropy {last.entropy:.3f}  length {last.length:4.1f}  refills {last.refill_rounds:.0f}{held_out}"
    )


def trend(points: list[Point]) -> float | None:
    """Returns the mean accuracy of the last 5 rollouts minus that of the 5 before, `None` without as many."""
    if len(points) < 2 * TREND_ROLLOUTS:
        return None
    recent = [point.accuracy for point in points[-TREND_ROLLOUTS:]]
    before = [point.accuracy for point in points[-2 * TREND_ROLLOUTS : -TREND_ROLLOUTS]]
    return (sum(recent) - sum(before)) / TREND_ROLLOUTS


def gain(points: list[Point]) -> str:
    """Returns the trend in words, nothing where there is none yet."""
    found = trend(points)
    return "" if found is None else f" ({found:+.3f} in {TREND_ROLLOUTS} rollouts)"


def sparkline(values: list[float]) -> str:
    """Returns one bar character for each value between 0 and 1."""
    return "".join(SPARKS[min(int(value * len(SPARKS)), len(SPARKS) - 1)] for value in values)


def numbers(points: list[Point], width: int = CURVE_WIDTH) -> Table:
    """Returns the numbers of the last rollout as a table, with the curves of the whole run so far."""
    last = points[-1]
    table = Table.grid(padding=(0, 2))
    accuracy = f"{last.accuracy:.3f}{gain(points)}"
    table.add_row("accuracy", accuracy, sparkline(binned([p.accuracy for p in points], width)))
    table.add_row("informative groups", f"{last.informative:.0%}", _curve(points, width))
    table.add_row("entropy", f"{last.entropy:.3f} nats/token", "")
    table.add_row("length", f"{last.length:.1f} tokens, {last.truncated:.0%} truncated", "")
    table.add_row("refill rounds", f"{last.refill_rounds:.0f}", "")
    return table


def binned(values: list[float], most: int) -> list[float]:
    """Returns values as they are, or the means of `most` parts of about the same size where there are more."""
    if len(values) <= most:
        return values
    ends = [len(values) * part // most for part in range(most + 1)]
    return [sum(values[first:end]) / (end - first) for first, end in itertools.pairwise(ends)]


def examples(point: Point) -> Table:
    """Returns a right and a wrong completion of a rollout, as plain text."""
    table = Table.grid(padding=(0, 2))
    table.add_row(Text("right", style="green"), _text(point.right))
    table.add_row(Text("wrong", style="red"), _text(point.wrong))
    return table


def _curve(points: list[Point], width: int) -> str:
    return sparkline(binned([point.informative for point in points], width))


def _text(example: Example | None) -> Text:
    # `Text`, unlike `str`, is not parsed for markup. Control characters would still reach the terminal
    plain = "none in this rollout" if example is None else f"{example.prompt} {example.completion}"
    return Text("".join(character for character in plain if character.isprintable()))
