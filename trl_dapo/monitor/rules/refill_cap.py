"""
Refill cap hit: rollout after rollout, dynamic sampling spends its rounds and the batch is not full.
"""

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings


EXHAUSTED = "dapo/exhausted"
BOUND = 0.5  # of the rollouts that a log is the mean of


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    series = seen.rollouts(EXHAUSTED)
    rounds = settings.number("max_refill_rounds")
    # Without rounds, degenerate groups are left out by intent
    if series.values[-1] < BOUND or rounds == 0 or not any(seen.rollouts("dapo/refill_rounds").values):
        return None
    informative = seen.rollouts("dapo/frac_informative").values[-1]
    change = f"max_refill_rounds={2 * rounds:.0f}" if rounds else "max_refill_rounds=twice as many"
    return Symptom(
        series.steps[-1],
        f"the batch is not full when all rounds are spent: {informative:.0%} of the groups are informative.",
        {"exhausted": series.values[-1], "informative": informative},
        (change, "prompts of medium difficulty"),
    )


RULE = Rule(
    name="refill_cap",
    watches=lambda seen: seen.first_of(EXHAUSTED),
    needs="`dapo/exhausted`, which DAPOTrainer logs",
    look=_look,
    minimum=1,
    patience=3,
    advice="Raise the limit, or find out why groups are degenerate: rows without an informative group teach nothing.",
    reference="docs/dynamic_sampling.md",
)
