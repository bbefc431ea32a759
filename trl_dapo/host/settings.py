"""
Numbers in a config that cannot be meant, which TRL and transformers train with all the same.

A negative weight decay makes weights grow, a `beta` of 0 makes DPO's loss log 2 whatever the model does, and after 0
epochs an untrained model is saved. Each name is checked in every config that has it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What a number must be, as a function and in words."""

    holds: Callable[[float], bool]
    words: str


NOT_NEGATIVE = Rule(lambda value: value >= 0, "must not be negative")
ABOVE_ZERO = Rule(lambda value: value > 0, "must be above 0")
AT_LEAST_ONE = Rule(lambda value: value >= 1, "must be at least 1")
SHARE = Rule(lambda value: 0 <= value <= 1, "must be in [0, 1]")
DECAY = Rule(lambda value: 0 <= value < 1, "must be in [0, 1)")

RULES = {
    "learning_rate": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "max_grad_norm": NOT_NEGATIVE,
    "adam_beta1": DECAY,
    "adam_beta2": DECAY,
    "adam_epsilon": NOT_NEGATIVE,
    "warmup_steps": NOT_NEGATIVE,
    "center_rewards_coefficient": NOT_NEGATIVE,
    "router_aux_loss_coef": NOT_NEGATIVE,
    "max_length": AT_LEAST_ONE,
    "ref_model_mixup_alpha": SHARE,
    "ref_model_sync_steps": AT_LEAST_ONE,
    "beta": NOT_NEGATIVE,
}
DPO_RULES = {
    "beta": Rule(ABOVE_ZERO.holds, "must be above 0: at 0 nothing is learnt, below it the rejected completion"),
    "label_smoothing": Rule(
        lambda value: 0 <= value < 0.5,
        "is the share of pairs with the labels exchanged, and must be in [0, 0.5): at 0.5 nothing is learnt, above it "
        "the rejected completion",
    ),
    "discopop_tau": ABOVE_ZERO,
    "ld_alpha": SHARE,
}


def check_settings(args: Any, rules: dict[str, Rule] | None = None) -> None:
    """
    Raises `ValueError`, naming field, value and rule, for a number that cannot be meant.

    Args:
        args (`TrainingArguments`):
            A config; `None` in a field means that it is not set.
        rules (`dict[str, Rule]`, *optional*):
            Rules of this kind of config, beside those of all.
    """
    for name, rule in {**RULES, **(rules or {})}.items():
        value = getattr(args, name, None)
        if isinstance(value, (int, float)) and not (math.isfinite(value) and rule.holds(value)):
            raise ValueError(f"`{name}` {rule.words}, got {value}.")
    if args.max_steps <= 0 and not args.num_train_epochs > 0:
        raise ValueError(
            f"`num_train_epochs` must be above 0, got {args.num_train_epochs}: an untrained model would be saved. Set "
            "it, or `max_steps`."
        )
    weights = getattr(args, "loss_weights", None)
    if weights is not None and not (all(math.isfinite(one) and one >= 0 for one in weights) and any(weights)):
        raise ValueError(f"`loss_weights` must not be negative, and one of them above 0, got {weights}.")
