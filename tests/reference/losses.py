"""
The losses, written to be read next to their papers: group advantages, clipping, aggregation, soft overlong punishment.

Trainers do not call this file: they run TRL's loss. It is the specification that tests hold TRL's loss against, and it
knows nothing about TRL, models or configs. Tokens outside the completion mask reach neither a value nor a gradient,
whatever they hold.

Shapes are suffixes: `P` groups, `G` completions of one group, `B` rows, `T` completion tokens.
"""

from typing import Literal, get_args

import torch
from torch import Tensor


__all__ = [
    "AdvantageScale",
    "LossType",
    "accumulation_window_tokens",
    "clipped_surrogate",
    "fixed_length_loss",
    "group_advantages",
    "importance_ratio",
    "local_token_loss",
    "policy_loss",
    "sequence_level_loss",
    "soft_overlong_punishment",
    "token_level_loss",
]

AdvantageScale = Literal["group", "batch", "none"]
LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo"]


# ---------------------------------------------------------------------------------------------------------- advantages


def group_advantages(rewards_PG: Tensor, scale: AdvantageScale = "group") -> Tensor:
    """
    Rewards relative to their own group.

        Â_i = (r_i - mean(r)) / (std(r) + 1e-4)

    Eq. (9) of the [DAPO paper](https://huggingface.co/papers/2503.14476), which leaves open both the constant, here
    TRL's, and the standard deviation, here with Bessel's correction as in TRL.

    Args:
        rewards_PG (`torch.Tensor` of shape `(P, G)`):
            Finite rewards, one row per group. NaN marks a completion that no reward function could score.
        scale (`str`, *optional*, defaults to `"group"`):
            What to divide by: the standard deviation of the `"group"`, of the whole `"batch"`, or nothing (`"none"`).
            The mean is the group's in each case.

    Returns:
        `torch.Tensor` of shape `(P, G)`:
            NaN rewards are left out of mean and standard deviation, and their advantage is 0. So is every advantage
            where there is nothing to compare: in a group with equal rewards, or with one scorable completion (G = 1).
    """
    if scale not in get_args(AdvantageScale):
        raise ValueError(f"scale is {scale!r}, but must be one of {get_args(AdvantageScale)}")
    centered_PG = rewards_PG - rewards_PG.nanmean(dim=1, keepdim=True)
    if scale == "none":
        return centered_PG.nan_to_num(nan=0.0)
    std = _nanstd(rewards_PG.reshape(1, -1) if scale == "batch" else rewards_PG)  # (1, 1) or (P, 1)
    return (centered_PG / (std + 1e-4)).nan_to_num(nan=0.0)


def _nanstd(rows: Tensor) -> Tensor:
    deviations = rows - rows.nanmean(dim=1, keepdim=True)
    count = (~rows.isnan()).sum(dim=1, keepdim=True)
    return (deviations.square().nansum(dim=1, keepdim=True) / (count - 1)).sqrt()  # 0 / 0 is NaN for a single value


# ----------------------------------------------------------------------------------------------------------- per token


def importance_ratio(per_token_logps_BT: Tensor, old_per_token_logps_BT: Tensor, completion_mask_BT: Tensor) -> Tensor:
    """
    How much likelier the current policy makes each token than the policy that sampled it.

        r_t = π_θ(o_t | q, o_<t) / π_old(o_t | q, o_<t)

    Eq. (9) of the [DAPO paper](https://huggingface.co/papers/2503.14476).

    Args:
        per_token_logps_BT (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities (nats) of the sampled tokens under the current policy.
        old_per_token_logps_BT (`torch.Tensor` of shape `(B, T)`):
            The same under the policy that sampled them, constant.
        completion_mask_BT (`torch.Tensor` of shape `(B, T)`):
            Nonzero where the policy produced the token: padding and tool results are 0.

    Returns:
        `torch.Tensor` of shape `(B, T)`: 1 at masked tokens, even where they hold NaN or infinities.
    """
    # Masking before `exp` keeps 0 * inf, which is NaN, out of the backward pass.
    log_ratio_BT = per_token_logps_BT - old_per_token_logps_BT
    return torch.where(completion_mask_BT.bool(), log_ratio_BT, 0.0).exp()


