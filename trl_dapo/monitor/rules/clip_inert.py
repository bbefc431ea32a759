"""
Clip inert: a clip range is set, and no token ever reaches it.

Where each rollout feeds one update, the ratio is exactly 1 and nothing can be clipped. That is as it should be, unless
an upper bound of its own was asked for (clip-higher): the setting does nothing then. Where a rollout feeds several
updates, the policy hardly moves within it.
"""

from bisect import bisect_left

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings


KEY = "clip_ratio/region_mean"
UPDATES = "dapo/updates_per_rollout"
WINDOW = 16  # rollouts


def updates_per_rollout(seen: Observations, settings: Settings) -> float | None:
    """Returns the optimizer updates that a rollout feeds, or `None` where neither log nor settings say it."""
    logged = seen.series(UPDATES).last(1)
    return logged[0] if logged else settings.updates_per_rollout


def clips_higher(settings: Settings) -> bool:
    """Returns whether an upper bound of its own is set."""
    high, low = settings.number("epsilon_high"), settings.number("epsilon")
    return high is not None and high != low


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    updates = updates_per_rollout(seen, settings)
    if updates is None or (updates <= 1 and not clips_higher(settings)):
        return None
    keys = (KEY, "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/high_max", "clip_ratio/low_min")
    since = seen.rollouts("reward").steps[-WINDOW:][0]
    for key in keys:
        series = seen.series(key)
        if any(series.values[bisect_left(series.steps, since) :]):
            return None
    return _of_one_update(settings) if updates <= 1 else _of_several(settings, updates, since)


def _of_one_update(settings: Settings) -> Symptom:
    accumulated = int(settings.number("gradient_accumulation_steps") or 1)
    return Symptom(
        0,
        f"epsilon_high={settings.get('epsilon_high')} has no effect: each rollout feeds one update, so the ratio is "
        "exactly 1 and nothing is clipped.",
        {"updates_per_rollout": 1.0, "clipped": 0.0},
        (f"steps_per_generation={8 * accumulated}", "updates_per_rollout=8"),
    )


def _of_several(settings: Settings, updates: float, since: int) -> Symptom:
    rate = settings.number("learning_rate")
    change = f"learning_rate={3 * rate:.1e}" if rate else "learning_rate=three times as high"
    return Symptom(
        since,
        f"no token was clipped in {WINDOW} rollouts of {updates:.0f} updates: the policy hardly moves.",
        {"updates_per_rollout": updates, "clipped": 0.0},
        (change,),
    )


RULE = Rule(
    name="clip_inert",
    watches=lambda seen: seen.first_of(KEY),
    needs="`clip_ratio/*`, and a loss with a clip range",
    look=_look,
    minimum=WINDOW,
    patience=1,
    advice="Make several updates of a rollout, or let the policy move further in them: a bound that nothing reaches "
    "changes nothing.",
    reference="DAPO (https://huggingface.co/papers/2503.14476), section 3.1",
)
