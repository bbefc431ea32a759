"""
Which reward columns shape the reward and which say whether a completion is right.

Pure: names in, column numbers out. Columns are found by name, because environments add columns of their own.
"""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .config import DAPOConfig

# The name that TRL gives to its soft overlong punishment
LENGTH_PENALTY = "soft_overlong_punishment_reward"


def length_penalties(names: list[str]) -> list[int]:
    """Returns the columns that are soft overlong punishments."""
    return [column for column, name in enumerate(names) if name == LENGTH_PENALTY]


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
        if wanted == LENGTH_PENALTY:
            raise ValueError(
                f"dynamic_sampling_metric={wanted!r} is a length penalty, which does not say whether a completion is "
                "right. Name another reward function."
            )
        return [names.index(wanted)]
    columns = [column for column in range(len(names)) if names[column] != LENGTH_PENALTY]
    if not columns and args.dynamic_sampling:
        raise ValueError(
            f"dynamic_sampling=True has nothing to look at: the reward functions {names} are length penalties only. "
            "Add one that scores the completion, or set dynamic_sampling=False."
        )
    return columns
