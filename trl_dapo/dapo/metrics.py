"""
The `dapo/*` numbers of a rollout, from counts.

There are two families that must not be mixed: what was *generated* (every candidate) and what was *trained on* (the
rows of the final batch). For each key, `docs/metrics.md` says what is normal and what to do otherwise. How the counts
are taken from a rollout is in `logs.py`.
"""

from dataclasses import dataclass

import torch

from .sampling.groups import Verdicts


@dataclass(frozen=True)
class Generated:
    """Everything generated for one batch. Row tensors have shape `(B,)`, verdicts `(P,)`."""

    metric_B: torch.Tensor
    lengths_B: torch.Tensor
    truncated_B: torch.Tensor
    verdicts: Verdicts
    refill_rounds: int


@dataclass(frozen=True)
class Trained:
    """
    The final batch, and the informative groups that did not fit in.

    `dead_groups` are those of the informative groups whose shaped reward is constant.
    `replaced_groups` were generated without being informative, and are not trained on.
    `length_penalties_B` has shape `(B,)` and values from -1 to 0, NaN for a row that was not scored.
    `filtered_B`, of the same shape, says which rows overlong filtering takes out of the loss, and `lengths_in_loss_B`
    how many tokens of a row are in it.
    `ages_of_carried_P` holds, for each group carried over from an earlier rollout, the optimizer updates since it was
    generated.
    """

    informative_groups: int
    dead_groups: int
    surplus_groups: int
    replaced_groups: int
    ages_of_carried_P: torch.Tensor
    exhausted: bool
    length_penalties_B: torch.Tensor
    filtered_B: torch.Tensor
    lengths_in_loss_B: torch.Tensor
    updates_per_rollout: float


def rollout_metrics(generated: Generated, trained: Trained) -> dict[str, float]:
    """
    Returns the `dapo/*` metrics of one rollout. Every key is always there.

    A mean over nothing is 0. `dapo/samples_per_informative_group` counts a batch without informative groups as one
    group to stay finite; it is then the number of completions generated in vain.
    """
    groups = len(generated.verdicts.informative_P)
    informative = int(generated.verdicts.informative_P.sum())
    return {
        "dapo/frac_informative": informative / groups,
        "dapo/frac_all_correct": _mean(generated.verdicts.all_correct_P),
        "dapo/frac_all_wrong": _mean(generated.verdicts.all_wrong_P),
        "dapo/refill_rounds": float(generated.refill_rounds),
        "dapo/groups_generated": float(groups),
        "dapo/groups_kept": float(trained.informative_groups),
        "dapo/dead_groups": trained.dead_groups / max(trained.informative_groups, 1),
        "dapo/groups_replaced": float(trained.replaced_groups),
        "dapo/surplus_groups": float(trained.surplus_groups),
        "dapo/carried_groups": float(len(trained.ages_of_carried_P)),
        "dapo/carried_age": _mean(trained.ages_of_carried_P),
        "dapo/samples_per_informative_group": len(generated.metric_B) / max(trained.informative_groups, 1),
        "dapo/exhausted": float(trained.exhausted),
        "dapo/overlong_frac": _mean(generated.truncated_B),
        "dapo/mean_length_generated": _mean(generated.lengths_B),
        "dapo/accuracy_generated": _mean(generated.metric_B),
        "dapo/mean_length_penalty": _mean(trained.length_penalties_B),
        "dapo/rows_filtered": _mean(trained.filtered_B),
        "dapo/weight_moved": weight_moved(trained.lengths_in_loss_B),
        "dapo/updates_per_rollout": trained.updates_per_rollout,
    }


def weight_moved(lengths_B: torch.Tensor) -> float:
    r"""
    Returns how much of the loss's weight token-level loss moves between rows: the total variation distance between
    weights by length and equal weights,

    $$ \frac{1}{2} \sum_i \left| \frac{l_i}{\sum_j l_j} - \frac{1}{n} \right| $$

    over the n rows with a token in the loss. It is 0 if all have one length or there is no row, and below 1.

    Args:
        lengths_B (`torch.Tensor`):
            Tokens of each row in the loss, shape `(B,)`.
    """
    lengths = lengths_B[lengths_B > 0].double()
    if len(lengths) == 0:
        return 0.0
    return (lengths / lengths.sum() - 1 / len(lengths)).abs().sum().item() / 2


def length_metrics(lengths_B: torch.Tensor, truncated_B: torch.Tensor) -> dict[str, float]:
    """
    Returns TRL's `completions/*` metrics for the rows of the final batch.

    TRL computes them right after generation. With dynamic sampling, the rows to train on are not known by then.
    Statistics of terminated rows are 0 if every row was truncated, as in TRL.

    Args:
        lengths_B (`torch.Tensor`):
            Generated tokens per row, shape `(B,)`.
        truncated_B (`torch.Tensor`):
            Whether a row was cut before an end token, shape `(B,)`.
    """
    terminated = lengths_B[~truncated_B]
    if len(terminated) == 0:
        terminated = torch.zeros(1)
    return {
        "completions/mean_length": lengths_B.float().mean().item(),
        "completions/min_length": lengths_B.float().min().item(),
        "completions/max_length": lengths_B.float().max().item(),
        "completions/clipped_ratio": truncated_B.float().mean().item(),
        "completions/mean_terminated_length": terminated.float().mean().item(),
        "completions/min_terminated_length": terminated.float().min().item(),
        "completions/max_terminated_length": terminated.float().max().item(),
    }


def _mean(values: torch.Tensor) -> float:
    values = values.double()
    finite = values[values.isfinite()]
    return finite.mean().item() if len(finite) else 0.0
