"""
Which groups are informative, and which to train on.

Tensors and numbers in, values out. Nothing here knows about trainers or tokens. Every decision depends on the *raw
metric* gathered from all ranks, so every rank takes the same one.

Letters: B rows, P groups, G generations, F reward functions.
"""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Verdicts:
    """
    What the raw metric says about each group.

    `informative` groups carry a gradient. A degenerate group is `all_correct` when its constant metric is above 0 (1
    for a 0/1 reward, +1 for a ±1 reward) and `all_wrong` when it is 0 or below. It is neither if none of its rows
    could be scored, or if none of them enters the loss.
    """

    informative_P: torch.Tensor
    all_correct_P: torch.Tensor
    all_wrong_P: torch.Tensor


@dataclass(frozen=True)
class Selection:
    """
    The groups of one training batch.

    `groups` are numbers in order of generation, ascending. `filler` marks the degenerate groups among them, which only
    keep the batch at its size.
    """

    groups: list[int]
    filler: list[bool]


def raw_metric(rewards_BF: torch.Tensor, weights_F: torch.Tensor) -> torch.Tensor:
    """
    Returns the weighted sum of the reward columns, in float64.

    Args:
        rewards_BF (`torch.Tensor`):
            Rewards of shape `(B, F)`; NaN where a function does not apply to a row.
        weights_F (`torch.Tensor`):
            Weight of each column, shape `(F,)`.

    Returns:
        `torch.Tensor`: Shape `(B,)`, float64. As in TRL, a NaN column is left out of the row's sum. A row in which
        every column is NaN is NaN.
    """
    rewards_BF = rewards_BF.double()
    metric_B = (rewards_BF * weights_F.double()).nansum(dim=1)
    metric_B[rewards_BF.isnan().all(dim=1)] = torch.nan
    return metric_B


def judge_groups(metric_PG: torch.Tensor, live_PG: torch.Tensor, tolerance: float) -> Verdicts:
    """
    Returns which groups are informative: `max - min > tolerance` over the rows that could be scored.

    This is the paper's condition `0 < #correct < G` (Eq. 11 of https://huggingface.co/papers/2503.14476), extended to
    any reward. It compares the range, not the standard deviation: in floating point, the standard deviation of a
    constant group is often not 0.

    Args:
        metric_PG (`torch.Tensor`):
            Raw metric of shape `(P, G)`. NaN and infinite values do not count as variance.
        live_PG (`torch.Tensor`):
            Whether a row enters the loss, shape `(P, G)`. A group without a live row has no gradient, whatever its
            metric.
        tolerance (`float`):
            Largest range that still counts as constant, in the unit of the metric.
    """
    metric_PG = metric_PG.double()
    scored_PG = metric_PG.isfinite()
    highest_P = metric_PG.masked_fill(~scored_PG, -math.inf).amax(dim=1)
    lowest_P = metric_PG.masked_fill(~scored_PG, math.inf).amin(dim=1)
    # A group without a scored row has a range of -inf, so it does not count as varied
    varied_P = highest_P - lowest_P > tolerance
    live_P = live_PG.any(dim=1)
    constant_P = scored_PG.any(dim=1) & live_P & ~varied_P
    return Verdicts(
        informative_P=varied_P & live_P,
        all_correct_P=constant_P & (highest_P > 0),
        all_wrong_P=constant_P & (highest_P <= 0),
    )


def select_groups(informative: list[bool], wanted: int) -> Selection:
    """
    Returns the first `wanted` informative groups. If there are fewer, the latest degenerate groups fill the batch.

    Args:
        informative (`list[bool]`):
            One entry per generated group, in order of generation.
        wanted (`int`):
            Groups in a training batch; at most `len(informative)`.
    """
    kept = [group for group, teaches in enumerate(informative) if teaches][:wanted]
    spare = [group for group, teaches in enumerate(informative) if not teaches]
    missing = wanted - len(kept)
    groups = sorted(kept + (spare[-missing:] if missing else []))
    return Selection(groups=groups, filler=[not informative[group] for group in groups])
