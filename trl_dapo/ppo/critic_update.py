"""
How the critic learns beside the policy: a value loss for each micro-batch, one optimizer step for both.
"""

from typing import Any

import torch

from ..host.state import sequences
from ..packing.rows import Batch
from .config import PPOConfig
from .critic import Critic
from .estimation import value_loss


def loss_mask(batch: Batch) -> torch.Tensor:
    """Returns the tokens that the policy chose, shape `(B, T)`."""
    return batch["completion_mask"] * batch.get("tool_mask", 1)


class CriticUpdate:
    """
    What the critic learns in an update, and what is logged of it.

    Args:
        trainer ([`~host.seams.Seams`]):
            What trains the policy.
        critic ([`Critic`]):
            What learns beside it.
    """

    def __init__(self, trainer: Any, critic: Critic) -> None:
        self._trainer, self._critic = trainer, critic
        self._tally = self._empty_tally()

    @property
    def _args(self) -> PPOConfig:
        return self._trainer.args

    def reset(self) -> None:
        """Forgets an update that did not end."""
        self._critic.reset()
        self._tally = self._empty_tally()

    def learn(self, inputs: Batch) -> None:
        """Adds the gradients of the value loss of a micro-batch to those that wait for the optimizer."""
        mask, trainer = loss_mask(inputs).bool(), self._trainer
        if not mask.any():
            return
        # The tokens of an update, on average over those of the rollout, as in the host's token-level loss
        share = trainer.current_gradient_accumulation_steps / trainer.host.steps_per_generation
        tokens = inputs["num_items_in_batch"].clamp(min=1) * share / trainer.accelerator.num_processes

        def loss() -> torch.Tensor:
            values = self.values(inputs, trainer.present_pass.offset)
            found = value_loss(values, inputs["values"], inputs["returns"], self._args.cliprange_value)
            self._tally["tokens"] += mask.sum()
            self._tally["clipped"] += found.clipped[mask].sum()
            self._tally["value_loss"] += found.per_token[mask].detach().double().sum()
            return torch.where(mask, found.per_token, 0.0).sum() / tokens

        self._critic.learn(loss)

    def values(self, inputs: Batch, offset: int) -> torch.Tensor:
        """Returns the critic's values of a batch of which `offset` columns were cut, shape `(B, T)`."""
        trainer = self._trainer
        with trainer.accelerator.autocast():
            if not offset:
                return self._critic.values(*sequences(inputs))
            with trainer.packed_passes.positions_from(self._critic.model, offset):
                return self._critic.values(*sequences(inputs))

    def note_policy(self, logps: torch.Tensor, inputs: Batch) -> None:
        """Notes how far the policy has moved on a micro-batch; log-probs of shape `(B, T)`."""
        log_ratio = (logps - inputs["old_per_token_logps"])[loss_mask(inputs).bool()].double()
        self._tally["approx_kl"] += (torch.expm1(log_ratio) - log_ratio).sum()

    def end(self) -> None:
        """Prepares the optimizer step: gives the critic its gradients and, in warm-up, takes the policy's away."""
        trainer = self._trainer
        norm = self._critic.hand_over(trainer.accelerator, self._args.critic_max_grad_norm)
        if trainer.state.global_step < self._args.critic_warmup_steps:
            for parameter in trainer.model.parameters():
                if parameter.requires_grad:
                    parameter.grad = None
        sums = trainer.accelerator.reduce(torch.stack(list(self._tally.values())), reduction="sum")
        totals = dict(zip(self._tally, sums.tolist(), strict=True))
        tokens = max(totals["tokens"], 1.0)
        trainer.host.log(
            {
                "loss/value": totals["value_loss"] / tokens,
                "value/clip_frac": totals["clipped"] / tokens,
                "value/grad_norm": norm.item(),
                "policy/approx_kl": totals["approx_kl"] / tokens,
            }
        )
        self._tally = self._empty_tally()

    def _empty_tally(self) -> dict[str, torch.Tensor]:
        zero = torch.zeros((), dtype=torch.float64, device=self._trainer.accelerator.device)
        return {name: zero.clone() for name in ("tokens", "value_loss", "clipped", "approx_kl")}
