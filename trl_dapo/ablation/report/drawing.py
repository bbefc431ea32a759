"""
How figures look, and how they become files: the same runs give the same bytes.
"""

import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .escaping import shortened


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.0  # inches: a column of text in print, and the width of a phone at half size
INK = "#1f2328"  # the colour of text and axes, which the page replaces by the one of its own text
# Okabe and Ito's colours, which the colour-blind tell apart, without the yellow that white paper swallows
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#8C6BB1")
GREY = "#8a8f98"
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
LONGEST_LABEL = 34

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a row may be called "$x^$"
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "savefig.dpi": 160,
}

_VIEW_BOX = re.compile(r'viewBox="([^"]*)"')


@contextmanager
def new_figure(height: float, **subplots) -> "Generator[tuple[Figure, list[Axes]]]":
    """Yields a figure and its axes. Needs matplotlib; knows no window system and changes no global state."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE), warnings.catch_warnings():
        # Names in scripts that the font lacks: a box in the PNG, the browser's font in the SVG
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(squeeze=False, **subplots)
        yield figure, list(axes.flat)


def save(figure: "Figure", folder: Path, name: str) -> list[Path]:
    """Writes `<name>.svg` and `<name>.png` and returns them."""
    from matplotlib import rc_context

    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    # Once for both files: it takes as long as drawing does
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine("none")
    # Ids of clip paths hang on the salt. Without dates and versions, the same figure is the same file
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, metadata={"Date": None, "Creator": None}, transparent=True)
    figure.savefig(png, metadata={"Software": None}, facecolor="white")
    return [png, svg]


def label(name: str) -> str:
    """Returns a name as a figure can show it."""
    return shortened(name, LONGEST_LABEL)


def _page_colour(found: re.Match) -> str:
    """The page's own colour in place of one of these, so that it can be lighter on a dark page."""
    colours = [*map(str.lower, COLOURS), GREY]
    colour = found.group().lower()
    if colour == INK:
        return "currentColor"
    if colour == "#ffffff":
        return "var(--paper)"
    return f"var(--c{colours.index(colour)})" if colour in colours else colour


def line_style(number: int) -> dict[str, Any]:
    """Returns colour and dashes of a row: the dashes tell rows apart that have the same colour, and in print."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[(number + number // len(COLOURS)) % len(DASHES)],
    }


def for_page(svg: str, name: str, described: str) -> str:
    """
    Returns a figure for the body of a page: one `<svg>` in the colour of the text around it, with ids of its own.

    Args:
        svg (`str`):
            Content of the file.
        name (`str`):
            What its ids begin with.
        described (`str`):
            What it shows, already escaped.
    """
    body = svg[svg.index("<svg") :]
    # Of no use there, and the style would hold for the whole page
    body = re.sub(r"<metadata>.*?</metadata>|<style\b.*?</style>", "", body, flags=re.S)
    body = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", body).replace("xlink:href=", "href=")
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(url\(#|href="#)', rf"\1{name}-", body)
    body = re.sub(r"#[0-9a-fA-F]{6}\b", _page_colour, body)
    opening = f'<svg viewBox="{_VIEW_BOX.search(body).group(1)}" role="img" aria-label="{described}">'  # ty: ignore
    return opening + body[body.index(">") + 1 :].strip()
