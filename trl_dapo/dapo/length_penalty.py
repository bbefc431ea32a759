"""
Where the length penalty enters the reward: as one more reward column, behind those of the user's functions.

It is TRL's own soft overlong punishment, which TRL logs. Its factor is the last of the trainer's `reward_weights`,
which TRL reads when it makes advantages: rows of all rounds, and those carried over, have the same. What TRL checks,
counts or warns of are the user's functions, and evaluation reports the reward as the user defined it.
"""

from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather

from ..host.required import required
from .config import DAPOConfig
from .overlong import length_penalty_function
from .penalty_scale import PenaltyScale
from .raw_metric import PENALTY_NAME, penalty_columns
from .worth import Worth


logger = get_logger(__name__)

# The trainer's lists with one entry per reward function
LISTS = ("reward_funcs", "reward_func_names", "reward_processing_classes")


class LengthPenalty:
    """
    The reward column of the length penalty (DAPO paper, Eq. 13).

    Args:
        trainer ([`~host.seams.Seams`]):
            Whose last entry of `reward_weights` is the factor.
        args ([`DAPOConfig`]):
            Its `soft_punish_cache`.
        scale ([`PenaltyScale`]):
            What the factor is.
    """

    def __init__(self, trainer: Any, args: DAPOConfig, scale: PenaltyScale) -> None:
        self._trainer, self._scale = trainer, scale
        self.function = length_penalty_function(trainer.max_completion_length, required(args.soft_punish_cache))

    @property
    def factor(self) -> float | None:
        """What a completion of full length pays; `None` as long as it is not known, when it pays nothing."""
        return self._scale.factor

    def learn(self, rewards: torch.Tensor) -> None:
        """Takes the factor from the rewards of a rollout, shape `(rows, functions)`, where it is not known yet."""
        self._scale.learn(rewards, self._trainer.state.global_step)
        self.weigh()

    def forget(self) -> None:
        """Forgets a factor that an earlier run took from a rollout."""
        self._scale.forget()
        self.weigh()

    def weigh(self) -> None:
        """Gives the trainer the factor, unless the user has set it."""
        if not self._scale.is_set:
            self._trainer.reward_weights[-1] = self.factor or 0.0

    def state_dict(self) -> dict[str, Any]:
        return self._scale.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        self._scale.load_state_dict(state)
        self.weigh()

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
    # What a right answer is worth, the user's functions say, so before the penalty is one of them
    names, functions = [*trainer.reward_func_names, PENALTY_NAME], trainer.reward_funcs
    scale = PenaltyScale(Worth(names, functions, trainer.reward_weights, args), args)
    penalty = LengthPenalty(trainer, args, scale)
    # New lists: the host's are those that the user passed
    for name, entry in zip(LISTS, (penalty.function, PENALTY_NAME, None), strict=True):
        setattr(trainer, name, [*getattr(trainer, name), entry])
    trainer.reward_weights = torch.cat([trainer.reward_weights, torch.tensor([scale.factor or 0.0])])
    return penalty
