"""
The numbers of PPO: KL penalty, advantage estimation, whitening, the value loss, and how well values explain returns.

Pure: tensors in, tensors out. Letters: B rows, T completion tokens. A mask is 1 where the policy chose the token, 0 on
padding and on tokens of a tool. What a masked position holds, unless it is NaN, never changes a result.
"""

from dataclasses import dataclass

import torch


# Below this variance, whitening divides by no standard deviation worth the name (as TRL's PPO has it)
WHITENING_EPSILON = 1e-8


def per_token_kl(logps: torch.Tensor, ref_logps: torch.Tensor, estimator: str) -> torch.Tensor:
    """
    Returns estimates of the KL divergence of the policy from the reference, from tokens that the policy sampled.

    With `r = log p_ref - log p`: `k1 = -r` is unbiased and of either sign, `k3 = exp(r) - r - 1` is unbiased too and
    never negative ([Schulman, 2020](http://joschu.net/blog/kl-approx.html)).

    Args:
        logps (`torch.Tensor`):
            Log-probabilities under the policy that sampled, shape `(B, T)`.
        ref_logps (`torch.Tensor`):
            The same under the reference.
        estimator (`str`):
            `"k1"` or `"k3"`.
    """
    log_ratio = ref_logps - logps
    if estimator == "k1":
        return -log_ratio
    if estimator == "k3":
        return torch.expm1(log_ratio) - log_ratio
    raise ValueError(f"estimator must be 'k1' or 'k3', got {estimator!r}")


def token_rewards(scores_B: torch.Tensor, kl_BT: torch.Tensor, mask_BT: torch.Tensor, kl_coef: float) -> torch.Tensor:
    """
    Returns the reward of each token, shape `(B, T)`: `-kl_coef * kl`, and on the last token the score too.

    [Ziegler et al. (2019)](https://huggingface.co/papers/1909.08593), Eq. (2). A row without tokens has no rewards.

    Args:
        scores_B (`torch.Tensor`):
            Score of each completion, shape `(B,)`.
        kl_BT (`torch.Tensor`):
            KL estimate of each token.
        mask_BT (`torch.Tensor`):
            Tokens of the policy.
        kl_coef (`float`):
            Coefficient of the KL divergence, at least 0.
    """
    rewards_BT = torch.where(mask_BT.bool(), -kl_coef * kl_BT, 0.0)
    positions = torch.arange(1, mask_BT.size(1) + 1, device=mask_BT.device)
    last_B = (positions * mask_BT.bool()).amax(dim=1)  # 0 for a row without tokens
    is_last_BT = positions == last_B.unsqueeze(1)
    return rewards_BT + torch.where(is_last_BT, scores_B.unsqueeze(1), 0.0)


@dataclass(frozen=True)
class Estimates:
    """Advantages and returns, each of shape `(B, T)` and 0 on masked positions."""

    advantages: torch.Tensor
    returns: torch.Tensor


def generalized_advantages(
    rewards_BT: torch.Tensor, values_BT: torch.Tensor, mask_BT: torch.Tensor, gamma: float, lam: float
) -> Estimates:
    r"""
    Returns generalized advantage estimates, and the returns that values are to predict.

    `delta_t = r_t + gamma V_{t+1} - V_t`, `A_t = sum_k (gamma lam)^k delta_{t+k}`, `R_t = A_t + V_t`, where `t + 1` is
    the policy's next token: tokens of a tool are passed over and are no step in time. After the last token the value
    is 0. [Schulman et al. (2016)](https://huggingface.co/papers/1506.02438), Eqs. (11) and (16).

    Args:
        rewards_BT (`torch.Tensor`):
            Reward of each token.
        values_BT (`torch.Tensor`):
            Value before each token.
        mask_BT (`torch.Tensor`):
            Tokens of the policy.
        gamma (`float`):
            Discount per token, in [0, 1].
        lam (`float`):
            Weight of longer estimates, in [0, 1]: 0 for one step, 1 for the whole rest of the completion.
    """
    mask_BT = mask_BT.bool()
    advantages_BT = torch.zeros_like(values_BT)
    next_value_B = torch.zeros_like(values_BT[:, 0])
    next_advantage_B = torch.zeros_like(next_value_B)
    for t in range(values_BT.size(1) - 1, -1, -1):
        chosen_B = mask_BT[:, t]
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        advantage_B = delta_B + gamma * lam * next_advantage_B
        advantages_BT[:, t] = torch.where(chosen_B, advantage_B, 0.0)
        next_advantage_B = torch.where(chosen_B, advantage_B, next_advantage_B)
        next_value_B = torch.where(chosen_B, values_BT[:, t], next_value_B)
    return Estimates(advantages_BT, torch.where(mask_BT, advantages_BT + values_BT, 0.0))