def clipped_surrogate(
    ratio_BT: Tensor,
    advantages_BT: Tensor,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.28,
    delta: float | None = None,
) -> Tensor:
    """
    The loss of each token, PPO's clipped surrogate with a range of its own on either side (clip-higher).

        ℓ_t = -min(r_t Â, clip(r_t, 1 - ε_low, 1 + ε_high) Â)

    Eq. (10) of the [DAPO paper](https://huggingface.co/papers/2503.14476). With `delta`, the first `r_t` is
    `min(r_t, δ)`, as in the [INTELLECT-2 report](https://huggingface.co/papers/2505.07291): for δ >= 1 + ε_high that
    is dual clipping, a bound δ|Â| on the loss of tokens with negative advantage, and changes no other token.

    Args:
        ratio_BT (`torch.Tensor` of shape `(B, T)`):
            Importance ratios.
        advantages_BT (`torch.Tensor` that broadcasts to `(B, T)`):
            Advantages, usually one per row: `(B, 1)`.
        epsilon_low (`float`, *optional*, defaults to `0.2`):
            How far below 1 the ratio may pull.
        epsilon_high (`float`, *optional*, defaults to `0.28`):
            How far above 1 the ratio may push.
        delta (`float`, *optional*):
            Upper bound of the unclipped ratio. By default there is none.

    Returns:
        `torch.Tensor` of shape `(B, T)`: 0 where the advantage is 0.
    """
    clipped_BT = ratio_BT.clamp(1 - epsilon_low, 1 + epsilon_high)
    bounded_BT = ratio_BT if delta is None else ratio_BT.clamp(max=delta)
    return -torch.min(bounded_BT * advantages_BT, clipped_BT * advantages_BT)


# --------------------------------------------------------------------------------------------------------- aggregation


def _per_row_sum(per_token_loss_BT: Tensor, completion_mask_BT: Tensor) -> Tensor:
    return torch.where(completion_mask_BT.bool(), per_token_loss_BT, 0.0).sum(dim=1)


def sequence_level_loss(per_token_loss_BT: Tensor, completion_mask_BT: Tensor) -> Tensor:
    """
    Mean over rows of the mean over each row's tokens: a token of a long completion counts for less (`"grpo"`).

        L = 1/B Σ_i 1/|o_i| Σ_t ℓ_{i,t}

    Eq. (3) of the [DeepSeekMath paper](https://huggingface.co/papers/2402.03300), without its KL term.

    Args:
        per_token_loss_BT (`torch.Tensor` of shape `(B, T)`):
            Loss per token.
        completion_mask_BT (`torch.Tensor` of shape `(B, T)`):
            Nonzero at the tokens that count.

    Returns:
        `torch.Tensor` (scalar): a row without tokens adds 0 and is counted in B.
    """
    length_B = completion_mask_BT.bool().sum(dim=1).clamp(min=1)
    return (_per_row_sum(per_token_loss_BT, completion_mask_BT) / length_B).mean()


def local_token_loss(per_token_loss_BT: Tensor, completion_mask_BT: Tensor) -> Tensor:
    """
    Mean over the tokens of this micro-batch alone (`"bnpo"`): the token's weight depends on its neighbours.

        L = Σ_{i,t} ℓ_{i,t} / Σ_i |o_i|

    Eq. (12) of the [DAPO paper](https://huggingface.co/papers/2503.14476) for one batch in one piece; over several
    micro-batches it is a mean of means.

    Args:
        per_token_loss_BT (`torch.Tensor` of shape `(B, T)`):
            Loss per token.
        completion_mask_BT (`torch.Tensor` of shape `(B, T)`):
            Nonzero at the tokens that count.

    Returns:
        `torch.Tensor` (scalar): 0 if no token counts.
    """
    tokens = completion_mask_BT.bool().sum().clamp(min=1)
    return _per_row_sum(per_token_loss_BT, completion_mask_BT).sum() / tokens


