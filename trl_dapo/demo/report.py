"""
The result of a comparison: a table, a verdict, a plot of the curves, and the numbers as JSON.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table

from trl_dapo.arena import ArenaScore

from .curves import Curve, generated_curve, held_out_curve, mean_curve
from .run import RunResult


# Whole rollouts differ by less in a run of the usual length
NEARLY = 0.02
COLOURS = {"GRPO": "tab:orange", "DAPO": "tab:blue"}


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
    seeds, at = len(by_name["DAPO"]), _at_completions(results)
    if seeds == 1:
        return (
            f"DAPO - GRPO = {difference:+.3f} {at}, from one seed, which says little. "
            "`trl-dapo demo --seeds 8` gives an interval."
        )
    paired = [dapo - grpo for dapo, grpo in zip(by_name["DAPO"], by_name["GRPO"], strict=True)]
    return f"DAPO - GRPO = {mean_with_interval(paired)} {at}, paired over {seeds} seeds (95 % t-interval)."


def _at_completions(results: list[RunResult]) -> str:
    """Returns at how many completions the two are compared: a run ends with a whole rollout."""
    by_name = {name: fmean(r.completions for r in results if r.name == name) for name in ("GRPO", "DAPO")}
    if max(by_name.values()) <= (1 + NEARLY) * min(by_name.values()):
        return "at equal completions"
    return f"at {by_name['DAPO']:.0f} and {by_name['GRPO']:.0f} completions, since a run ends with a whole rollout"


def write_json(path: Path, start: ArenaScore, results: list[RunResult]) -> None:
    """Writes all numbers, with curves and example completions."""
    content: dict[str, Any] = {"start": asdict(start), "runs": [asdict(result) for result in results]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False))


def write_curves(path: Path, start: ArenaScore, results: list[RunResult]) -> None:
    """
    Writes a PNG of the curves against generated completions. Needs matplotlib.

    Args:
        path (`Path`):
            The file.
        start ([`ArenaScore`]):
            Score of the warm start, at which the held-out curves begin.
        results (`list[RunResult]`):
            Runs. Several seeds of a method are drawn as their mean, with a band from the smallest to the largest.
    """
    # Without pyplot there is no window system and no global state
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    most = max(result.completions for result in results)
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, curve_of) in zip(figure.subplots(2, 2).flat, panels(start).items(), strict=True):
        for name in dict.fromkeys(result.name for result in results):
            runs = [curve_of(result) for result in results if result.name == name]
            _draw(axes, name, mean_curve(runs), len(runs))
        if "accuracy" in title:
            axes.axhline(
                start.accuracy, color="gray", linestyle=":", label=f"warm start, held-out: {start.accuracy:.3f}"
            )
        if not title.startswith("entropy"):
            axes.set_ylim(-0.02, 1.02)
        axes.set(title=title, xlabel="completions generated", xlim=(-0.02 * most, 1.02 * most))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


def panels(start: ArenaScore) -> dict[str, Callable[[RunResult], Curve]]:
    """Returns what each panel of the figure shows of a run, by its title."""
    return {
        "accuracy of generated completions": lambda run: generated_curve(run, lambda point: point.accuracy),
        "held-out accuracy": lambda run: held_out_curve(run, start.accuracy),
        "share of informative groups": lambda run: generated_curve(run, lambda point: point.informative),
        "entropy (nats per token)": lambda run: generated_curve(run, lambda point: point.entropy),
    }


def _draw(axes: Any, name: str, curve: Curve, seeds: int) -> None:
    label = name if seeds == 1 else f"{name}, mean and range of {seeds} seeds"
    marker = "o" if curve.is_short else None
    axes.plot(curve.completions, curve.values, color=COLOURS[name], marker=marker, markersize=4, label=label)
    if curve.low:
        axes.fill_between(curve.completions, curve.low, curve.high, color=COLOURS[name], alpha=0.2, linewidth=0)
