"""
A run in a notebook: a table and two small charts, which change in place.

HTML and SVG of our own, every text escaped; colours are those of the notebook's theme.
"""

import time
from collections.abc import Callable
from html import escape
from typing import Any

from .charts import chart
from .metrics import Metric, shown
from .plain import middle, plain, tail
from .samples import Sample
from .series import bars, binned, direction
from .state import RunState
from .words import finding_words, progress, share, time_left


ARROWS = {1: "↑", -1: "↓", 0: ""}
# What the charts are of: the first two of these that a run has, and what it is about
FIRST, SECOND = ("accuracy", "reward"), ("informative", "entropy", "margin", "same reward", "length")
AT_LEAST, TIMES = 0.5, 200


class NotebookScreen:
    """
    Shows a run in the output of a cell.

    Args:
        clock (`Callable[[], float]`, *optional*, defaults to `time.monotonic`):
            Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._handle: Any = None
        self._not_before = float("-inf")

    def begin(self, state: RunState) -> None:
        """Displays the run for the first time."""
        self._show(state)

    def changed(self, state: RunState) -> None:
        """Changes what is displayed, where it is time."""
        if self._clock() >= self._not_before:
            self._show(state)

    def logged(self, state: RunState, entry: dict[str, Any]) -> None:
        """Changes what is displayed, where it is time."""
        self.changed(state)

    def end(self, state: RunState) -> None:
        """Displays the last state, which stays."""
        self._show(state)

    def _show(self, state: RunState) -> None:
        from IPython.display import HTML, display  # a notebook has it

        began = self._clock()
        shown_now = HTML(page(state))
        if self._handle is None:
            self._handle = display(shown_now, display_id=True)
        else:
            self._handle.update(shown_now)
        now = self._clock()
        self._not_before = now + max(AT_LEAST, TIMES * (now - began))


def page(state: RunState) -> str:
    """Returns a run as HTML, without a script."""
    side_by_side = f"{_table(state)}{_charts(state)}"
    parts = [_top(state), f'<div style="display:flex;flex-wrap:wrap;gap:12px 20px">{side_by_side}</div>']
    parts += [_sample(one) for one in state.samples]
    mark = "border-left:3px solid #e8590c;padding-left:8px;margin-top:6px"
    parts += [f'<div style="{mark}">{escape(finding_words(one))}</div>' for one in state.findings]
    return f'<div style="font:13px system-ui,sans-serif;color:inherit;max-width:900px">{"".join(parts)}</div>'


def _top(state: RunState) -> str:
    rollout, evaluating = state.rollout, state.evaluating
    words = [f"<b>{escape(plain(state.title))}</b>", f"step {state.step} of {state.max_steps}", time_left(state)]
    words += [escape(plain(state.ended or state.phase))]
    second = [progress(state)]
    if evaluating is not None:
        second.append(f"evaluation of {escape(plain(evaluating.name))}: {evaluating.done} of {evaluating.total}")
    elif rollout is not None:
        second.append(f"batch: {rollout.kept} of {rollout.wanted} informative groups, round {rollout.finished}")
    bar = f'<progress value="{share(state):.4f}" max="1" style="width:100%;height:8px"></progress>'
    return f"<div>{' · '.join(filter(None, words))}</div>{bar}<div style='opacity:.8'>{' · '.join(second)}</div>"


def _table(state: RunState) -> str:
    rows = []
    for metric in state.shown:
        series = state.series[metric.label]
        trend = bars(binned(series.values, 16), 16)
        value = "–" if series.last is None else shown(series.last, metric.form)
        cells = (
            f'<td style="text-align:left">{escape(plain(metric.label))}</td>',
            f'<td style="text-align:right"><b>{value}</b></td>',
            f'<td style="text-align:left;font-family:monospace;white-space:pre">{trend}</td>',
            f"<td>{ARROWS[direction(series.values)]}</td>",
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table style="font:inherit;color:inherit;margin:6px 0">{"".join(rows)}</table>' if rows else ""


def _charts(state: RunState) -> str:
    by_label = {one.label: one for one in state.shown}
    first = [by_label[label] for label in FIRST if label in by_label]
    second = [by_label[label] for label in SECOND if label in by_label][:1]
    drawn = [_chart(state, metrics) for metrics in (first, second) if metrics]
    return f'<div style="margin-top:6px">{"<br>".join(drawn)}</div>'


def _chart(state: RunState, metrics: list[Metric]) -> str:
    return chart([(one.label, state.series[one.label]) for one in metrics], metrics[0].form)


def _sample(sample: Sample) -> str:
    colour = "#2f9e44" if sample.kind in ("right", "best") else "#e03131"
    title = f'<b style="color:{colour}">{escape(sample.kind)}</b> reward {shown(sample.reward)}, step {sample.step}'
    prompt, completion = escape(tail(sample.prompt, 160)), escape(middle(sample.completion, 320))
    wrap = "white-space:pre-wrap;overflow-wrap:anywhere"
    return (
        f'<div style="margin-top:6px">{title}<div style="opacity:.7;{wrap}">{prompt}</div>'
        f'<div style="{wrap}">{completion}</div></div>'
    )
