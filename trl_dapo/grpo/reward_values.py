"""
Rewards that no advantage can be computed from: infinite ones, and finite ones that are too large for float32.

One such reward makes every number of its batch infinite or NaN, and a running mean for good. NaN, which TRL makes of
`None`, is no reward at all and passes. Letters: B rows of all processes, F reward functions.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object


@dataclass(frozen=True)
class Unusable:
    """Where an unusable reward is, and what is wrong with it."""

    row: int
    column: int
    value: float
    why: str


def unusable(rewards_BF: torch.Tensor, weights_F: torch.Tensor) -> Unusable | None:
    """
    Returns the first infinite reward or, where there is none, the largest one if statistics over it overflow.

    Mean and standard deviation are finite where the sum of squares is, of each column and of their weighted sum.

    Args:
        rewards_BF (`torch.Tensor`):
            Rewards of shape `(B, F)`, NaN where a function does not apply.
        weights_F (`torch.Tensor`):
            Weight of each column, shape `(F,)`.
    """
    infinite = rewards_BF.isinf().nonzero()
    if len(infinite):
        row, column = infinite[0].tolist()
        return Unusable(row, column, rewards_BF[row, column].item(), "which is not finite")
    known_BF = rewards_BF.nan_to_num(0.0)
    weighted_BF = known_BF * weights_F.to(known_BF)
    sums = [known_BF.square().sum(dim=0), weighted_BF.square().sum(dim=0), weighted_BF.sum(dim=1).square().sum(dim=0)]
    if known_BF.numel() == 0 or all(one.isfinite().all() for one in sums):
        return None
    row, column = divmod(int(weighted_BF.abs().argmax()), known_BF.size(1))
    return Unusable(row, column, known_BF[row, column].item(), "so large that its square overflows in float32")


def check_rewards(
    rewards_BF: torch.Tensor, names: list[str], weights_F: torch.Tensor, prompts: list, completions: list, rank: int
) -> None:
    """
    Raises `ValueError` for an unusable reward, on every process alike, and names function, row and texts.

    Args:
        rewards_BF (`torch.Tensor`):
            Rewards of all processes, each process's rows in a piece; the same on all of them.
        names (`list[str]`):
            Name of the reward function of each column.
        weights_F (`torch.Tensor`):
            Weight of each column.
        prompts, completions (`list`):
            Texts or messages of this process's rows.
        rank (`int`):
            This process.
    """
    found = unusable(rewards_BF, weights_F)
    if found is None:
        return
    owner, row = divmod(found.row, len(prompts))
    mine: list[Any] = [(prompts[row], completions[row])] if owner == rank else []
    # From the process that has the row; every process comes here, since all look at the same rewards
    (prompt, completion) = gather_object(mine)[0]
    raise ValueError(
        f"The reward function {names[found.column]!r} returned {found.value:g} for row {found.row} of rows 0 to "
        f"{len(rewards_BF) - 1}, {found.why}. Return a finite number, or None where the function does not apply."
        f"\nPrompt: {prompt!r:.300}\nCompletion: {completion!r:.300}"
    )


def check_weights(reward_weights: list[float] | None) -> None:
    """Raises `ValueError` for a weight of a reward function that is not finite."""
    for place, weight in enumerate(reward_weights or []):
        if not math.isfinite(weight):
            raise ValueError(f"`reward_weights` must be finite, got {weight} in place {place}.")
