"""
`PPOConfig`: what PPO needs beside [`GRPOConfig`]: a critic, advantages from it, and a KL penalty in the reward.

Fields that PPO shares with GRPO keep TRL's names. A field that PPO does not read is refused if it asks for something.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from ..grpo.config import GRPOConfig
from .warmup import long_warmup


CLIPPED_LOSSES = ("dapo", "bnpo", "grpo", "dr_grpo")
KL_ESTIMATORS = ("k1", "k3")
# verl's critic learns ten times as fast as its policy, OpenRLHF's nine times
CRITIC_LEARNING_RATE_FACTOR = 10.0


class _OneGeneration(int):
    """A 1 that passes TRL's check that a group has two completions, which PPO does not need."""

    def __lt__(self, other: int) -> bool:
        return False


@dataclass
class PPOConfig(GRPOConfig):
    r"""
    Configuration class for the [`PPOTrainer`].

    It takes every parameter of [`~trl.GRPOConfig`] and of [`GRPOConfig`]. Those of TRL's former `PPOConfig` are called
    here: `num_ppo_epochs` is `num_iterations`, `response_length` is `max_completion_length`, `kl_coef` is `beta`,
    `cliprange` is `epsilon`. A rollout has `num_mini_batches = steps_per_generation / gradient_accumulation_steps`.

    Parameters:
        > Parameters whose default differs from TRL's

        num_generations (`int`, *optional*, defaults to `1`):
            Completions per prompt; PPO needs no group.
        num_iterations (`int`, *optional*, defaults to `4`):
            Passes over each rollout. Rows are shuffled anew for each.
        beta (`float`, *optional*, defaults to `0.05`):
            Coefficient of the KL divergence from the reference, which is part of the reward and not of the loss. With
            `0.0` there is no reference.
        loss_type (`str`, *optional*, defaults to `"dapo"`):
            How the clipped surrogate is averaged: `"dapo"` over the tokens of an update.

        > Advantages

        gamma (`float`, *optional*, defaults to `1.0`):
            Discount per token.
        lam (`float`, *optional*, defaults to `0.95`):
            Lambda of generalized advantage estimation.

        > KL penalty

        kl_estimator (`Literal["k1", "k3"]`, *optional*, defaults to `"k1"`):
            `"k1"`, the difference of log-probabilities, or `"k3"`, which is never negative.
        kl_target (`float`, *optional*):
            KL divergence per completion that `beta` is adapted to hold
            ([Ziegler et al., 2019](https://huggingface.co/papers/1909.08593)). By default `beta` is fixed.
        kl_horizon (`int`, *optional*, defaults to `10000`):
            Completions over which `beta` can change by a factor of about `e^0.2`.

        > Reward

        missing_eos_penalty (`float`, *optional*):
            Taken off the score of completions that were cut.
        normalize_rewards (`bool`, *optional*, defaults to `False`):
            Subtract the mean of all scores so far and divide by their standard deviation.
        reward_clip (`float`, *optional*):
            Clip scores, normalised ones where `normalize_rewards`, to `[-reward_clip, reward_clip]`.
        reward_adapter (`str`, *optional*):
            Folder of an adapter for the policy's base that [`RewardTrainer`] saved. It is loaded beside the policy's
            and scores as the last reward function, `reward_adapter`. Needs PEFT.

        > Critic

        critic_learning_rate (`float`, *optional*):
            Defaults to ten times `learning_rate`.
        critic_max_grad_norm (`float`, *optional*, defaults to `1.0`):
            Gradients of the critic are clipped to this norm, apart from the policy's. `0.0` for no clipping.
        critic_warmup_steps (`int`, *optional*, defaults to `0`):
            First optimizer steps, in which the critic learns alone.
        cliprange_value (`float`, *optional*, defaults to `0.2`):
            Values that moved further than this from those of the rollout have no gradient towards the return. `None`
            for no clipping.
    """

    own_trainer = "PPOTrainer"
    method_fields = ("gamma", "lam", "kl_estimator", "critic_learning_rate")

    num_generations: int | None = field(default=1, metadata={"help": "Completions per prompt; PPO needs no group."})
    """Completions per prompt; PPO needs no group."""
    num_iterations: int = field(default=4, metadata={"help": "Passes over each rollout, in a new order each."})
    """Passes over each rollout, in a new order each."""
    beta: float = field(
        default=0.05, metadata={"help": "Coefficient of the KL divergence in the reward. 0 for no reference."}
    )
    """Coefficient of the KL divergence in the reward. 0 for no reference."""
    loss_type: str = field(
        default="dapo",
        metadata={"help": "How the clipped surrogate is averaged: 'dapo', 'bnpo', 'grpo' or 'dr_grpo'."},
    )
    """How the clipped surrogate is averaged: 'dapo', 'bnpo', 'grpo' or 'dr_grpo'."""
    gamma: float = field(default=1.0, metadata={"help": "Discount per token."})
    """Discount per token."""
    lam: float = field(default=0.95, metadata={"help": "Lambda of generalized advantage estimation."})
    """Lambda of generalized advantage estimation."""
    kl_estimator: Literal["k1", "k3"] = field(
        default="k1", metadata={"help": "'k1', or 'k3', which is never negative."}
    )
    """'k1', or 'k3', which is never negative."""
    kl_target: float | None = field(
        default=None, metadata={"help": "KL divergence per completion that `beta` is adapted to hold."}
    )
    """KL divergence per completion that `beta` is adapted to hold."""
    kl_horizon: int = field(
        default=10000, metadata={"help": "Completions over which `beta` can change by a factor of about e^0.2."}
    )
    """Completions over which `beta` can change by a factor of about e^0.2."""
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "Taken off the score of completions that were cut."}
    )
    """Taken off the score of completions that were cut."""
    normalize_rewards: bool = field(
        default=False, metadata={"help": "Standardise scores by the mean and deviation of all scores so far."}
    )
    """Standardise scores by the mean and deviation of all scores so far."""
    reward_clip: float | None = field(
        default=None, metadata={"help": "Clip scores to [-reward_clip, reward_clip], after normalising."}
    )
    """Clip scores to [-reward_clip, reward_clip], after normalising."""
    reward_adapter: str | None = field(
        default=None, metadata={"help": "Folder of a reward model that is an adapter for the policy's base."}
    )
    """Folder of a reward model that is an adapter for the policy's base."""
    critic_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the critic. Ten times `learning_rate` by default."}
    )
    """Learning rate of the critic. Ten times `learning_rate` by default."""
    critic_max_grad_norm: float = field(
        default=1.0, metadata={"help": "Norm that the critic's gradients are clipped to. 0 for no clipping."}
    )
    """Norm that the critic's gradients are clipped to. 0 for no clipping."""
    critic_warmup_steps: int = field(
        default=0, metadata={"help": "First optimizer steps, in which the critic learns alone."}
    )
    """First optimizer steps, in which the critic learns alone."""
    cliprange_value: float | None = field(
        default=0.2, metadata={"help": "How far a value may move from that of the rollout. None for no clipping."}
    )
    """How far a value may move from that of the rollout. None for no clipping."""

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_host_fields()
        generations = self.num_generations
        if generations == 1:
            self.num_generations = _OneGeneration(1)
        super().__post_init__()
        self.num_generations = generations
        if self.critic_learning_rate is None:
            self.critic_learning_rate = CRITIC_LEARNING_RATE_FACTOR * self.learning_rate

    def inert_parts(self) -> list[str]:
        """Returns one line for each setting that cannot have the effect that its name promises."""
        return super().inert_parts() + long_warmup(self.critic_warmup_steps, self.max_steps)

    def _check_ranges(self) -> None:
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}.")
        for name in ("kl_target", "kl_horizon", "reward_clip", "cliprange_value"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be above 0, got {value}.")
        for name in (
            "beta",
            "missing_eos_penalty",
            "critic_learning_rate",
            "critic_max_grad_norm",
            "critic_warmup_steps",
        ):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"`{name}` must not be negative, got {value}.")
        for name in ("beta", "missing_eos_penalty"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"`{name}` is part of the reward and must be finite, got {value}.")
        if self.kl_estimator not in KL_ESTIMATORS:
            raise ValueError(f"`kl_estimator` must be one of {list(KL_ESTIMATORS)}, got {self.kl_estimator!r}.")
        if self.kl_target is not None and self.beta == 0:
            raise ValueError(
                f"kl_target={self.kl_target} is held by adapting `beta`, and beta=0.0 stays 0. Set `beta` to the "
                "coefficient to start from, or leave `kl_target` out."
            )
        if self.missing_eos_penalty and self.mask_truncated_completions:
            raise ValueError(
                f"missing_eos_penalty={self.missing_eos_penalty} is for completions that were cut, and "
                "mask_truncated_completions=True leaves those out of training. Set one of them."
            )

    def _check_host_fields(self) -> None:
        if self.loss_type not in CLIPPED_LOSSES:
            raise ValueError(
                f"loss_type={self.loss_type!r} is not PPO's clipped surrogate. Set one of {list(CLIPPED_LOSSES)}."
            )
        # What PPO puts in the place of these: advantages of tokens, a KL divergence in the reward, one sum of rewards
        expected = {
            "importance_sampling_level": "token",
            "off_policy_mask_threshold": None,
            "multi_objective_aggregation": "sum_then_normalize",
        }
        for name, value in expected.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name}={getattr(self, name)!r} has no meaning in PPO. Leave `{name}` out.")
        if self.fp16:
            raise ValueError("fp16=True scales losses, and the critic's is not. Set bf16=True, or neither.")
        if self.use_transformers_continuous_batching:
            raise ValueError(
                "use_transformers_continuous_batching=True casts the whole model, critic included, to the precision "
                "of generation. Set it to False."
            )