def fixed_length_loss(per_token_loss_BT: Tensor, completion_mask_BT: Tensor, max_completion_length: int) -> Tensor:
    """
    Sum over tokens divided by the tokens that the rows could have had (`"dr_grpo"`).

        L = 1 / (B L_max) Σ_{i,t} ℓ_{i,t}

    Dr. GRPO: the [paper](https://huggingface.co/papers/2503.20783) drops 1/|o_i|, its code divides by the budget.

    Args:
        per_token_loss_BT (`torch.Tensor` of shape `(B, T)`):
            Loss per token.
        completion_mask_BT (`torch.Tensor` of shape `(B, T)`):
            Nonzero at the tokens that count.
        max_completion_length (`int`):
            L_max, the generation budget of a row in tokens; not the T of this micro-batch.

    Returns:
        `torch.Tensor` (scalar): 0 if no token counts.
    """
    budget = per_token_loss_BT.size(0) * max_completion_length
    return _per_row_sum(per_token_loss_BT, completion_mask_BT).sum() / budget


def token_level_loss(per_token_loss_BT: Tensor, completion_mask_BT: Tensor, window_tokens: Tensor | float) -> Tensor:
    """
    This micro-batch's part of a mean over all tokens of an accumulation window (`"dapo"`).

        L = Σ_{i,t} ℓ_{i,t} / N

    Eq. (12) of the [DAPO paper](https://huggingface.co/papers/2503.14476), where N counts the tokens of one group.
    Here it counts those of a window ([`accumulation_window_tokens`]), so that every token of an optimizer step weighs
    the same. The parts of a window add up to the mean over its tokens; a micro-batch's own part is not a mean.

    Args:
        per_token_loss_BT (`torch.Tensor` of shape `(B, T)`):
            Loss per token.
        completion_mask_BT (`torch.Tensor` of shape `(B, T)`):
            Nonzero at the tokens that count.
        window_tokens (`torch.Tensor` or `float`):
            N in tokens, positive.

    Returns:
        `torch.Tensor` (scalar): 0 if no token counts.
    """
    return _per_row_sum(per_token_loss_BT, completion_mask_BT).sum() / window_tokens


def accumulation_window_tokens(
    num_items_in_batch: Tensor | float,
    gradient_accumulation_steps: int = 1,
    steps_per_generation: int = 1,
    num_processes: int = 1,
) -> float:
    """
    Tokens of one accumulation window on one process, on average over the generation batch.

        N = max(N_generation, 1) · gradient_accumulation_steps / (steps_per_generation · num_processes)

    TRL's denominator for `"dapo"`. It is exact for the generation batch as a whole; a window's own tokens may differ
    from the average.

    Args:
        num_items_in_batch (`torch.Tensor` or `float`):
            N_generation, the tokens that count in the generation batch on all processes.
        gradient_accumulation_steps (`int`, *optional*, defaults to `1`):
            Micro-batches in the current window; the last window of an epoch may have fewer than configured.
        steps_per_generation (`int`, *optional*, defaults to `1`):
            Micro-batches that the generation batch is split into.
        num_processes (`int`, *optional*, defaults to `1`):
            Processes whose gradients are averaged.

    Returns:
        `float`: positive, also for a generation batch without tokens.
    """
    windows = steps_per_generation / gradient_accumulation_steps
    return max(float(num_items_in_batch), 1.0) / windows / num_processes


# --------------------------------------------------------------------------------------------------------------- whole