def moments(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns count, sum and sum of squares of the unmasked values, shape `(3,)`, float64: they add up over ranks."""
    kept = values[mask.bool()].double()
    return torch.stack([torch.tensor(len(kept), dtype=torch.float64, device=kept.device), kept.sum(), (kept**2).sum()])


def variance(sums: torch.Tensor) -> torch.Tensor:
    """Returns the variance of values from their [`moments`], with Bessel's correction; 0 for fewer than two."""
    count, total, squares = sums.unbind()
    return ((squares - total**2 / count.clamp(min=1)) / (count - 1).clamp(min=1)).clamp(min=0)


def whitened(values: torch.Tensor, mask: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """
    Returns `(x - mean) / sqrt(var + 1e-8)` on unmasked positions and 0 elsewhere.

    Args:
        values (`torch.Tensor`):
            Values of this rank, of any shape.
        mask (`torch.Tensor`):
            Of the same shape.
        sums (`torch.Tensor`):
            [`moments`] of the values, added up over all ranks. With none at all, the result is 0.
    """
    mean = sums[1] / sums[0].clamp(min=1)
    scaled = (values.double() - mean) * torch.rsqrt(variance(sums) + WHITENING_EPSILON)
    return torch.where(mask.bool(), scaled, 0.0).to(values.dtype)


@dataclass(frozen=True)
class ValueLoss:
    """Loss of each token, and where the clipped value decided it, each of shape `(B, T)`."""

    per_token: torch.Tensor
    clipped: torch.Tensor


def value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip_range: float | None
) -> ValueLoss:
    """
    Returns `1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2)` of each token, not masked.

    The clipping of OpenAI's PPO baseline: a value that has moved further than `c` from the old one, towards the
    return, has no gradient.

    Args:
        values (`torch.Tensor`):
            Values of the critic, shape `(B, T)`.
        old_values (`torch.Tensor`):
            Those of the critic that the rollout was scored with.
        returns (`torch.Tensor`):
            What they are to predict.
        clip_range (`float`, *optional*):
            `c`, above 0, or `None` for `1/2 (V - R)^2`.
    """
    squares = (values - returns) ** 2
    if clip_range is None:
        return ValueLoss(squares / 2, torch.zeros_like(squares, dtype=torch.bool))
    clipped = torch.minimum(torch.maximum(values, old_values - clip_range), old_values + clip_range)
    clipped_squares = (clipped - returns) ** 2
    return ValueLoss(torch.maximum(squares, clipped_squares) / 2, clipped_squares > squares)


def explained_variance(return_sums: torch.Tensor, error_sums: torch.Tensor) -> float:
    """
    Returns `1 - Var(R - V) / Var(R)`: 1 for perfect values, 0 for constant ones, NaN where all returns are equal.

    Args:
        return_sums (`torch.Tensor`):
            [`moments`] of the returns R, over all ranks.
        error_sums (`torch.Tensor`):
            [`moments`] of `R - V`, over all ranks.
    """
    whole = variance(return_sums)
    return float("nan") if whole == 0 else (1 - variance(error_sums) / whole).item()


def adapted_kl_coef(kl_coef: float, kl: float, target: float, completions: int, horizon: int) -> float:
    """
    Returns the KL coefficient after a rollout: `kl_coef * (1 + e * completions / horizon)`.

    `e = clip(kl / target - 1, -0.2, 0.2)`, from [Ziegler et al. (2019)](https://huggingface.co/papers/1909.08593),
    Eq. (3), with the gain per completion of their code.

    Args:
        kl_coef (`float`):
            Coefficient of the rollout.
        kl (`float`):
            KL divergence of a completion, its tokens added up, averaged over the rollout.
        target (`float`):
            What it should be, above 0.
        completions (`int`):
            Completions in the rollout.
        horizon (`int`):
            Completions over which the coefficient can change by a factor of about `e^0.2`.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * completions / horizon)
