"""
The result of a comparison: a table, a verdict, a plot of the curves, and the numbers as JSON.
"""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table

from trl_dapo.arena import ArenaScore

from .run import RunResult


def mean_with_interval(values: list[float]) -> str:
    """Returns the mean over seeds and, for two or more, half the width of its 95% t-interval."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    from scipy.stats import t

    half_width = t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{fmean(values):.3f} ± {half_width:.3f}"


def result_table(start: ArenaScore, results: list[RunResult]) -> Table:
    """Returns a table of the warm start and of each method, averaged over seeds."""
    seeds = sorted({result.seed for result in results})
    table = Table(title=f"held-out prompts, avg@8, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}")
    for column in ("policy", "accuracy", "truncated", "completions generated", "updates", "seconds"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    table.add_row("start", f"{start.accuracy:.3f}", f"{start.truncated:.1%}", "0", "0", "0")
    for name in dict.fromkeys(result.name for result in results):
        runs = [result for result in results if result.name == name]
        table.add_row(
            name,
            mean_with_interval([run.score.accuracy for run in runs]),
            f"{fmean(run.score.truncated for run in runs):.1%}",
            f"{fmean(run.completions for run in runs):.0f}",
            f"{fmean(run.updates for run in runs):.0f}",
            f"{fmean(run.seconds for run in runs):.0f}",
        )
    return table


def verdict(results: list[RunResult]) -> str:
    """Returns the difference between DAPO and GRPO in a sentence, with its interval or a warning that it has none."""
    by_name = {name: [r.score.accuracy for r in results if r.name == name] for name in ("GRPO", "DAPO")}
    difference = fmean(by_name["DAPO"]) - fmean(by_name["GRPO"])
    seeds = len(by_name["DAPO"])
    if seeds == 1:
        return (
            f"DAPO - GRPO = {difference:+.3f} at equal completions, from one seed, which says little. "
            "`trl-dapo demo --seeds 8` gives an interval."
        )
    paired = [dapo - grpo for dapo, grpo in zip(by_name["DAPO"], by_name["GRPO"], strict=True)]
    interval = mean_with_interval(paired)
    return f"DAPO - GRPO = {interval} at equal completions, paired over {seeds} seeds (95 % t-interval)."


def write_json(path: Path, start: ArenaScore, results: list[RunResult]) -> None:
    """Writes all numbers, with curves and example completions."""
    content: dict[str, Any] = {"start": asdict(start), "runs": [asdict(result) for result in results]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False))


def write_curves(path: Path, results: list[RunResult]) -> None:
    """Writes a PNG of the curves against generated completions. Needs matplotlib."""
    # Without pyplot there is no window system and no global state
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {
        "accuracy of generated completions": lambda point: point.accuracy,
        "held-out accuracy": lambda point: point.held_out,
        "share of informative groups": lambda point: point.informative,
        "entropy (nats per token)": lambda point: point.entropy,
    }
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    colours = {"GRPO": "tab:orange", "DAPO": "tab:blue"}
    for axes, (title, value) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        for result in results:
            points = [(point.completions, value(point)) for point in result.curve if value(point) is not None]
            if not points:
                continue
            label = result.name if result.seed == results[0].seed else None
            axes.plot(*zip(*points, strict=True), color=colours[result.name], alpha=0.8, label=label)
        axes.set(title=title, xlabel="completions generated")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(path, dpi=110)
