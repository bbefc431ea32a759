"""
Held-out accuracy falls: the reward in training rises while accuracy on held-out prompts falls.
"""

import re
from statistics import fmean

from ..observations import Observations, Series
from ..rule import Rule, Symptom
from ..settings import Settings
from ..signals import accuracy


# What an evaluation measures, the one that says most first: of EvaluationCallback, of TRL, of DPO and reward models
HELD_OUT = (
    r"eval_.*avg@\d+",
    r"eval_rewards/(?!accuracies).+/mean",
    r"eval_reward",
    r"eval_rewards/accuracies",
    r"eval_accuracy",
)
TRAINING = ("rewards/accuracies", "accuracy")
FALL = 0.1
RISE = 0.02


def held_out(seen: Observations) -> str | None:
    """Returns the key of held-out accuracy."""
    evaluated = [key for key in seen.keys if key.startswith("eval_")]
    return next((key for kind in HELD_OUT for key in evaluated if re.fullmatch(kind, key)), None)


def _training(seen: Observations) -> Series | None:
    key = accuracy(seen) or seen.first_of(*TRAINING)
    return None if key is None else seen.series(key)


def _between(series: Series, first: int, last: int) -> list[float]:
    return [value for step, value in zip(series.steps, series.values, strict=True) if first < step <= last]


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    series, training = seen.series(str(held_out(seen))), _training(seen)
    # Two evaluations together are compared with two: one alone is too noisy
    pairs = [fmean(series.values[i : i + 2]) for i in range(len(series) - 1)]
    best = max(range(len(pairs)), key=pairs.__getitem__)
    if pairs[best] - pairs[-1] < FALL or training is None:
        return None
    start = series.steps[best - 1] if best else -1
    then = _between(training, start, series.steps[best + 1])
    now = _between(training, series.steps[-2], series.steps[-1])
    if not then or not now or fmean(now) < fmean(then) + RISE:
        return None
    return Symptom(
        series.steps[best + 1],
        f"held-out accuracy fell from {pairs[best]:.2f} to {pairs[-1]:.2f} while that in training rose from "
        f"{fmean(then):.2f} to {fmean(now):.2f}.",
        {"held_out_best": pairs[best], "held_out": pairs[-1], "training_then": fmean(then), "training": fmean(now)},
        ("num_train_epochs=fewer", "load_best_model_at_end=True"),
    )


RULE = Rule(
    name="held_out_falls",
    watches=held_out,
    needs="an evaluation: `eval_strategy`, or EvaluationCallback",
    look=_look,
    minimum=4,
    patience=1,
    advice="Take the checkpoint before the fall, and look at completions: the reward is gamed, or prompts are learned "
    "by heart.",
    reference="docs/evaluation.md",
    of_rollouts=False,
)
