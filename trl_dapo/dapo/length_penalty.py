"""
Where the length penalty enters the reward: as one more reward column, behind those of the user's functions.

It is TRL's own soft overlong punishment, so that TRL logs it. What TRL checks, counts or warns of are the user's
functions, and evaluation reports the reward as the user defined it.
"""

from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather

from ..host.required import required
from .config import DAPOConfig
from .overlong import length_penalty_function
from .raw_metric import PENALTY_NAME, penalty_columns


logger = get_logger(__name__)

# The trainer's lists with one entry per reward function
LISTS = ("reward_funcs", "reward_func_names", "reward_processing_classes")


class LengthPenalty:
    """
    The reward column of the length penalty (DAPO paper, Eq. 13).

    Args:
        max_completion_length (`int`):
            Longest completion in tokens.
        soft_punish_cache (`int`):
            Width in tokens of the penalised band below it.
    """

    def __init__(self, max_completion_length: int, soft_punish_cache: int) -> None:
        self.function = length_penalty_function(max_completion_length, soft_punish_cache)

    def column(self, rewards: torch.Tensor, completion_ids: list[list[int]], training: bool) -> torch.Tensor:
        """
        Returns the column, shape `(rows of all processes, 1)`: NaN, "does not apply", for rows without a reward.

        Args:
            rewards (`torch.Tensor`):
                Rewards of the user's functions, shape `(rows of all processes, functions)`.
            completion_ids (`list[list[int]]`):
                Completions of this process.
            training (`bool`):
                Whether they are trained on; in evaluation the whole column is NaN.
        """
        if not training:
            return torch.full_like(rewards[:, :1], torch.nan)
        penalties = torch.tensor(self.function(completion_ids=completion_ids), device=rewards.device)
        penalties = gather(penalties.to(rewards.dtype))
        return penalties.masked_fill(rewards.isnan().all(dim=1), torch.nan).unsqueeze(1)


def add_length_penalty(trainer: Any, args: DAPOConfig) -> LengthPenalty | None:
    """
    Appends the length penalty to a trainer's reward functions; `None` where it is off or among them already.

    Call it after the host's constructor, whose checks of weights and processing classes count the user's functions.
    """
    if not args.soft_overlong_punishment:
        return None
    if penalty_columns(trainer.reward_func_names):
        logger.warning(
            f"`reward_funcs` has a {PENALTY_NAME} already: soft_overlong_punishment=True adds none, and dynamic "
            "sampling does not look at yours. Its widths and weight stay as you gave them."
        )
        return None
    penalty = LengthPenalty(trainer.max_completion_length, required(args.soft_punish_cache))
    # New lists: the host's are those that the user passed
    for name, entry in zip(LISTS, (penalty.function, PENALTY_NAME, None), strict=True):
        setattr(trainer, name, [*getattr(trainer, name), entry])
    trainer.reward_weights = torch.cat([trainer.reward_weights, torch.tensor([args.overlong_penalty_factor])])
    return penalty
