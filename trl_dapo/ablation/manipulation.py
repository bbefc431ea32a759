"""
How often each technique acted in a run: the manipulation checks.

A difference of nothing says something only where the technique had something to do. For each technique there is a
number of the trainer's logs that says how much it did or, while it is off, would have had to do.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean


# Metric of the logs -> technique, and what the number is
CHECKS = {
    "dapo/above_symmetric": ("clip_higher", "tokens with a ratio above the symmetric range and a positive advantage"),
    "clip_ratio/high_mean": ("clip_higher", "tokens clipped at the upper bound of the run's own range"),
    "dapo/rows_filtered": ("overlong_filtering", "rows that were taken out of the loss"),
    "dapo/overlong_frac": ("overlong_filtering", "completions that ran out of tokens"),
    "dapo/mean_length_penalty": ("soft_overlong_punishment", "mean length penalty paid, from 0 to -1"),
    "dapo/weight_moved": ("token_level_loss", "weight that token-level loss moves between short and long rows"),
    "dapo/groups_replaced": ("dynamic_sampling", "degenerate groups replaced per rollout"),
    "dapo/frac_informative": ("dynamic_sampling", "groups that were informative"),
}


def means(curve: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of each check over the logs that have it."""
    found = {metric: [one[metric] for one in curve if metric in one] for metric in CHECKS}
    return {metric: fmean(values) for metric, values in found.items() if values}
