"""
A run as one line per log, for a pipe, a log file or CI: a few metrics at the same places, not sixty on one line.
"""

from typing import Any, TextIO

from .metrics import held_out_metrics, shown
from .plain import plain
from .state import RunState
from .words import count, duration, share


# Places of a value: the longest is a power of ten with a sign
VALUE = 8


def log_line(state: RunState) -> str:
    """Returns the line of the last log. A metric that has no value in it has a dash; one that never had any is out."""
    width = len(str(state.max_steps))
    left = state.seconds_left
    parts = [
        f"step {state.step:>{width}}/{state.max_steps}",
        f"{share(state):4.0%}",
        f"left {'-' if left is None else duration(left):<10}",
        f"{state.unit} {count(state.units):>9}",
    ]
    for metric in state.metrics:
        if metric.label in state.series:
            value = state.series[metric.label].last
            text = "-" if value is None else shown(value, metric.form)
            parts.append(f"{metric.label} {text:<{VALUE}}")
    return "  ".join(parts).rstrip()


def evaluation_line(entry: dict[str, Any], step: int) -> str:
    """Returns the line of an evaluation's log."""
    values = [(one, one.of(entry)) for one in held_out_metrics(entry)]
    told = [f"{plain(one.label)} {shown(value, one.form)}" for one, value in values if value is not None]
    return "  ".join([f"evaluation at step {step}", *told])


def end_line(state: RunState) -> str:
    """Returns the last line of a run, with the names of what was found in it."""
    found = ", ".join(dict.fromkeys(plain(finding.rule) for finding in state.findings))
    return (
        f"{plain(state.ended)}: step {state.step} of {state.max_steps}, {count(state.units)} {state.unit}, "
        + duration(state.seconds)
        + (f"; found: {found}" if found else "")
    )


class LineScreen:
    """
    Writes lines to a stream.

    Args:
        stream (`TextIO`):
            Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def begin(self, state: RunState) -> None:
        """Nothing is known yet that is worth a line."""

    def changed(self, state: RunState) -> None:
        """What changes between two logs is worth no line; findings are told by the logger."""

    def logged(self, state: RunState, entry: dict[str, Any]) -> None:
        """Writes the line of a log."""
        self._write(evaluation_line(entry, state.step) if held_out_metrics(entry) else log_line(state))

    def end(self, state: RunState) -> None:
        """Writes how the run ended."""
        self._write(end_line(state))

    def _write(self, line: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
        self._stream.flush()
