"""
Weights not moving: updates have a gradient, and the weights that are trained stay as they are.

An adapter in bfloat16 at a learning rate of 1e-6 is the usual case: a step is less than half of the distance to the
next number that the format has, and is rounded away.
"""

from ..movement import MOVED
from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings


BOUND = 0.05  # of the entries


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    series = seen.series(MOVED)
    gradient = seen.series("grad_norm").last(1)
    rate = seen.row.values.get("learning_rate", 1.0)
    # A schedule begins or ends at 0
    if series.values[-1] > BOUND or not gradient or gradient[0] == 0 or rate == 0:
        return None
    rate = settings.number("learning_rate")
    change = f"learning_rate={10 * rate:.1e}" if rate else "learning_rate=ten times as high"
    return Symptom(
        series.since(lambda value: value <= BOUND),
        f"an update moves {series.values[-1]:.1%} of the entries of the trained weights, with a gradient "
        f"of {gradient[0]:.3g}.",
        {"moved": series.values[-1], "grad_norm": gradient[0]},
        ("adapters in float32", change),
    )


RULE = Rule(
    name="weights_not_moving",
    watches=lambda seen: seen.first_of(MOVED),
    needs=f"`{MOVED}`, which DiagnosisCallback logs",
    look=_look,
    minimum=4,
    patience=3,
    advice="Hold trained weights in float32 and raise the learning rate: steps are lost in rounding.",
    reference="docs/qlora.md",
    of_rollouts=False,
)
