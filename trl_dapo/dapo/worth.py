"""
What a right answer is worth: how much more than a wrong one it earns in the reward that is trained on.

From what reward functions declare (`reward_range`) and their weights, or from rewards that were seen. Tensors and
numbers in, numbers out. Letters: B completions, F reward functions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch

from .raw_metric import answer_columns, metric_columns
from .sampling.groups import raw_metric


if TYPE_CHECKING:
    from .config import DAPOConfig

# TRL's rewards are float32: they reach the end of a declared range within its rounding
ROUNDING = 1e-6
LARGEST = torch.finfo(torch.float32).max


def declared_range(function: Any, name: str) -> tuple[float, float] | None:
    """
    Returns the rewards of a wrong and a right answer that a reward function declares, or `None` if it declares none.

    Args:
        function (`Any`):
            Anything that TRL takes for a reward function; its attribute `reward_range` is read.
        name (`str`):
            Its name, for the error.

    Raises:
        `ValueError`: If the attribute is not two finite numbers in float32, the lower one first.
    """
    declared = getattr(function, "reward_range", None)
    if declared is None:
        return None
    if isinstance(declared, Sequence) and len(declared) == 2 and all(isinstance(end, Real) for end in declared):
        low, high = map(float, declared)
        if low < high and all(abs(number) <= LARGEST for number in (low, high, high - low)):
            return low, high
    raise ValueError(
        f"The reward function {name!r} has reward_range={declared!r}, which must be two finite numbers, the lower one "
        "first, such as (0.0, 1.0). Correct or delete the attribute, or set `overlong_penalty_factor`."
    )


@dataclass(frozen=True)
class Stake:
    """
    A reward function that pays for a right answer.

    Attributes:
        name (`str`):
            As TRL logs it.
        column (`int`):
            Its reward column.
        weight (`float`):
            Its entry of `reward_weights`, without the sign.
        declared (`tuple[float, float]` or `None`):
            What it declares, where that counts; see [`declared_range`].
    """

    name: str
    column: int
    weight: float
    declared: tuple[float, float] | None

    def outside(self, rewards_BF: torch.Tensor) -> list[float]:
        """Returns its rewards outside the range that it declares."""
        if self.declared is None:
            return []
        low, high = self.declared
        slack = ROUNDING * max(abs(low), abs(high))
        rewards_B = rewards_BF[:, self.column].double()
        return rewards_B[(rewards_B < low - slack) | (rewards_B > high + slack)].tolist()


class Worth:
    """
    The distance between a wrong and a right answer, in the unit of the weighted reward.

    The functions of the raw metric say what is right, and their weights what that earns. Where all these weights are
    0, as of a function that `dynamic_sampling_metric` names to judge without paying, the distance is that of all
    functions but length penalties.

    Args:
        names (`list[str]`):
            Names of the reward functions, in the order of their columns.
        functions (`Sequence`):
            The reward functions.
        weights (`torch.Tensor`):
            Their weights, shape `(F,)`.
        args ([`DAPOConfig`]):
            Its `dynamic_sampling_metric` and `multi_objective_aggregation`.

    Attributes:
        unit (`float`):
            What one unit of the raw metric earns.
        is_normalized (`bool`):
            Whether each column is divided by its standard deviation within the group, so that only weights count.

    Raises:
        `ValueError`: As [`~raw_metric.metric_columns`] does.
    """

    def __init__(self, names: list[str], functions: Sequence[Any], weights: torch.Tensor, args: "DAPOConfig") -> None:
        columns = metric_columns(names, args)
        named = args.dynamic_sampling_metric is not None and weights[columns[0]] != 0
        self.unit = weights[columns[0]].abs().item() if named else 1.0
        self._columns = columns if weights[columns].any() else answer_columns(names)
        self._names, self._functions, self._weights = names, functions, weights[self._columns].double().cpu()
        self.is_normalized = args.multi_objective_aggregation == "normalize_then_sum"

    @cached_property
    def stakes(self) -> list[Stake]:
        """
        The functions that pay for a right answer.

        Raises:
            `ValueError`: As [`declared_range`] does.
        """
        declared = [declared_range(self._functions[column], self._names[column]) for column in self._columns]
        entries = zip(self._columns, self._weights.abs().tolist(), declared, strict=True)
        return [
            Stake(self._names[column], column, weight, None if self.is_normalized else one)
            for column, weight, one in entries
            if weight > 0
        ]

    @property
    def declared(self) -> float | None:
        """The distance that follows from weights and declarations; `None` where it has to be seen."""
        distances = [self._distance(stake) for stake in self.stakes]
        known = [distance for distance in distances if distance is not None]
        return sum(known) if known and len(known) == len(distances) else None

    def seen(self, rewards_BF: torch.Tensor) -> float:
        """Returns the distance among completions with these rewards; 0 where none was scored."""
        if self.is_normalized:
            return self._weights.abs().sum().item()
        metric_B = raw_metric(rewards_BF[:, self._columns].cpu(), self._weights)
        metric_B = metric_B[metric_B.isfinite()]
        return (metric_B.max() - metric_B.min()).item() if len(metric_B) else 0.0

    def least(self, rewards_BF: torch.Tensor) -> float:
        """Returns the smallest declared distance of a completion: not every function may apply to each."""
        scored_BF = ~rewards_BF[:, [stake.column for stake in self.stakes]].isnan().cpu()
        distances_F = torch.tensor([self._distance(stake) or 0.0 for stake in self.stakes], dtype=torch.float64)
        distances_B = (scored_BF.double() @ distances_F)[scored_BF.any(dim=1)]
        return distances_B.min().item() if len(distances_B) else math.inf

    def _distance(self, stake: Stake) -> float | None:
        if self.is_normalized:
            return stake.weight
        return None if stake.declared is None else stake.weight * (stake.declared[1] - stake.declared[0])
