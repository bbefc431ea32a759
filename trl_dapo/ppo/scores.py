"""
From the columns of reward functions to one score per completion: weighted sum, running normalisation, clipping.

A completion to which no reward function applies has the score NaN, and counts nowhere.
"""

from collections.abc import Callable
from typing import Any

import torch

from ..host.passes import Pass
from .estimation import moments, whitened


class RewardsNotedPass(Pass):
    """The host's pass as it is, with the rewards of all processes noted, shape `(rows, reward functions)`."""

    noted: torch.Tensor

    def rewards(self, host: Callable[[], torch.Tensor], inputs: list[dict[str, Any]]) -> torch.Tensor:
        self.noted = host()
        return self.noted


class RunningScores:
    """
    Scores of completions, normalised by all of those before where that is asked for.

    Args:
        normalize (`bool`):
            Subtract the mean of all scores so far and divide by their standard deviation.
        clip (`float`, *optional*):
            Largest absolute score, after that.

    Attributes:
        sums (`torch.Tensor`):
            [`~estimation.moments`] of all scores so far, on the CPU.
    """

    def __init__(self, normalize: bool, clip: float | None) -> None:
        self.normalize, self.clip = normalize, clip
        self.sums = torch.zeros(3, dtype=torch.float64)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = torch.tensor(state["sums"], dtype=torch.float64)

    def of(self, rewards: torch.Tensor, weights: torch.Tensor, learn: bool) -> torch.Tensor:
        """
        Returns the scores of B completions, shape `(B,)`.

        Args:
            rewards (`torch.Tensor`):
                Shape `(B, reward functions)`, NaN where a function does not apply; of all processes, so that all of
                them normalise alike.
            weights (`torch.Tensor`):
                Of the reward functions.
            learn (`bool`):
                Whether these scores count in the normalisation.
        """
        unscored_B = rewards.isnan().all(dim=1)
        scores_B = (rewards * weights.to(rewards.device)).nansum(dim=1)
        if self.normalize:
            if learn:
                self.sums += moments(scores_B, ~unscored_B).cpu()
            scores_B = whitened(scores_B, ~unscored_B, self.sums.to(rewards.device))
        if self.clip is not None:
            scores_B = scores_B.clamp(-self.clip, self.clip)
        return scores_B.masked_fill(unscored_B, torch.nan)
