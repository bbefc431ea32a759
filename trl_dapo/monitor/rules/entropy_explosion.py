"""
Entropy explosion: entropy rises far above what it was while accuracy falls.
"""

from statistics import median

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings
from ..signals import accuracies, falls


WINDOW = 3  # rollouts
TIMES = 2.0
FALL = 0.1  # of accuracy


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    entropy, right = seen.rollouts("entropy"), accuracies(seen)
    start, now = median(entropy.values[:WINDOW]), median(entropy.last(WINDOW))
    if now < TIMES * start or right is None or not falls(right, WINDOW, FALL):
        return None
    rate = settings.number("learning_rate")
    change = f"learning_rate={rate / 3:.1e}" if rate else "learning_rate=a third"
    return Symptom(
        entropy.since(lambda value: value > TIMES * start),
        f"entropy rose from {start:.3g} to {now:.3g} nats per token while accuracy fell to {right.values[-1]:.2f}.",
        {"entropy_at_start": start, "entropy": now, "accuracy": right.values[-1]},
        (change, "epsilon_high=0.2"),
    )


RULE = Rule(
    name="entropy_explosion",
    watches=lambda seen: "entropy" if seen.columns else None,
    needs="`entropy` and rewards",
    look=_look,
    minimum=2 * WINDOW,
    patience=2,
    advice="Take a lower learning rate or a lower upper clip bound: the policy dissolves into noise.",
    reference="DAPO (https://huggingface.co/papers/2503.14476), section 4.3",
)
