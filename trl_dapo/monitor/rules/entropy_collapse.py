"""
Entropy collapse: entropy falls to a fraction of what it was while accuracy is flat.

A fall with rising accuracy is learning. Without, the policy gives up alternatives and has nothing in exchange.
"""

from statistics import median

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings
from ..signals import accuracies, is_flat
from ..trends import mann_kendall


WINDOW = 8  # rollouts
FRACTION = 0.1  # of the start
FLAT = 0.02  # gain of accuracy from one window to the next
SOLVED = 0.9  # accuracy from which a low entropy is as it should be
CERTAIN = 1.64  # z of a fall, 5 %


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    entropy, right = seen.rollouts("entropy"), accuracies(seen)
    start, now = median(entropy.values[: WINDOW // 2]), median(entropy.last(WINDOW // 2))
    if now > FRACTION * start or right is None or right.values[-1] >= SOLVED or not is_flat(right, WINDOW, FLAT):
        return None
    if mann_kendall(entropy.last(2 * WINDOW)) > -CERTAIN and now > 0.01:
        return None
    return Symptom(
        entropy.since(lambda value: value < 3 * FRACTION * start),
        f"entropy fell from {start:.3g} to {now:.3g} nats per token while accuracy stayed at {right.values[-1]:.2f}.",
        {"entropy_at_start": start, "entropy": now, "accuracy": right.values[-1]},
        ("epsilon_high=0.28", "learning_rate=a third"),
    )


RULE = Rule(
    name="entropy_collapse",
    watches=lambda seen: "entropy" if seen.columns else None,
    needs="`entropy` and rewards",
    look=_look,
    minimum=2 * WINDOW,
    patience=2,
    advice="Let rare tokens grow (clip-higher), or take a lower learning rate: the policy stops exploring.",
    reference="DAPO (https://huggingface.co/papers/2503.14476), section 3.1",
)
