"""
Mean and standard deviation of a reward model's rewards, in a small JSON file beside its weights.

Knows no model. The invariant: statistics that were saved and loaded go on as if they had stayed in memory, bit for
bit, because what is kept is what is written.
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
    Mean and standard deviation (population) of rewards, and the number of rows that were seen.

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
        Returns the statistics with more rows: exact for the first `window` rows, then with an old part of that weight.

        With weights `m` (old rows, at most `window`) and `n` (new ones) mean and variance are those of both together
        (Chan et al. 1983). A model in training moves, so what it gave long ago must fade.

        Args:
            rewards_B (`torch.Tensor`):
                New rewards, shape `(B,)`; none leaves the statistics as they are.
            window (`int`):
                Rows that the past counts for at most.
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
        """Writes [`STATISTICS_FILE`] into a folder, which is made where it is missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / STATISTICS_FILE
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(temporary, path)

    @classmethod
    def load(cls, folder: str | Path) -> Self | None:
        """
        Returns what [`~RewardStatistics.save`] wrote into a folder, or `None` where it holds no such file.

        Raises:
            `ValueError`: Where the file is not what was written: the numbers are missing, not finite or negative.
        """
        path = Path(folder) / STATISTICS_FILE
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = cls(float(content["mean"]), float(content["std"]), int(content["rows"]))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} does not hold a mean, a std and a number of rows: {error!r}.") from error
        if not (math.isfinite(found.mean) and math.isfinite(found.std) and found.std >= 0 and found.rows >= 0):
            raise ValueError(f"{path} holds {found}, and no rewards have such statistics. Save the model again.")
        return found
