"""
The length penalty against the distance between a wrong and a right answer.

In the paper a wrong answer scores -1 and a right one +1 (Eq. 7), and the penalty runs to -1 (Eq. 13): half of the
distance. At the whole distance, a right answer that fills the band scores like a wrong short one.
"""

from typing import Any

from ..dapo.raw_metric import PENALTY_NAME
from .findings import Finding, skipped
from .reward_range import Range
from .setup import Setup


NAME = "length_penalty"
PAPER_SHARE = 0.5
ROUNDING = 1e-6


def penalty_factor(setup: Setup, distance: float | None) -> float | None:
    """
    Returns the weight of the length penalty, or `None` where there is none or it is not known.

    Args:
        setup ([`Setup`]):
            Has the penalty among its reward functions, or a config that adds one.
        distance (`float`, *optional*):
            Between a wrong and a right answer; a config without a factor takes the paper's share of it.
    """
    own = [weight for name, weight in zip(setup.names, setup.weights, strict=True) if name == PENALTY_NAME]
    if own:
        return sum(own)
    if not getattr(setup.args, "soft_overlong_punishment", False):
        return None
    asked: Any = setup.args.overlong_penalty_factor
    if asked is not None:
        return asked
    return None if distance is None else PAPER_SHARE * distance


def check_penalty(setup: Setup, metric: Range | None) -> Finding:
    """Returns a finding about the share of the distance that the penalty takes from a completion of full length."""
    if not setup.generates:
        return skipped(NAME, f"{setup.kind} has no length penalty")
    distance = None if metric is None else metric.distance
    factor = penalty_factor(setup, distance)
    is_off = PENALTY_NAME not in setup.names and not getattr(setup.args, "soft_overlong_punishment", False)
    if is_off:
        return skipped(NAME, "there is no length penalty")
    if metric is None or distance is None or factor is None:
        return skipped(
            NAME, "the rewards of a wrong and of a right answer are not known; declare `reward_range` on it"
        )
    share = factor / distance
    numbers = {"share": share, "factor": factor, "lowest": metric.lowest, "highest": metric.highest}
    message = (
        f"at full length it takes {factor:g}, {share:.0%} of the distance from {metric.lowest:g} to "
        f"{metric.highest:g} ({metric.source}); half in the paper"
    )
    if share <= PAPER_SHARE + ROUNDING:
        return Finding(NAME, "pass", message, numbers)
    status = "fail" if share >= 1 - ROUNDING else "warn"
    if status == "fail":
        message += ". A right answer that fills the band scores no more than a wrong short one"
    field = "reward_weights" if PENALTY_NAME in setup.names else "overlong_penalty_factor"
    return Finding(NAME, status, message, numbers, f"{field}: {PAPER_SHARE * distance:g}")
