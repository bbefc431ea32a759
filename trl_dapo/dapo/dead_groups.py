"""
Groups that are informative and have no advantage left once the reward is shaped: they cost as much and teach nothing.

Where a length penalty takes what a right answer earns, a right one of full length scores as a wrong short one.
Letters: B completions, G generations, F reward functions.
"""

from typing import Any

import torch
from accelerate.logging import get_logger
from trl.trainer.utils import nanstd

from .config import DAPOConfig
from .penalty_scale import fitting_factor
from .raw_metric import PENALTY_NAME
from .sampling.groups import raw_metric
from .worth import Worth


logger = get_logger(__name__)

TOLD_ABOVE = 0.1


def shaped_rewards(
    rewards_BF: torch.Tensor, weights_F: torch.Tensor, num_generations: int, aggregation: str
) -> torch.Tensor:
    """
    Returns numbers that are equal within a group if and only if TRL gives its rows no advantage, shape `(B,)`.

    Whatever `scale_rewards` is, TRL subtracts the mean of the group and divides.

    Args:
        rewards_BF (`torch.Tensor`):
            Rewards of whole groups, shape `(B, F)`, NaN where a function does not apply.
        weights_F (`torch.Tensor`):
            Weights of all columns, length penalties included, shape `(F,)`.
        num_generations (`int`):
            Rows of a group, G.
        aggregation (`str`):
            TRL's `multi_objective_aggregation`.
    """
    rewards_BF = rewards_BF.double()
    if aggregation == "normalize_then_sum":
        grouped = rewards_BF.view(-1, num_generations, rewards_BF.size(1))
        centred = grouped - grouped.nanmean(dim=1, keepdim=True)
        rewards_BF = (centred / (nanstd(grouped, dim=1, keepdim=True) + 1e-4)).view_as(rewards_BF)
    return raw_metric(rewards_BF, weights_F)


class DeadGroupsWarning:
    """
    Says once when dead groups are more than a tenth of the informative groups, and which setting to change.

    Args:
        trainer ([`DAPOTrainer`]):
            Its reward functions and their weights.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer, self._told = trainer, False

    def tell(self, share: float, rewards_BF: torch.Tensor) -> None:
        """
        Args:
            share (`float`):
                Dead groups per informative group of the batch.
            rewards_BF (`torch.Tensor`):
                Rewards of all that was generated for it, shape `(B, F)`.
        """
        if share <= TOLD_ABOVE or self._told:
            return
        self._told = True
        trainer, args = self._trainer, self._trainer.args
        worth = Worth(trainer.reward_func_names, trainer.reward_funcs, trainer.reward_weights, args)
        logger.warning(
            f"{share:.0%} of the informative groups at step {trainer.state.global_step} have no advantage left once "
            f"the reward is shaped, and teach nothing. {self._fix(args, fitting_factor(worth.seen(rewards_BF)))} "
            "`dapo/dead_groups` has the share of each rollout; this is said once."
        )

    def _fix(self, args: DAPOConfig, fitting: float) -> str:
        names, weights = self._trainer.reward_func_names, self._trainer.reward_weights.tolist()
        if PENALTY_NAME not in names:
            return "Reward functions cancel each other: change `reward_weights`."
        weight = weights[names.index(PENALTY_NAME)]
        lower = f"lower it to {fitting:g}" if fitting < weight else "lower it"
        if self._trainer.length_penalty is None:
            return f"`reward_weights` gives your {PENALTY_NAME} the weight {weight:g}: {lower}."
        if args.overlong_penalty_factor is None:
            return f"The factor of the length penalty is {weight:g}: set a lower `overlong_penalty_factor`."
        return f"overlong_penalty_factor={weight:g} takes what a right answer earns: {lower}, or leave it out."
