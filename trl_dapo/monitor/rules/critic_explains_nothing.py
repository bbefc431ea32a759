"""
Critic explains nothing: its values say no more of the returns than their mean.
"""

from statistics import fmean

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings


KEY = "value/explained_variance"
WINDOW = 8  # rollouts
BOUND = 0.0


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    series = seen.rollouts(KEY)
    now = fmean(series.last(WINDOW))
    if now > BOUND:
        return None
    return Symptom(
        series.steps[-WINDOW:][0],
        f"the critic explains {now:.0%} of the variance of the returns over {WINDOW} rollouts.",
        {"explained_variance": now},
        ("critic_learning_rate=three times as high", "critic_warmup_steps=more"),
    )


RULE = Rule(
    name="critic_explains_nothing",
    watches=lambda seen: seen.first_of(KEY),
    needs="`value/explained_variance`, which PPOTrainer logs",
    look=_look,
    minimum=2 * WINDOW,
    patience=2,
    advice="Let the critic learn faster or first: advantages are noise where it explains nothing.",
    reference="docs/ppo.md",
)
