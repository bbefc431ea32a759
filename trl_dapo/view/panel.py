"""
The panel of a terminal, as lines of a given width: a state in, text out.
"""

import textwrap
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from .metrics import Metric, shown
from .plain import head, middle, plain, tail
from .samples import Sample
from .series import bars, binned, direction
from .state import RunState
from .words import finding_words, progress, share, time_left


# Cells of a column at least, with the four between two; of a label, of a value, and of all that is not the small bars
COLUMN, LABEL, VALUE, REST = 40, 13, 8, 24
NARROW, WIDE = 46, 120
FINDINGS = 2


@dataclass(frozen=True)
class Signs:
    """What bars, arrows and gaps are drawn with."""

    full: str = "━"
    empty: str = "─"
    up: str = "↑"
    down: str = "↓"
    gap: str = "–"
    dot: str = "·"
    ascii_only: bool = False


PLAIN_SIGNS = Signs("#", "-", "^", "v", "-", "|", ascii_only=True)


def panel(state: RunState, width: int, height: int = 40, signs: Signs | None = None) -> list[Text]:
    """
    Returns the lines that show a run, none wider than `width` cells.

    Where the terminal is too low for all of them, samples are left out first, then metrics from the last one on.

    Args:
        state ([`RunState`]):
            The run.
        width, height (`int`):
            Cells and lines that there are.
        signs ([`Signs`], *optional*):
            What is drawn with; [`PLAIN_SIGNS`] for terminals without Unicode.
    """
    signs = signs or Signs()
    top, warnings = _top(state, width, signs), _warnings(state, width)
    cells = _metrics(state, width, signs)
    samples = _samples(state.samples, width)
    # A blank line stands before each block but the first
    room = max(height - len(top) - len(warnings) - bool(warnings), 0)
    cells = cells[: max(room - 1, 0)]
    if len(cells) + len(samples) + 2 > room:
        samples = []
    blocks = [block for block in (top, cells, samples, warnings) if block]
    lines = [line for block in blocks for line in ([Text()] if block is not top else []) + block]
    for line in lines:
        line.no_wrap = True
        line.truncate(max(width, 1), overflow="ellipsis")
    return [Text(_ascii(line.plain)) for line in lines] if signs.ascii_only else lines


def _ascii(text: str) -> str:
    return text.replace("…", "~").replace("⏎", "/").replace("·", "|").encode("ascii", "replace").decode()


def _top(state: RunState, width: int, signs: Signs) -> list[Text]:
    place = f"step {state.step} of {state.max_steps}"
    left, percent = time_left(state), f"{share(state):4.0%}"
    lines = []
    if width >= NARROW:
        room = max(width - len(place) - len(percent) - max(len(left), 10) - 5, 4)
        bar = _bar(share(state), min(room, 60), signs, "cyan")
        lines.append(Text.assemble((place, "bold"), "  ", bar, " ", percent, "  ", left))
    else:
        lines.append(Text.assemble((place, "bold"), percent, "  ", left))
    now = state.ended or _phase(state)
    lines.append(Text(" · ".join(filter(None, (progress(state), plain(now))))))
    lines += _evaluating(state, signs) if state.evaluating is not None else _rollout(state, width, signs)
    return lines


def _phase(state: RunState) -> str:
    rollout = state.rollout
    return f"{state.phase} round {rollout.finished + 1}" if rollout and state.phase == "generating" else state.phase


def _rollout(state: RunState, width: int, signs: Signs) -> list[Text]:
    rollout = state.rollout
    if rollout is None:
        return []
    words = f"{rollout.kept} of {rollout.wanted} informative groups"
    rounds = f"round {rollout.finished} of {rollout.most}" if rollout.finished else ""
    bar = _bar(rollout.kept / max(rollout.wanted, 1), 20 if width >= NARROW else 8, signs, "green")
    return [Text.assemble("batch ", bar, " ", " · ".join(filter(None, (words, rounds))))]


def _evaluating(state: RunState, signs: Signs) -> list[Text]:
    one = state.evaluating
    if one is None:
        return []
    bar = _bar(one.done / max(one.total, 1), 20, signs, "magenta")
    return [Text.assemble("eval  ", bar, f" {one.done} of {one.total} · {plain(one.name)}")]


def _bar(part: float, width: int, signs: Signs, style: str) -> Text:
    done = min(max(int(part * width + 0.5), 0), width)
    return Text.assemble((signs.full * done, style), (signs.empty * (width - done), "dim"))


def _metrics(state: RunState, width: int, signs: Signs) -> list[Text]:
    metrics = state.shown
    columns = max((width + 4) // COLUMN, 1)
    spark = max((width + 4) // columns - 4 - REST, 0)
    rows = -(-len(metrics) // columns)
    lines = []
    for row in range(rows):
        line = Text()
        for place, metric in enumerate(metrics[row::rows]):
            line.append("    " if place else "").append(_cell(state, metric, spark, signs))
        lines.append(line)
    return lines


def _cell(state: RunState, metric: Metric, spark: int, signs: Signs) -> Text:
    series = state.series[metric.label]
    value = signs.gap if series.last is None else shown(series.last, metric.form)
    trend = bars(binned(series.values, spark), spark, signs.ascii_only).ljust(spark)
    arrow = {1: signs.up, -1: signs.down, 0: " "}[direction(series.values)]
    label = head(plain(metric.label), LABEL).ljust(LABEL)
    return Text.assemble(label, (value.rjust(VALUE), "bold"), " ", (trend, "cyan"), " ", arrow)


def _samples(samples: tuple[Sample, ...], width: int) -> list[Text]:
    if width >= WIDE and len(samples) == 2:
        half = (width - 4) // 2
        left, right = (_sample(one, half) for one in samples)
        return [_beside(one, other, half) for one, other in zip(left, right, strict=True)]
    return [line for one in samples for line in _sample(one, width)]


def _sample(sample: Sample, width: int) -> list[Text]:
    good = sample.kind in ("right", "best")
    style = "green" if good else "red"
    title = Text.assemble((sample.kind, f"bold {style}"), f"  reward {shown(sample.reward)}, step {sample.step}")
    # Wide characters take two cells
    wide = cell_len(sample.completion) > len(sample.completion)
    room = max((width - 2) // (1 + wide), 1)
    prompt = Text("  " + tail(sample.prompt, room), style="dim")
    completion = middle(sample.completion, 2 * room)
    # Two lines, broken where the width ends
    first, second = completion[:room], completion[room:]
    return [title, prompt, Text(f"  {first}"), Text(f"  {second}".rstrip())]


def _beside(one: Text, other: Text, half: int) -> Text:
    one.truncate(half, overflow="ellipsis", pad=True)
    return Text.assemble(one, "    ", other)


def _warnings(state: RunState, width: int) -> list[Text]:
    lines = []
    for one in state.findings[-FINDINGS:]:
        words = textwrap.wrap(finding_words(one), max(width - 2, 1), max_lines=2, placeholder=" …")
        lines += [Text(mark + part, style="yellow") for mark, part in zip(("! ", "  "), words, strict=False)]
    more = len(state.findings) - FINDINGS
    return [*lines, Text(f"  and {more} before", style="yellow")] if more > 0 else lines