def policy_loss(
    per_token_logps_BT: Tensor,
    old_per_token_logps_BT: Tensor,
    advantages: Tensor,
    completion_mask_BT: Tensor,
    *,
    loss_type: LossType = "dapo",
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.28,
    delta: float | None = None,
    num_items_in_batch: Tensor | float | None = None,
    max_completion_length: int | None = None,
    gradient_accumulation_steps: int = 1,
    steps_per_generation: int = 1,
    num_processes: int = 1,
) -> Tensor:
    """
    The loss to backpropagate for one micro-batch: the losses of a window's micro-batches add up to the window's.

    [`importance_ratio`], then [`clipped_surrogate`], then the aggregation that `loss_type` names; there is no KL term.
    The losses that are means of their own micro-batch are divided by `gradient_accumulation_steps`; `"dapo"` is not,
    since its denominator spans the window already.

    Args:
        per_token_logps_BT (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities (nats) of the sampled tokens under the current policy.
        old_per_token_logps_BT (`torch.Tensor` of shape `(B, T)`):
            The same under the policy that sampled them, constant.
        advantages (`torch.Tensor` of shape `(B,)` or `(B, T)`):
            Finite advantages, per row or per token.
        completion_mask_BT (`torch.Tensor` of shape `(B, T)`):
            Nonzero where the policy produced the token: padding and tool results are 0.
        loss_type (`str`, *optional*, defaults to `"dapo"`):
            `"grpo"` ([`sequence_level_loss`]), `"bnpo"` ([`local_token_loss`]), `"dr_grpo"` ([`fixed_length_loss`]) or
            `"dapo"` ([`token_level_loss`]).
        epsilon_low (`float`, *optional*, defaults to `0.2`):
            See [`clipped_surrogate`].
        epsilon_high (`float`, *optional*, defaults to `0.28`):
            See [`clipped_surrogate`].
        delta (`float`, *optional*):
            See [`clipped_surrogate`].
        num_items_in_batch (`torch.Tensor` or `float`, *optional*):
            Tokens that count in the generation batch on all processes; needed by `"dapo"`.
        max_completion_length (`int`, *optional*):
            Generation budget of a row in tokens; needed by `"dr_grpo"`.
        gradient_accumulation_steps (`int`, *optional*, defaults to `1`):
            Micro-batches in the current window.
        steps_per_generation (`int`, *optional*, defaults to `1`):
            Micro-batches in the generation batch.
        num_processes (`int`, *optional*, defaults to `1`):
            Processes whose gradients are averaged.

    Returns:
        `torch.Tensor` (scalar): 0 with zero gradients if no token counts.
    """
    ratio_BT = importance_ratio(per_token_logps_BT, old_per_token_logps_BT, completion_mask_BT)
    advantages_BT = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages
    loss_BT = clipped_surrogate(ratio_BT, advantages_BT, epsilon_low, epsilon_high, delta)
    match loss_type:
        case "grpo":
            loss = sequence_level_loss(loss_BT, completion_mask_BT)
        case "bnpo":
            loss = local_token_loss(loss_BT, completion_mask_BT)
        case "dr_grpo":
            if max_completion_length is None:
                raise ValueError("loss_type 'dr_grpo' needs max_completion_length, but it is None")
            loss = fixed_length_loss(loss_BT, completion_mask_BT, max_completion_length)
        case "dapo":
            if num_items_in_batch is None:
                raise ValueError("loss_type 'dapo' needs num_items_in_batch, but it is None")
            window_tokens = accumulation_window_tokens(
                num_items_in_batch, gradient_accumulation_steps, steps_per_generation, num_processes
            )
            return token_level_loss(loss_BT, completion_mask_BT, window_tokens)  # spans the window already
        case _:
            raise ValueError(f"loss_type is {loss_type!r}, but must be one of {get_args(LossType)}")
    return loss / gradient_accumulation_steps


# -------------------------------------------------------------------------------------------------------------- reward


def soft_overlong_punishment(lengths: Tensor, max_completion_len: int, soft_punish_cache: int) -> Tensor:
    """
    The reward that a completion loses for being long.

        R(y) = 0                                    if |y| <= L_max - L_cache
               ((L_max - L_cache) - |y|) / L_cache  if L_max - L_cache < |y| <= L_max
               -1                                   if L_max < |y|

    Eq. (13) of the [DAPO paper](https://huggingface.co/papers/2503.14476).

    Args:
        lengths (`torch.Tensor` of integers, any shape):
            Completion lengths in tokens.
        max_completion_len (`int`):
            L_max in tokens.
        soft_punish_cache (`int`):
            L_cache, the width in tokens of the punished band below L_max. With 0 there is no band, only the step.

    Returns:
        `torch.Tensor` of the shape of `lengths`: values in [-1, 0].
    """
    # A width of 0 divides by 1 instead: lengths are integers, so the first token beyond L_max costs 1 either way.
    below = (max_completion_len - soft_punish_cache - lengths) / max(soft_punish_cache, 1)
    return below.clamp(-1.0, 0.0)
