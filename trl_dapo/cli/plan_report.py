"""
`trl-dapo plan --report RUN`: what was predicted beside what a run has measured, by phase.

On a GPU, tensors are compared with tensors. On a CPU only the process's memory is known, with all libraries in it, so
what is compared is how far each phase rises above the loaded model.
"""

from dataclasses import dataclass
from typing import Any

from trl_dapo.planning.measured import RunMeasured
from trl_dapo.planning.memory_plan import MemoryPlan

from .plan_display import gib


LOADED = "load"


@dataclass(frozen=True)
class Row:
    """
    A phase, predicted and measured.

    Args:
        phase (`str`):
            Its name.
        predicted, measured (`int`):
            Bytes.
    """

    phase: str
    predicted: int
    measured: int

    @property
    def error(self) -> float | None:
        """Relative error of the prediction, or `None` where nothing was measured."""
        return None if self.measured <= 0 else self.predicted / self.measured - 1


def compared(plan: MemoryPlan, measured: RunMeasured) -> list[Row]:
    """Returns a row for each phase that was predicted and measured, and on a GPU one for the loaded model."""
    predicted = {phase.name: phase.bytes for phase in plan.phases}
    on_gpu = measured.device == "cuda"
    base = 0 if on_gpu else predicted.get(LOADED, 0)
    start = 0 if on_gpu else measured.at_start_bytes
    rows = [
        Row(name, predicted[name] - base, one.peak_bytes - start)
        for name, one in measured.phases.items()
        if name in predicted
    ]
    loaded = [Row(LOADED, predicted[LOADED], measured.at_start_bytes)] if on_gpu and LOADED in predicted else []
    return loaded + rows


def report_lines(rows: list[Row], measured: RunMeasured) -> list[str]:
    """Returns the comparison as a table of text."""
    above = "" if measured.device == "cuda" else ", above the loaded model (a CPU's memory holds the libraries too)"
    lines = [
        f"{measured.steps} steps on {measured.device}{above}",
        f"{'phase':<9} {'predicted':>11} {'measured':>11} {'error':>8} {'seconds':>9} {'tokens/s':>9}",
    ]
    for row in rows:
        one = measured.phases.get(row.phase)
        error = "" if row.error is None else f"{row.error:+.1%}"
        seconds = "" if one is None else f"{one.seconds:.1f}"
        speed = "" if one is None or one.seconds <= 0 else f"{one.tokens / one.seconds:.0f}"
        lines.append(
            f"{row.phase:<9} {gib(row.predicted):>11} {gib(row.measured):>11} {error:>8} {seconds:>9} {speed:>9}"
        )
    if not rows:
        lines.append("no phase was both predicted and measured")
    return lines


def report_dict(rows: list[Row], measured: RunMeasured) -> dict[str, Any]:
    """Returns the comparison as JSON has it."""
    return {
        "device": measured.device,
        "steps": measured.steps,
        "phases": [
            {"name": row.phase, "predicted_bytes": row.predicted, "measured_bytes": row.measured, "error": row.error}
            for row in rows
        ],
    }
