"""
Length grows without accuracy: completions get longer and are not more often right.
"""

from statistics import fmean

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings
from ..signals import accuracies, length
from ..trends import mann_kendall


WINDOW = 6  # rollouts
GROWTH = 1.5
GAIN = 0.02  # of accuracy since the start
CERTAIN = 2.33  # z of a rise, 1 %


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    lengths, right = seen.rollouts(str(length(seen))), accuracies(seen)
    start, now = fmean(lengths.values[:WINDOW]), fmean(lengths.last(WINDOW))
    if now < GROWTH * start or right is None or len(right) < 2 * WINDOW:
        return None
    accuracy = fmean(right.last(WINDOW))
    if accuracy - fmean(right.values[:WINDOW]) > GAIN or mann_kendall(lengths.values[-20:]) < CERTAIN:
        return None
    limit = settings.number("max_completion_length")
    cache = f"soft_punish_cache={limit / 5:.0f}" if limit else "soft_punish_cache=a fifth of the limit"
    return Symptom(
        lengths.since(lambda value: value > (1 + GROWTH) / 2 * start),
        f"completions grew from {start:.0f} to {now:.0f} tokens while accuracy stayed at {accuracy:.2f}.",
        {"length_at_start": start, "length": now, "accuracy": accuracy},
        ("soft_overlong_punishment=True", cache),
    )


RULE = Rule(
    name="length_growth",
    watches=lambda seen: length(seen) if seen.columns else None,
    needs="`completions/mean_length` and rewards",
    look=_look,
    minimum=2 * WINDOW,
    patience=2,
    advice="Punish length near the limit, and look at completions: padding and repetition pay off where the reward or "
    "the loss favours length.",
    reference="DAPO (https://huggingface.co/papers/2503.14476), section 3.4; Dr. GRPO "
    "(https://huggingface.co/papers/2503.20783)",
)
