"""
The futures side by side: `index.html`, `futures.svg` and `.png`, and `futures.json` with all numbers.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..ablation.report.document import as_document
from ..ablation.report.drawing import GREY, for_page, label, line_style, new_figure, save
from ..ablation.report.escaping import as_html
from ..ablation.report.page_tables import figure_as_html, folded, listed, texts_as_html
from ..host.whole_files import write_whole
from .fields import ACTS
from .futures import Row, Told, points, rows_of, shown_metrics
from .proof import Proof


NAME = "futures"
NOTHING = "–"
MOST_DRAWN = 6


@dataclass(frozen=True)
class Report:
    """
    What a rewind has found.

    Args:
        run (`str`):
            Folder of the run.
        command (`str`):
            Its training command.
        to, base, end (`int`):
            The step that was asked for, that of the checkpoint, and where the futures end.
        told (`Sequence[Told]`):
            The futures, the unchanged one first.
        moved (`dict[str, dict[str, tuple[Any, Any]]]`):
            By name of a branch, the fields that differ, each with the run's value and the branch's.
        proof ([`Proof`]):
            Whether the unchanged one is the run.
        past (`Sequence[dict[str, Any]]`):
            The run's log up to the checkpoint, drawn before the futures.
        notes (`Sequence[str]`):
            Further lines.
    """

    run: str
    command: str
    to: int
    base: int
    end: int
    told: Sequence[Told]
    moved: Mapping[str, Mapping[str, tuple[Any, Any]]]
    proof: Proof
    past: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()

    @property
    def title(self) -> str:
        """Its heading."""
        return f"Futures of step {self.base}"


def write_report(report: Report, folder: Path) -> Path:
    """Writes the files of a report and returns the page. Raises `OSError` where there is no room for them."""
    metrics = shown_metrics(report.told)
    rows = rows_of(report.told, metrics)
    write_whole(folder / f"{NAME}.json", json.dumps(_finite(_values(report, metrics, rows)), indent=1))
    svg = _draw(report, metrics[:MOST_DRAWN], folder)
    page = folder / "index.html"
    write_whole(page, as_document(report.title, _body(report, metrics, rows, svg)))
    return page


def cells(row: Row, metrics: Sequence[str]) -> list[str]:
    """Returns a row of the table as text: the last value of each metric, with the mean behind it."""
    return [row.name, *(cell(row, place) for place in range(len(metrics))), _findings(row)]


def cell(row: Row, place: int) -> str:
    """Returns the last value of a future's metric, with its mean behind it."""
    last, mean = row.last[place], row.mean[place]
    return NOTHING if last is None else f"{_number(last)} ({_number(mean)})"


def headings(metrics: Sequence[str]) -> list[str]:
    """Returns the headings of the table."""
    return ["future", *metrics, "findings"]


def _findings(row: Row) -> str:
    if row.failure:
        return f"failed: {row.failure}"
    return NOTHING if row.findings is None else ", ".join(row.findings) or "none"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}"


def _body(report: Report, metrics: Sequence[str], rows: Sequence[Row], svg: str) -> list[str]:
    facts = {"run": report.run, "command": report.command, "begins at step": report.base, "ends at step": report.end}
    shown = "".join(f"<div><dt>{name}</dt><dd>{as_html(str(value))}</dd></div>" for name, value in facts.items())
    verdict = "" if report.proof.holds else "problems"
    changes = [
        [name, field, _text(before), _text(after), ACTS.get(field, "")]
        for name, own in report.moved.items()
        for field, (before, after) in own.items()
    ]
    caption = f"Until step {report.base} the run; after it each future. Same random numbers, same prompts."
    table = texts_as_html(headings(metrics), [cells(row, metrics) for row in rows], "futures")
    return [
        f"<h1>{as_html(report.title)}</h1>",
        f'<dl class="facts">{shown}</dl>',
        listed([str(report.proof)], verdict),
        listed(report.notes),
        f"<h2>Side by side</h2><p>At the end of each future, and in brackets its mean.{_mark(report)}</p>{table}",
        figure_as_html(for_page(svg, NAME, as_html(caption)), caption + _mark(report)),
        "<h2>What differs</h2>"
        + texts_as_html(["future", "field", "the run", "the future", "acts"], changes, "what differs"),
        folded("What was compared with the run", listed(_compared(report.proof))),
    ]


def _mark(report: Report) -> str:
    return "" if report.proof.holds else " Not causal: see above."


def _compared(proof: Proof) -> list[str]:
    return [
        f"logged numbers: {proof.values}, of steps {proof.base + 1} to {proof.last}; what a clock or the machine says "
        "is left out",
        f"tensors: {proof.tensors}, of checkpoints at steps {', '.join(map(str, proof.checkpoints)) or 'none'}",
        f"first difference: {proof.difference or 'none'}",
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _values(report: Report, metrics: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "version": 1,
        "run": report.run,
        "command": report.command,
        "to": report.to,
        "base": report.base,
        "end": report.end,
        "causal": report.proof.holds,
        "proof": asdict(report.proof),
        "moved": {name: {key: list(pair) for key, pair in own.items()} for name, own in report.moved.items()},
        "metrics": list(metrics),
        "futures": [asdict(row) for row in rows],
        "curves": {
            one.name: {key: points(one.future, key) for key in metrics}
            for one in report.told
            if one.future is not None
        },
    }


def _finite(value: Any) -> Any:
    """Returns a value as JSON has it: what is no number there is text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _draw(report: Report, metrics: Sequence[str], folder: Path) -> str:
    columns = 2 if len(metrics) > 1 else 1
    lines = max(1, -(-len(metrics) // columns))
    with new_figure(1.7 * lines + 0.5, nrows=lines, ncols=columns, sharex=True) as (figure, axes):
        for ax, key in zip(axes, metrics, strict=False):
            _draw_metric(ax, key, report)
        for ax in axes[len(metrics) :]:
            ax.set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        return next(p for p in save(figure, folder, NAME) if p.suffix == ".svg").read_text(encoding="utf-8")


def _draw_metric(ax: Any, key: str, report: Report) -> None:
    length = max(1, report.end - report.base)
    past = [(e["step"], e[key]) for e in report.past if report.base - length <= e["step"] and _is_number(e.get(key))]
    past = [(step, value) for step, value in past if step <= report.base]
    if past:
        ax.plot(*zip(*past, strict=True), color=GREY, linewidth=1.2)
    for number, one in enumerate(report.told):
        found = points(one.future, key) if one.future else []
        joined = [*past[-1:], *found]
        ax.plot(*(zip(*joined, strict=True) if joined else ([], [])), label=label(one.name), **line_style(number))
    ax.axvline(report.base, color=GREY, linewidth=0.8, linestyle=":")
    ax.set_title(label(key), fontsize=8)
    ax.tick_params(labelsize=7)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
