"""
How often each technique acted in a run: the manipulation checks.

A difference of nothing says something only where the technique had something to do. For each technique there is a
number of the trainer's logs that says how much it did; `docs/metrics.md` says what each is.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean


# Technique -> the metric that says how much it did, or would have had to do
ACTED = {
    "overlong_filtering": "dapo/rows_filtered",
    "clip_higher": "dapo/above_symmetric",
    "soft_overlong_punishment": "dapo/mean_length_penalty",
    "token_level_loss": "dapo/weight_moved",
    "dynamic_sampling": "dapo/groups_replaced",
}
# What each number is, in words
WORDS = {
    "dapo/rows_filtered": "share of rows taken out of the loss",
    "dapo/above_symmetric": "share of tokens above the symmetric clip range, with a positive advantage",
    "dapo/mean_length_penalty": "mean length penalty, 0 to -1",
    "dapo/weight_moved": "share of the weight that token-level loss moves between rows",
    "dapo/groups_replaced": "degenerate groups replaced per rollout",
}
# What helps to read them
BESIDE = ("clip_ratio/high_mean", "dapo/overlong_frac", "dapo/frac_informative")


def means(curve: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of each metric over the logs that have it."""
    found = {metric: [one[metric] for one in curve if metric in one] for metric in (*ACTED.values(), *BESIDE)}
    return {metric: fmean(values) for metric, values in found.items() if values}


def measures_of(technique: str, manipulation: Mapping[str, float]) -> dict[str, float]:
    """
    Returns the metrics that say how much a technique did: its own, and those that bear its name, as other programs
    may write them.
    """
    return {
        name: value
        for name, value in manipulation.items()
        if name == ACTED.get(technique) or technique in name.replace("-", "_")
    }
