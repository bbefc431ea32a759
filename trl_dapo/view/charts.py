"""
A small chart of one or two series as SVG, in the colours of the page around it, light or dark.
"""

import math
from collections.abc import Sequence
from html import escape

from .metrics import Form, shown
from .series import Series


WIDTH, HEIGHT = 380, 150
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 24, 20
# Legible on white and on black
COLOURS = ("#3b82f6", "#e8590c")
MOST_POINTS = 300


def chart(lines: Sequence[tuple[str, Series]], form: Form = "number") -> str:
    """
    Returns a chart, empty where no series has a value.

    Args:
        lines (`Sequence[tuple[str, Series]]`):
            Label and series of one line or two. Where a series has a gap, so has its line.
        form (`str`, *optional*, defaults to `"number"`):
            How the numbers at the axis are written.
    """
    known = [(label, one) for label, one in lines if one.known]
    if not known:
        return ""
    values = [value for _, one in known for value in one.known]
    low, high = min(values), max(values)
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    first, last = min(one.steps[0] for _, one in known), max(one.steps[-1] for _, one in known)
    parts = [_frame(low, high, first, last, form)]
    for number, (label, one) in enumerate(known[: len(COLOURS)]):
        colour = COLOURS[number]
        parts += [_line(run, low, high, first, last, colour) for run in _runs(one)]
        parts.append(f'<text x="{LEFT + 165 * number}" y="14" fill="{colour}">{escape(label)}</text>')
    style = "font:11px system-ui,sans-serif;color:inherit;max-width:100%"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{escape(" and ".join(label for label, _ in known))}" style="{style}">'
        + "".join(parts)
        + "</svg>"
    )


def _frame(low: float, high: float, first: int, last: int, form: Form) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    line = 'stroke="currentColor" stroke-opacity="0.25"'
    text = 'fill="currentColor" fill-opacity="0.75"'
    return (
        f'<path d="M{LEFT} {TOP}H{right}M{LEFT} {bottom}H{right}" fill="none" {line}/>'
        f'<text x="{LEFT - 5}" y="{TOP + 4}" text-anchor="end" {text}>{shown(high, form)}</text>'
        f'<text x="{LEFT - 5}" y="{bottom + 4}" text-anchor="end" {text}>{shown(low, form)}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 5}" {text}>step {first}</text>'
        f'<text x="{right}" y="{HEIGHT - 5}" text-anchor="end" {text}>{last}</text>'
    )


def _runs(series: Series) -> list[list[tuple[int, float]]]:
    """Returns the points between gaps, thinned where they are closer than a screen shows."""
    every = math.ceil(len(series.steps) / MOST_POINTS)
    runs: list[list[tuple[int, float]]] = [[]]
    for place, (step, value) in enumerate(zip(series.steps, series.values, strict=True)):
        if value is None:
            runs.append([])
        elif place % every == 0 or place == len(series.steps) - 1 or not runs[-1]:
            runs[-1].append((step, value))
    return [run for run in runs if run]


def _line(run: list[tuple[int, float]], low: float, high: float, first: int, last: int, colour: str) -> str:
    across, down = WIDTH - RIGHT - LEFT, HEIGHT - BOTTOM - TOP

    def place(step: int, value: float) -> str:
        x = LEFT + across * ((step - first) / (last - first) if last > first else 0.5)
        # Halves, because the difference of two large numbers overflows
        y = TOP + down * ((high / 2 - value / 2) / (high / 2 - low / 2))
        return f"{x:.1f} {y:.1f}"

    points = [place(*point) for point in run]
    if len(points) == 1:
        x, y = points[0].split()
        return f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>'
    return f'<path d="M{"L".join(points)}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>'
