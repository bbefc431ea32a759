"""
What is logged of a rollout of PPO: scores, KL penalty, the critic's values and what they explain.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from . import estimation
from .critic_update import loss_mask


@dataclass(frozen=True)
class RolloutMetrics:
    """
    Numbers of one rollout, over all processes.

    Args:
        logged (`dict[str, float]`):
            By the name in the log.
        kl (`float`):
            Mean KL divergence of a completion from the reference, in nats.
        rows (`int`):
            Completions with a token in the loss.
    """

    logged: dict[str, float]
    kl: float
    rows: int


def rollout_metrics(
    output: dict[str, Any],
    scores_B: torch.Tensor,
    kl_BT: torch.Tensor,
    coefficient: float,
    total: Callable[[torch.Tensor], torch.Tensor],
) -> RolloutMetrics:
    """
    Returns the numbers of a rollout.

    Args:
        output (`dict[str, Any]`):
            The rollout of this process, with values and returns.
        scores_B, kl_BT (`torch.Tensor`):
            Scores of completions, shape `(B,)`, and the penalty of tokens before its coefficient, shape `(B, T)`.
        coefficient (`float`):
            Of the penalty.
        total (`Callable`):
            Sums a tensor over all processes.
    """
    mask_BT = loss_mask(output).bool()
    rows_B = mask_BT.any(dim=1)
    kl_B = torch.where(mask_BT, kl_BT, 0.0).sum(dim=1)
    values, returns = output["values"], output["returns"]
    parts = [(kl_B, rows_B), (scores_B, rows_B)]
    parts += [(numbers, mask_BT) for numbers in (values, returns, returns - values)]
    sums = torch.stack([estimation.moments(*part) for part in parts])
    of_kl, of_scores, of_values, of_returns, of_errors = total(sums)
    kl, score, value, mean_return = (_mean(one) for one in (of_kl, of_scores, of_values, of_returns))
    logged = {
        "objective/kl": kl,
        "objective/kl_coef": coefficient,
        "objective/non_score_reward": -coefficient * kl,
        "objective/scores": score,
        "objective/rlhf_reward": score - coefficient * kl,
        "value/mean": value,
        "value/explained_variance": estimation.explained_variance(of_returns, of_errors),
        "returns/mean": mean_return,
    }
    return RolloutMetrics(logged, kl, int(of_kl[0]))


def _mean(sums: torch.Tensor) -> float:
    return (sums[1] / sums[0].clamp(min=1)).item()
