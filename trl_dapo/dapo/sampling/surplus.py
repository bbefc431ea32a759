"""
Informative groups that a rollout had no place for, carried into the next one.

They are trained on with the log-probs of the policy that generated them, so that importance ratios are right.
"""

from dataclasses import replace
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from trl.trainer.utils import pad

from .candidates import Candidates
from .groups import Selection
from .rollouts import Round, Row


logger = get_logger(__name__)


class Surplus:
    """
    Groups that wait for the next rollout.

    Args:
        trainer ([`~host.seams.Seams`]):
            What generates and trains.

    Attributes:
        round ([`Round`] or `None`):
            The groups, as a round that was generated earlier.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.round: Round | None = None

    @property
    def groups(self) -> int:
        """How many groups wait, over all processes."""
        return 0 if self.round is None else len(self.round.prompts)

    def state_dict(self) -> dict[str, Any] | None:
        return None if self.round is None else self.round.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        self.round = None if state is None else Round.from_state_dict(state)

    def take_from(self, candidates: Candidates, selection: Selection, multiple_of: int) -> None:
        """Keeps the surplus groups that the next rollout may train on, shared evenly among the processes."""
        self.round = None
        spare = candidates.surplus(selection)
        # Not a whole batch, so that every rollout generates something, and uses up what was carried to it: the age of
        # a carried group is the updates of one rollout, which the config holds against `surplus_max_age`
        most = min(len(spare), len(selection.groups) - multiple_of)
        groups = spare[: most // multiple_of * multiple_of]
        if not groups:
            return
        groups = candidates.in_rank_order(Selection(groups, [False] * len(groups))).groups
        rows = candidates.own_rows(groups, self._trainer.accelerator.process_index)
        if not all(gather_object([all(row.is_plain for row in rows)])):
            logger.warning_once("surplus='carry' carries text alone: groups with images or other objects are dropped.")
            return
        numbers = candidates.row_numbers(groups)
        columns: dict[str, Any] = {
            name: candidates.column(name)[numbers] for name in ("rewards", "lengths", "truncated", "steps")
        }
        columns["prompts"] = [candidates.prompts[group] for group in groups]
        self.round = Round(keeps_going=False, carried=True, rows=self._with_own_logps(rows), **columns)

    def with_behaviour_logps(self, output: dict[str, Any], rows: list[Row], carried: int) -> dict[str, Any]:
        """
        Returns a rollout's output with importance ratios of carried rows taken against the policy that generated them.

        With vLLM's importance sampling correction nothing is changed: TRL corrects from the sampled log-probs on.

        Args:
            output (`dict[str, Any]`):
                What TRL's scoring pass returned.
            rows (`list[Row]`):
                The rows of this process.
            carried (`int`):
                Carried groups in the rollout.
        """
        trainer = self._trainer
        if not carried or (trainer.use_vllm and trainer.vllm_importance_sampling_correction):
            return output
        if "old_per_token_logps" not in output:
            output["old_per_token_logps"] = self._policy_logps(output)
        for old, row in zip(output["old_per_token_logps"], rows, strict=True):
            if row.behaviour_logps is not None:
                old[: len(row.behaviour_logps)] = torch.tensor(row.behaviour_logps)
        return output

    def _with_own_logps(self, rows: list[Row]) -> list[Row]:
        """Returns the rows, each with the log-probs of the policy that generated it, which for new ones is today's."""
        device = self._trainer.accelerator.device
        prompts = [torch.tensor(row.prompt_ids, device=device) for row in rows]
        completions = [torch.tensor(row.completion_ids, device=device) for row in rows]
        logps = self._policy_logps(
            {**self._padded("prompt", prompts, "left"), **self._padded("completion", completions, "right")}
        )
        today = [values[: len(row.completion_ids)].tolist() for row, values in zip(rows, logps, strict=True)]
        return [
            replace(row, behaviour_logps=values) if row.behaviour_logps is None else row
            for row, values in zip(rows, today, strict=True)
        ]

    def _padded(self, name: str, ids: list[torch.Tensor], side: str) -> dict[str, torch.Tensor]:
        mask = [torch.ones_like(one) for one in ids]
        pad_id = self._trainer.host.tokenizer.pad_token_id
        return {
            f"{name}_ids": pad(ids, padding_value=pad_id, padding_side=side),
            f"{name}_mask": pad(mask, padding_value=0, padding_side=side),
        }

    def _policy_logps(self, batch: dict[str, Any]) -> torch.Tensor:
        return self._trainer.host.policy_logps(batch, self._trainer.args.per_device_train_batch_size)
