"""
Gradient spikes: single updates far larger than those before, again and again.
"""

from statistics import median

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings


RECENT, BASELINE = 20, 20  # logs
# Single updates of ten times the usual size are seen in healthy runs with few rows
TIMES = 10.0
SPIKES = 3


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    series = seen.series("grad_norm")
    recent = series.last(RECENT)
    usual = median(series.values[-RECENT - BASELINE : -RECENT] or recent)
    # Cheap first: most updates are no spike
    if usual <= 0 or max(recent) <= TIMES * usual:
        return None
    spikes = [step for step, value in zip(series.steps[-len(recent) :], recent, strict=True) if value > TIMES * usual]
    if len(spikes) < SPIKES:
        return None
    clip = settings.number("max_grad_norm")
    return Symptom(
        spikes[0],
        f"{len(spikes)} of the last {len(recent)} logged updates had a gradient above {TIMES:.0f} times the usual "
        f"{usual:.3g}, up to {max(recent):.3g}.",
        {"spikes": float(len(spikes)), "usual": usual, "largest": max(recent)},
        (f"max_grad_norm={min(clip or 1.0, 2 * usual):.2g}", "learning_rate=a third"),
    )


RULE = Rule(
    name="gradient_spikes",
    watches=lambda seen: seen.first_of("grad_norm"),
    needs="`grad_norm`",
    look=_look,
    minimum=16,
    patience=1,
    advice="Clip gradients lower or take a lower learning rate, and look at the rows of these updates: short, rare "
    "completions with a large advantage make such steps.",
    reference="docs/diagnosis.md",
    of_rollouts=False,
)
