"""
Figures of a table: the ladder with its intervals and seeds, and the forest of its differences.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..statistics import Difference, Interval
from .drawing import COLOURS, GREY, INK, label, new_figure, save
from .grids import REFERENCES
from .numbers import RESOLVED, points, verdict
from .tables import Table, TableRow, compared


if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, PAPERS = COLOURS[0], GREY
_LINE = 0.34  # inches per row


def draw_ladder(table: Table, folder: Path, name: str) -> list[Path]:
    """Draws each row's accuracy with its interval over seeds and a dot per seed, the paper's rows beside them."""
    rows = table.rows
    has_paper = any(row.paper is not None for row in rows)
    ratios = {"width_ratios": [2.1, 1] if has_paper else [1]}
    with new_figure(1.15 + _LINE * len(rows), ncols=1 + has_paper, sharey=True, gridspec_kw=ratios) as (figure, axes):
        places = np.arange(len(rows))
        for place, row in zip(places, rows, strict=True):
            _draw_row(axes[0], place, row)
        axes[0].set_yticks(places, [label(row.row.name) for row in rows])
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        axes[0].grid(axis="y", visible=False)
        axes[0].tick_params(axis="y", length=0)
        axes[0].set_xlabel(f"accuracy on {label(table.data_set)} (%)")
        if has_paper:
            axes[0].set_title("these runs")
            _draw_paper(axes[1], places, rows)
        return save(figure, folder, name)


def _draw_row(axes: "Axes", place: float, row: TableRow) -> None:
    found = row.statistics
    seeds = 100 * np.array(list(found.by_seed.values()))
    # Below the mean, spread by the order of seeds, so that equal ones stay apart
    offsets = np.linspace(-0.09, 0.09, len(seeds)) if len(seeds) > 1 else np.zeros(1)
    axes.scatter(seeds, place + 0.2 + offsets, s=11, color=OURS, alpha=0.55, linewidths=0, zorder=2)
    if found.over_seeds is not None:
        _draw_interval(axes, found.over_seeds, place - 0.12, 0, OURS)
    axes.scatter([100 * found.mean], [place - 0.12], s=44, color=OURS, edgecolors="white", linewidths=0.9, zorder=4)


def goes_beyond(found: Interval | None, least: float) -> bool:
    """Returns whether an interval reaches below `least` or above 100 %, where it is drawn with an arrowhead."""
    return found is not None and (100 * found.low < least or 100 * found.high > 100)


def _draw_interval(axes: "Axes", found: Interval, place: float, least: float, colour: str) -> None:
    """One wild interval, of few seeds, would leave no room for the others: what no score can be is cut off."""
    # An interval may lie beyond as a whole
    low, high = np.clip([100 * found.low, 100 * found.high], least, 100)
    axes.plot([low, high], [place, place], color=colour, linewidth=2.3, zorder=2)
    for end, is_cut, marker in ((low, 100 * found.low < least, "<"), (high, 100 * found.high > 100, ">")):
        if is_cut:
            axes.scatter([end], [place], s=30, marker=marker, color=colour, linewidths=0, zorder=2, clip_on=False)


def _draw_paper(axes: "Axes", places: np.ndarray, rows: Sequence[TableRow]) -> None:
    values = [row.paper or 0.0 for row in rows]
    axes.barh(places, values, height=0.55, color=PAPERS, alpha=0.55)
    for place, value in zip(places, values, strict=True):
        axes.annotate(f"{value:.0f}", (value, place), (3, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_xlim(0, max(values) * 1.22)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_title("the paper's")
    axes.set_xlabel("Qwen2.5-32B,\nAIME 2024,\navg@32,\none seed (%)", fontsize=9)


def draw_forest(table: Table, folder: Path, name: str) -> list[Path]:
    """
    Draws the differences to the previous and to the first row with their intervals over seeds, in points. A filled dot
    is a resolved difference, a hollow one is not. Draws nothing where there is no difference.
    """
    panels = [
        (reference, found)
        for reference in REFERENCES
        if (reference == "first" or (reference == "previous" and table.design.is_cumulative))
        and (found := [one for row in table.rows if (one := compared(row, reference)) is not None])
    ]
    if not panels:
        return []
    heights = [0.9 + len(found) for _, found in panels]
    grid = {"height_ratios": heights}
    height = 0.75 + _LINE * sum(heights) + 0.1 * len(panels)
    with new_figure(height, nrows=len(panels), sharex=True, gridspec_kw=grid) as (figure, axes):
        for one, (reference, found) in zip(axes, panels, strict=True):
            _draw_differences(one, found)
            one.set_title(f"minus the {reference} row")
        axes[-1].set_xlabel("difference in accuracy (points), paired by seed")
        return save(figure, folder, name)


def _draw_differences(axes: "Axes", found: Sequence[Difference]) -> None:
    axes.axvline(0, color=INK, linewidth=1, alpha=0.55, zorder=1)
    for place, one in enumerate(found):
        says = verdict(one)
        is_open = says != RESOLVED
        colour = PAPERS if is_open else OURS
        if one.over_seeds is not None:
            _draw_interval(axes, one.over_seeds, place, -100, colour)
        face = "white" if is_open else colour
        axes.scatter([100 * one.mean], [place], s=40, color=face, edgecolors=colour, zorder=3, linewidths=1.6)
        # Right of the axes, where no interval reaches
        axes.text(
            1.02,
            place,
            f"{points(one.mean)}  {says if is_open else ''}".rstrip(),
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(found)), [label(one.row) for one in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
