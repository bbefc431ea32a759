"""
Pieces of the page: each takes text from anywhere and returns HTML in which that text is text.
"""

from collections.abc import Iterable, Sequence

from .escaping import as_html
from .grids import Cell, Grid
from .numbers import NOTHING


def grid_as_html(grid: Grid, caption: str) -> str:
    """Returns a grid as a table that is sorted by its headings."""
    headings = [
        f'<th scope="col"{" class=text" if number < grid.texts else ""}>{as_html(one)}</th>'
        for number, one in enumerate(grid.columns)
    ]
    return _sortable("".join(headings), [_row(row, grid.texts) for row in grid.rows], caption)


def _row(cells: Sequence[Cell], texts: int) -> str:
    first, *others = cells
    html = [f'<tr><th scope="row">{as_html(first.text)}</th>']
    for number, cell in enumerate(others, start=1):
        classes = " ".join(["text"] * (number < texts) + ["open"] * cell.is_open)
        value = "" if cell.value is None else f' data-value="{float(cell.value)!r}"'
        kind = f' class="{classes}"' if classes else ""
        html.append(f"<td{kind}{value}>{as_html(cell.text)}</td>")
    return "".join(html) + "</tr>"


def texts_as_html(columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """Returns a sortable table of text."""
    headings = "".join(f'<th scope="col" class="text">{as_html(one)}</th>' for one in columns)
    lines = [
        f'<tr><th scope="row">{as_html(first)}</th>'
        + "".join(f'<td class="text long">{as_html(one)}</td>' for one in others)
        + "</tr>"
        for first, *others in rows
    ]
    return _sortable(headings, lines, caption)


def _sortable(headings: str, lines: Sequence[str], caption: str) -> str:
    body = "\n".join(lines)
    table = f'<table class="sortable"><thead><tr>{headings}</tr></thead><tbody>\n{body}\n</tbody></table>'
    # In the order of the Tab key, so that a wide table can be scrolled without a mouse
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{as_html(caption)}">{table}</div>'


def listed(lines: Sequence[str], kind: str = "") -> str:
    """Returns a list, nothing for no lines."""
    if not lines:
        return ""
    items = "".join(f"<li>{as_html(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if kind else f"<ul>{items}</ul>"


def folded(title: str, html: str) -> str:
    """Returns HTML that is shown when its title is clicked."""
    return f"<details><summary>{as_html(title)}</summary>{html}</details>" if html else ""


def figure_as_html(svg: str, caption: str) -> str:
    """Returns a figure; `svg` is markup."""
    return f"<figure>{svg}<figcaption>{as_html(caption)}</figcaption></figure>"


def values_as_html(values: dict[str, list[str]], columns: Sequence[str], caption: str) -> str:
    """Returns a table of names and the values that each has, nothing for no names."""
    rows = [(name, " | ".join(those) or NOTHING) for name, those in values.items()]
    return texts_as_html(columns, rows, caption) if rows else ""
