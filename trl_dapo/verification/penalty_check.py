"""
The length penalty against what a right answer is worth.

In the paper a wrong answer scores -1 and a right one +1 (Eq. 7), and the penalty runs to -1 (Eq. 13): half of the
distance. At the whole distance, a right answer that fills the band scores like a wrong short one.
"""

import torch

from ..dapo.penalty_scale import fitting_factor
from ..dapo.raw_metric import PENALTY_NAME
from ..dapo.worth import Worth
from .findings import Finding, skipped
from .reward_range import Range
from .setup import Setup


NAME = "length_penalty"
PAPER_SHARE = 0.5
ROUNDING = 1e-6


def distance_of(setup: Setup, metric: Range | None) -> float | None:
    """
    Returns how much more than a wrong answer a right one earns, or `None` where it is not known.

    Args:
        setup ([`Setup`]):
            Its reward functions and their weights.
        metric ([`Range`], *optional*):
            Of the raw metric.
    """
    if setup.kind == "dapo" and setup.names:
        worth = Worth(setup.names, setup.functions, torch.tensor(setup.weights), setup.args)
        if worth.declared is not None:
            return worth.declared
        return None if metric is None else metric.distance * worth.unit
    return None if metric is None else metric.distance


def penalty_factor(setup: Setup, distance: float | None) -> float | None:
    """Returns the weight of the length penalty, or `None` where there is none or it is not known."""
    own = [weight for name, weight in zip(setup.names, setup.weights, strict=True) if name == PENALTY_NAME]
    if own:
        return sum(own)
    if not getattr(setup.args, "soft_overlong_punishment", False):
        return None
    if setup.args.overlong_penalty_factor is not None:
        return setup.args.overlong_penalty_factor
    return None if distance is None else fitting_factor(distance)


def check_penalty(setup: Setup, metric: Range | None) -> Finding:
    """Returns which share of what a right answer is worth the penalty takes from a completion of full length."""
    if not setup.generates:
        return skipped(NAME, f"{setup.kind} has no length penalty")
    if PENALTY_NAME not in setup.names and not getattr(setup.args, "soft_overlong_punishment", False):
        return skipped(NAME, "there is no length penalty")
    distance = distance_of(setup, metric)
    factor = penalty_factor(setup, distance)
    if not distance or factor is None:
        return skipped(NAME, "what a right answer is worth is not known before rewards vary; declare `reward_range`")
    share = factor / distance
    numbers = {"share": share, "factor": factor, "distance": distance}
    message = f"at full length it takes {factor:g}, {share:.0%} of the {distance:g} that a right answer is worth"
    if share <= PAPER_SHARE + ROUNDING:
        return Finding(NAME, "pass", f"{message}; half in the paper", numbers)
    if PENALTY_NAME in setup.names:
        setting = f"reward_weights: {fitting_factor(distance):g} for {PENALTY_NAME}"
    else:
        setting = f"overlong_penalty_factor: {fitting_factor(distance):g}, or leave it out"
    if share < 1 - ROUNDING:
        return Finding(NAME, "warn", f"{message}; half in the paper", numbers, setting)
    message += ". A right answer that fills the band scores no more than a wrong short one"
    return Finding(NAME, "fail", message, numbers, setting)
