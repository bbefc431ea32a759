"""
How often each technique acted in a run: the manipulation checks.

A difference of nothing says something only where the technique had something to do. For each technique there is a
number of the trainer's logs that says how much it did, or would have had to do; see `docs/metrics.md`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Measure:
    """
    What says how much a technique acts.

    Args:
        metric (`str`):
            Name in `docs/metrics.md`.
        bound (`float`):
            A mean beyond it says that the technique acted: above it, or below it where `bound` is negative.
        meaning (`str`):
            What the metric says, in words.
        with_technique (`bool`, *optional*, defaults to `True`):
            Whether it is that of the row with the technique, or of the row without, where it says how much the
            technique would act on.
    """

    metric: str
    bound: float
    meaning: str
    with_technique: bool = True

    def says_acted(self, mean: float) -> bool:
        """Returns whether a mean over runs lies beyond the bound."""
        return mean < self.bound if self.bound < 0 else mean > self.bound


MEASURES: Mapping[str, Measure] = {
    "overlong_filtering": Measure("dapo/rows_filtered", 0.01, "share of rows taken out of the loss"),
    "clip_higher": Measure(
        "dapo/above_symmetric", 0.01, "share of tokens that the symmetric range clips from above", with_technique=False
    ),
    "soft_overlong_punishment": Measure("dapo/mean_length_penalty", -0.01, "length penalty per row"),
    "token_level_loss": Measure("dapo/weight_moved", 0.05, "share of the loss's weight moved between rows"),
    "dynamic_sampling": Measure("dapo/groups_replaced", 1.0, "groups replaced per rollout"),
}

# What helps to read them
BESIDE = ("clip_ratio/high_mean", "dapo/overlong_frac", "dapo/frac_informative")


def means(curve: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of each metric over the logs that have it."""
    metrics = (*(measure.metric for measure in MEASURES.values()), *BESIDE)
    found = {metric: [one[metric] for one in curve if metric in one] for metric in metrics}
    return {metric: fmean(values) for metric, values in found.items() if values}
