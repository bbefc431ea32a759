"""
KL runaway: the policy leaves its reference far behind. Without a reference (`beta=0`) nothing is logged, or 0.
"""

from statistics import median

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings
from ..signals import accuracies, falls


PER_TOKEN, PER_COMPLETION = "kl", "objective/kl"
WINDOW = 3  # rollouts
FAR = 1.0  # nats per token, whatever accuracy does
APART, FALL = 0.2, 0.1  # nats per token, while accuracy falls by so much


def _per_token(seen: Observations) -> list[float]:
    series = seen.rollouts(PER_TOKEN)
    if len(series):
        return series.last(WINDOW)
    # PPO's is summed over a completion
    lengths = seen.rollouts("completions/mean_length").last(WINDOW)
    sums = seen.rollouts(PER_COMPLETION).last(WINDOW)
    return [total / max(size, 1.0) for total, size in zip(sums, lengths, strict=False)]


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    found = _per_token(seen)
    now = median(found) if found else 0.0
    if now < APART or (now < FAR and not falls(accuracies(seen), WINDOW, FALL)):
        return None
    beta = settings.number("beta")
    change = f"beta={2 * beta:.2g}" if beta else "beta=twice as high"
    return Symptom(
        seen.row.step,
        f"the policy is {now:.2g} nats per token from its reference.",
        {"kl": now},
        ("learning_rate=a third", change),
    )


RULE = Rule(
    name="kl_runaway",
    watches=lambda seen: seen.first_of(PER_TOKEN, PER_COMPLETION),
    needs="`kl` or `objective/kl`: a run with a reference",
    look=_look,
    minimum=WINDOW,
    patience=2,
    advice="Take a lower learning rate or a larger KL coefficient, and look at completions: so far from the "
    "reference, text is often no text any more.",
    reference="docs/ppo.md",
)
