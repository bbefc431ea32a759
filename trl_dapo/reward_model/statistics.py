"""
Mean and standard deviation of a reward model's rewards, in a small JSON file beside its weights.

Knows no model. The file holds exactly what is kept in memory, so statistics that are loaded continue bit for bit.

The running moments of PPO (`ppo/scores.py`) are something else: sums over all scores, each of the same weight, with
Bessel's correction. Here old rewards fade, because the model that gave them has been trained since.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch


STATISTICS_FILE = "reward_statistics.json"


@dataclass(frozen=True)
class RewardStatistics:
    """
    Mean and standard deviation (population) of rewards, and the number of rows seen.

    Attributes:
        mean (`float`, *optional*, defaults to `0.0`):
            Mean.
        std (`float`, *optional*, defaults to `0.0`):
            Standard deviation.
        rows (`int`, *optional*, defaults to `0`):
            Number of rows seen.
    """

    mean: float = 0.0
    std: float = 0.0
    rows: int = 0

    def after(self, rewards_B: torch.Tensor, window: int) -> Self:
        """
        Returns the statistics with more rows. They are exact as long as at most `window` rows came before.

        Old rows weigh `min(rows, window)`, new ones their number; mean and variance are those of both parts together
        (Chan et al. 1983). The model changes as it is trained, so its old rewards must fade.

        Args:
            rewards_B (`torch.Tensor`):
                New rewards, shape `(B,)`. With no rows, the statistics stay as they are.
            window (`int`):
                Most rows that the old part counts as.
        """
        new = len(rewards_B)
        if new == 0:
            return self
        rewards_B = rewards_B.double()
        old = min(self.rows, window)
        shift = rewards_B.mean().item() - self.mean
        share = new / (old + new)
        within = (1 - share) * self.std**2 + share * rewards_B.var(correction=0).item()
        between = share * (1 - share) * shift**2
        return type(self)(self.mean + share * shift, math.sqrt(within + between), self.rows + new)

    def normalized(self, rewards_B: torch.Tensor) -> torch.Tensor:
        """Returns `(rewards - mean) / std`, shape `(B,)`."""
        return (rewards_B - self.mean) / self.std

    def save(self, folder: str | Path) -> None:
        """Writes [`STATISTICS_FILE`] into a folder, which is created if it is missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / STATISTICS_FILE
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(temporary, path)

    @classmethod
    def load(cls, folder: str | Path) -> Self | None:
        """
        Returns what [`~RewardStatistics.save`] wrote into a folder, or `None` if there is no such file.

        Raises:
            `ValueError`: If the file is damaged: a number is missing, not finite, or negative where it cannot be.
        """
        path = Path(folder) / STATISTICS_FILE
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = cls(float(content["mean"]), float(content["std"]), int(content["rows"]))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} does not hold a mean, a std and a number of rows: {error!r}. Save the model again."
            ) from error
        if not (math.isfinite(found.mean) and math.isfinite(found.std) and found.std >= 0 and found.rows >= 0):
            raise ValueError(f"{path} holds {found}, which no rewards can have. Save the model again.")
        return found
