"""
How far an engine's log-probabilities are from the trainer's on the tokens it sampled, and what that costs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate.logging import get_logger


logger = get_logger(__name__)

# Above this share of groups that importance sampling takes out of the loss, it is said
MUCH = 0.1


@dataclass(frozen=True)
class Mismatch:
    """
    Numbers of one rollout.

    Args:
        k3 (`float`):
            Mean over tokens of `r - 1 - log r`, an estimate of the KL divergence from the sampler to the trainer that
            is never negative; `r` is the trainer's probability over the sampler's.
        effective_sample_size (`float`):
            Share of the rows that count: `(sum w)^2 / (B sum w^2)`, with `w` the product of a row's `r`.
    """

    k3: float
    effective_sample_size: float


def mismatch(trainer_logps: torch.Tensor, sampler_logps: torch.Tensor, mask: torch.Tensor) -> Mismatch:
    """
    Returns how far a sampler is from a trainer, on tokens that the sampler drew.

    Args:
        trainer_logps, sampler_logps (`torch.Tensor`):
            Log-probabilities, shape `(B, T)`. A NaN of the sampler's counts as no difference, as in TRL.
        mask (`torch.Tensor`):
            Which tokens are the policy's, shape `(B, T)`. Without any, `k3` is 0.
    """
    return _of_rows(_row_sums(trainer_logps, sampler_logps, mask))


def _row_sums(trainer_logps: torch.Tensor, sampler_logps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns the sum of k3, the tokens and the sum of log-ratios of each row, shape `(B, 3)`."""
    difference = torch.nan_to_num((trainer_logps - sampler_logps).double(), nan=0.0) * mask  # (B, T)
    k3 = (difference.exp() - 1 - difference).sum(dim=1)
    return torch.stack([k3, mask.sum(dim=1).double(), difference.sum(dim=1)], dim=1)


def _of_rows(rows: torch.Tensor) -> Mismatch:
    k3, tokens, log_weights = rows.unbind(dim=1)
    # The largest is taken out, since a product over a long row overflows
    weights = (log_weights - log_weights.max()).exp()
    size = weights.sum() ** 2 / (len(weights) * (weights**2).sum())
    return Mismatch((k3.sum() / tokens.sum().clamp(min=1)).item(), size.item())


def masked_groups(ratio: torch.Tensor, mask: torch.Tensor, advantages: torch.Tensor, group: int) -> torch.Tensor:
    """
    Returns which groups importance sampling takes out of the loss, shape `(P,)`.

    A group is out if all its rows are masked, or all that have an advantage.

    Args:
        ratio (`torch.Tensor`):
            TRL's ratio, 0 where it masks, shape `(B, 1)` or `(B, T)`.
        mask (`torch.Tensor`):
            Which tokens count, shape `(B, T)`.
        advantages (`torch.Tensor`):
            Shape `(B,)` or `(B, T)`.
        group (`int`):
            Rows of a group, one behind the other.
    """
    kept_B = ((ratio != 0) & (mask != 0)).any(dim=1)
    has_advantage_B = (advantages != 0).view(len(ratio), -1).any(dim=1)
    had_PG, kept_PG = has_advantage_B.view(-1, group), kept_B.view(-1, group)
    return ~kept_PG.any(dim=1) | (had_PG.any(dim=1) & ~(kept_PG & had_PG).any(dim=1))


def mismatch_metrics(output: dict[str, Any], gather: Any, group: int, masks: bool) -> dict[str, float]:
    """
    Returns the metrics of a rollout; nothing where no engine sampled it, or TRL did not compare.

    Args:
        output (`dict`):
            What TRL's `_generate_and_score_completions` returns.
        gather (`Callable`):
            Concatenates a tensor's rows over all processes.
        group (`int`):
            Rows of a group.
        masks (`bool`):
            Whether a ratio of 0 stands for a row that is masked.
    """
    ratio = output.get("importance_sampling_ratio")
    if ratio is None:
        return {}
    mask = output["completion_mask"] * output.get("tool_mask", 1)
    # Rows of all processes first: a mean of ratios would be another number
    found = _of_rows(gather(_row_sums(output["old_per_token_logps"], output["sampling_per_token_logps"], mask)))
    metrics = {"rollout/mismatch_k3": found.k3, "rollout/effective_sample_size": found.effective_sample_size}
    if masks:
        per_row = [((ratio != 0) & (mask != 0)).any(dim=1), _per_row(output["advantages"])]
        kept, advantages = (gather(rows.float()[:, None]) for rows in per_row)
        out = masked_groups(kept, torch.ones_like(kept), advantages, group).float().mean().item()
        metrics["rollout/masked_groups"] = out
        if out > MUCH:
            logger.warning(
                f"Importance sampling takes {out:.0%} of the groups out of the loss: vLLM and the trainer differ too "
                "much on their rows. Set vllm_importance_sampling_mode='token_truncate', or hold the base alike on "
                "both sides (`vllm_base`)."
            )
    return metrics


def _per_row(advantages: torch.Tensor) -> torch.Tensor:
    return (advantages != 0).view(len(advantages), -1).any(dim=1)
