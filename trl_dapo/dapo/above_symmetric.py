"""
How many tokens clip-higher can act on: those that a symmetric clip range would clip from above.

Counted from the log-probs of passes that run anyway, whether clip-higher is on or off. TRL's `clip_ratio/high_mean`
counts tokens beyond the bound that is set, so it cannot be compared between a run with clip-higher and one without.

Letters: b rows of a micro-batch, T completion tokens.
"""

from collections.abc import Callable
from typing import Any

import torch


# Losses with the clip range [1 - epsilon, 1 + epsilon_high]; the others bound the ratio in another way, or do not
CLIPPED_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")


def tokens_above(
    log_ratio_bT: torch.Tensor, advantages: torch.Tensor, mask_bT: torch.Tensor, epsilon: float, by_sequence: bool
) -> torch.Tensor:
    """
    Returns two counts, shape `(2,)`: tokens whose ratio is above `1 + epsilon` with an advantage above 0, and all
    tokens. Both are counts of tokens in the loss.

    Args:
        log_ratio_bT (`torch.Tensor`):
            Log-probs of today's policy minus those of the policy that generated, shape `(b, T)`.
        advantages (`torch.Tensor`):
            Shape `(b,)` or `(b, T)`.
        mask_bT (`torch.Tensor`):
            1 for a token in the loss, else 0; shape `(b, T)`.
        epsilon (`float`):
            Lower clip range, by which the symmetric range would be as wide on either side.
        by_sequence (`bool`):
            Whether a row's tokens share one ratio: the geometric mean over its tokens in the loss.
    """
    if by_sequence:
        log_ratio_bT = (log_ratio_bT * mask_bT).sum(-1, keepdim=True) / mask_bT.sum(-1, keepdim=True).clamp(min=1.0)
    if advantages.dim() == 1:
        advantages = advantages.unsqueeze(1)
    in_loss = mask_bT.bool()
    above = (log_ratio_bT.exp() > 1 + epsilon) & (advantages > 0) & in_loss
    return torch.stack([above.sum(), in_loss.sum()])


class AboveSymmetric:
    """
    Counts of one optimizer update, over all of its micro-batches.

    Args:
        trainer ([`DAPOTrainer`]):
            Its loss is watched.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._counts: torch.Tensor | None = None

    def forget(self) -> None:
        """Begins anew, as after an update that did not end."""
        self._counts = None

    def loss(self, host: Callable[..., torch.Tensor], model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Returns the host's loss of a micro-batch, whose tokens are counted."""
        trainer = self._trainer
        # A packed micro-batch leaves rows out; for all of them, TRL's loss is asked once more for what it logs
        if trainer.loss_type not in CLIPPED_LOSSES or not (trainer.model.training and trainer.present_pass.is_hosts):
            return host(model, inputs)
        with trainer.host.noting_logps() as found:
            loss = host(model, inputs)
        for logps in found[:1]:  # none where a subclass has a loss of its own
            self._add(logps, inputs)
        return loss

    def _add(self, logps: torch.Tensor, inputs: dict[str, Any]) -> None:
        old = inputs.get("old_per_token_logps")
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        counts = tokens_above(
            torch.zeros_like(logps) if old is None else logps - old,
            inputs["advantages"],
            mask,
            self._trainer.args.epsilon,
            self._trainer.importance_sampling_level == "sequence",
        )
        self._counts = counts if self._counts is None else self._counts + counts

    def metrics(self) -> dict[str, float]:
        """Returns the share over all processes, which must all call it; nothing where the loss clips nothing."""
        if self._counts is None:
            return {}
        above, tokens = self._trainer.accelerator.reduce(self._counts, reduction="sum").tolist()
        self.forget()
        return {"dapo/above_symmetric": above / max(tokens, 1)}
