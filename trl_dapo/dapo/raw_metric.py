"""
The raw metric: which reward columns say whether a completion is right.

Columns are found by name, because environments add columns of their own. Columns that shape the reward, such as the
length penalty, never count.
"""

from typing import TYPE_CHECKING

import torch

from .sampling.groups import raw_metric


if TYPE_CHECKING:
    from .config import DAPOConfig

# The name that TRL gives to its soft overlong punishment
PENALTY_NAME = "soft_overlong_punishment_reward"


class RawMetric:
    """
    The number that decides whether a group is informative.

    Args:
        names (`list[str]`):
            Names of the reward functions, in the order of their columns.
        weights (`torch.Tensor`):
            Their weights, shape `(F,)`.
        args ([`DAPOConfig`]):
            Its `dynamic_sampling_metric` and `dynamic_sampling`.

    Raises:
        `ValueError`: As [`metric_columns`] does.
    """

    def __init__(self, names: list[str], weights: torch.Tensor, args: "DAPOConfig") -> None:
        self._columns = metric_columns(names, args)
        named = args.dynamic_sampling_metric is not None
        self._weights = torch.ones(1) if named else weights[self._columns].cpu()

    def of(self, rewards: torch.Tensor) -> torch.Tensor:
        """Returns the metric of B completions, shape `(B,)`, from their rewards of shape `(B, F)`."""
        return raw_metric(rewards[:, self._columns], self._weights)


def penalty_columns(names: list[str]) -> list[int]:
    """Returns the columns that are soft overlong punishments."""
    return [column for column, name in enumerate(names) if name == PENALTY_NAME]


def answer_columns(names: list[str]) -> list[int]:
    """Returns the columns that are not soft overlong punishments."""
    return [column for column, name in enumerate(names) if name != PENALTY_NAME]


def metric_columns(names: list[str], args: "DAPOConfig") -> list[int]:
    """
    Returns the columns that make up the raw metric: the one that `dynamic_sampling_metric` names, else all but length
    penalties.

    Args:
        names (`list[str]`):
            Names of the reward functions, in the order of their columns.
        args ([`DAPOConfig`]):
            Its `dynamic_sampling_metric` and `dynamic_sampling`.

    Raises:
        `ValueError`: Where the named function does not exist or not once, and where dynamic sampling would have
        nothing to look at.
    """
    wanted = args.dynamic_sampling_metric
    if wanted is not None:
        if names.count(wanted) != 1:
            raise ValueError(
                f"dynamic_sampling_metric={wanted!r} must name one reward function; {names.count(wanted)} of {names} "
                "are called so."
            )
        if wanted == PENALTY_NAME:
            raise ValueError(
                f"dynamic_sampling_metric={wanted!r} is a length penalty, which does not say whether a completion is "
                "right. Name another reward function."
            )
        return [names.index(wanted)]
    columns = answer_columns(names)
    if not columns and args.dynamic_sampling:
        raise ValueError(
            f"dynamic_sampling=True has nothing to look at: the reward functions {names} are length penalties only. "
            "Add one that scores the completion, or set dynamic_sampling=False."
        )
    return columns
