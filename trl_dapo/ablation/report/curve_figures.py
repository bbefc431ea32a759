"""
Figures of runs: how accuracy rises, against what was spent, and what else changes on the way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..designs import Design
from ..results import RunResult
from .curves import ACCURACY, AXES, METRICS, Curve, Points, accuracy_source, logged, mean_curve
from .drawing import label, line_style, new_figure, save
from .tables import row_keys, runs_of_rows


if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXIS_LABELS = {
    "completions": "completions generated",
    "steps": "optimizer steps",
    "seconds": "seconds of training",
}


@dataclass(frozen=True)
class CurveSet:
    """
    A metric of each row over an axis.

    Args:
        name (`str`):
            Part of the name of its figure.
        axis (`str`):
            `"completions"`, `"steps"` or `"seconds"`.
        metric (`str`):
            Name of the metric, or of the data set.
        title (`str`):
            What the vertical axis says.
        rows (`dict[str, Curve]`):
            Curves by name of the row. Rows without points are left out.
        order (`tuple[str, ...]`):
            All rows of the design, which decide the colours.
    """

    name: str
    axis: str
    metric: str
    title: str
    rows: dict[str, Curve]
    order: tuple[str, ...]


def curve_sets(runs: Sequence[RunResult], design: Design, data_set: str) -> list[CurveSet]:
    """Returns what is drawn for a design: accuracy over each axis, and what was logged over completions."""
    by_key = runs_of_rows(runs, design)
    rows = {row.name: list(by_key[key].values()) for row, key in zip(design.rows, row_keys(design), strict=True)}
    rows = {name: own for name, own in rows.items() if own}
    every = [run for own in rows.values() for run in own]
    source, _ = accuracy_source(every, data_set)
    title = "accuracy of completions generated" if source == ACCURACY else f"accuracy on {label(source)}"
    order = tuple(row.name for row in design.rows)

    def made(name: str, axis: str, metric: str, title: str, is_held_out: bool) -> CurveSet:
        points: dict[str, list[Points]] = {
            row: [run.held_out if is_held_out else run.curve for run in own] for row, own in rows.items()
        }
        curves = {row: mean_curve(own, axis, metric) for row, own in points.items()}
        return CurveSet(name, axis, metric, title, {row: one for row, one in curves.items() if one}, order)

    sets = [made(f"accuracy-{axis}", axis, source, title, source != ACCURACY) for axis in AXES if source]
    sets += [
        made(name.removeprefix("dapo/").replace("/", "-").replace("_", "-"), "completions", name, METRICS[name], False)
        for name in logged(every)
    ]
    return [one for one in sets if one.rows]


def draw_curves(curves: CurveSet, folder: Path, name: str) -> list[Path]:
    """Draws the mean over seeds of each row, with a band over the middle half of the seeds."""
    lines = -(-len(curves.rows) // 2)
    with new_figure(2.7 + 0.19 * lines) as (figure, (axes,)):
        for number, row in enumerate(curves.order):
            if row in curves.rows:
                _draw(axes, curves.rows[row], number, label(row))
        axes.set_xlabel(AXIS_LABELS[curves.axis])
        axes.set_title(curves.title)
        axes.xaxis.set_major_formatter("{x:,.10g}")
        if curves.title.startswith(("accuracy", "share")):
            axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.10g} %")
        axes.margins(x=0.01)
        if len(curves.order) > 1:
            figure.legend(loc="outside lower center", ncols=2, handlelength=2.6, columnspacing=1.4)
        return save(figure, folder, name)


def _draw(axes: "Axes", curve: Curve, number: int, name: str) -> None:
    style = line_style(number)
    if curve.seeds > 1:
        axes.fill_between(curve.x, curve.low, curve.high, color=style["color"], alpha=0.13, linewidth=0)
    marker = "o" if len(curve.x) < 3 else None
    axes.plot(curve.x, curve.mean, label=name, marker=marker, markersize=4, **style)
