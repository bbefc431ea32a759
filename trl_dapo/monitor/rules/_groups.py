"""
How many groups are of one mind, all wrong or all right, and since when.
"""

from typing import Literal

from ..observations import Observations
from ..settings import Settings
from ..signals import accuracy


Side = Literal["wrong", "right"]
KEYS = {"wrong": "dapo/frac_all_wrong", "right": "dapo/frac_all_correct"}
ZERO = "frac_reward_zero_std"
BOUND = 0.8
# Mean rewards below and above which constant groups of a reward from 0 to 1 must be of one kind
LOW, HIGH = 0.15, 0.85


def key_of(side: Side, seen: Observations) -> str | None:
    """Returns the key that tells: of all groups generated, or of those of the batch."""
    return seen.first_of(KEYS[side], ZERO)


def share(side: Side, seen: Observations, settings: Settings) -> float | None:
    """
    Returns the share of groups that are all wrong or all right, where it is too large; `None` where it is not.

    Plain TRL logs how many groups have equal rewards and not of which kind, which the mean reward says. With
    `scale_rewards="batch"`, it logs the spread of the batch, from which nothing follows.
    """
    key = key_of(side, seen)
    if key is None or (key == ZERO and settings.get("scale_rewards") == "batch"):
        return None
    found = seen.rollouts(key).values[-1]
    if found < BOUND:
        return None
    if key == ZERO:
        mean = seen.rollouts(str(accuracy(seen))).values[-1]
        if (mean > LOW) if side == "wrong" else (mean < HIGH):
            return None
    return found
