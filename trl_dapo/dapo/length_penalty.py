"""
The reward as DAPO shapes it: the user's reward functions, and the length penalty as a column behind them.

The host's own soft overlong punishment is used, so that the host logs it. The invariant: what the host checks, counts
or warns of are the user's functions, and evaluation reports the reward as the user defined it.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather
from transformers import PreTrainedModel

from ..grpo.trainer import GRPOTrainer
from ..host.required import required
from .config import DAPOConfig
from .overlong import length_penalty_function
from .reward_columns import LENGTH_PENALTY, length_penalties, metric_columns
from .sampling.groups import raw_metric


logger = get_logger(__name__)


class ShapedRewardsTrainer(GRPOTrainer):
    """[`~grpo.GRPOTrainer`] whose rewards have a column with the length penalty, where its config asks for one."""

    args: DAPOConfig  # ty: ignore[incompatible-mutable-override]
    # Optional in the host's types, never in fact
    model: PreTrainedModel
    max_completion_length: int
    reward_processing_classes: list

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Now, since the host's checks of weights and processing classes count the user's functions
        self._adds_length_penalty = self._add_length_penalty()
        self._metric_columns = metric_columns(self.reward_func_names, self.args)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self._adds_length_penalty and not self.model.training:
            for statistic in ("mean", "std"):
                self._metrics["eval"].pop(f"rewards/{LENGTH_PENALTY}/{statistic}", None)
        return output

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> torch.Tensor:
        # The host warns of rows that no reward function applies to, and must not count the length penalty for that
        with self._only_user_rewards():
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self._adds_length_penalty:
            rewards = torch.cat([rewards, self._length_penalties(rewards, completion_ids_list)], dim=1)
        return rewards

    def _raw_metric(self, rewards: torch.Tensor) -> torch.Tensor:
        """Returns what decides whether a group is informative, shape `(B,)`: rewards without shaping."""
        named = self.args.dynamic_sampling_metric is not None
        weights = torch.ones(1) if named else self.reward_weights[self._metric_columns].cpu()
        return raw_metric(rewards[:, self._metric_columns], weights)

    def _add_length_penalty(self) -> bool:
        """Appends TRL's soft overlong punishment behind the user's reward functions, unless one is among them."""
        if not self.args.soft_overlong_punishment:
            return False
        if length_penalties(self.reward_func_names):
            logger.warning(
                f"`reward_funcs` has a {LENGTH_PENALTY} already: soft_overlong_punishment=True adds none, and "
                "dynamic sampling does not look at yours. Its widths and weight stay as you gave them."
            )
            return False
        # New lists: the host's are those that the user passed
        self._length_penalty = length_penalty_function(
            self.max_completion_length, required(self.args.soft_punish_cache)
        )
        self.reward_funcs = [*self.reward_funcs, self._length_penalty]
        self.reward_func_names = [*self.reward_func_names, LENGTH_PENALTY]
        self.reward_processing_classes = [*self.reward_processing_classes, None]
        self.reward_weights = torch.cat([self.reward_weights, torch.tensor([self.args.overlong_penalty_factor])])
        return True

    @contextmanager
    def _only_user_rewards(self) -> Generator[None]:
        if not self._adds_length_penalty:
            yield
            return
        names = ("reward_funcs", "reward_func_names", "reward_processing_classes")
        full = {name: getattr(self, name) for name in names}
        try:
            for name in names:
                setattr(self, name, full[name][:-1])
            yield
        finally:
            for name in names:
                setattr(self, name, full[name])

    def _length_penalties(self, rewards: torch.Tensor, completion_ids_list: list[list[int]]) -> torch.Tensor:
        """Returns the column of the length penalty, shape `(B, 1)`: NaN, "does not apply", for unscored rows."""
        if not self.model.training:
            # Evaluation reports the reward as the user defined it
            return torch.full_like(rewards[:, :1], torch.nan)
        penalties = torch.tensor(self._length_penalty(completion_ids=completion_ids_list), device=rewards.device)
        penalties = gather(penalties.to(rewards.dtype))
        return penalties.masked_fill(rewards.isnan().all(dim=1), torch.nan).unsqueeze(1)
