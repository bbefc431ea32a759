"""
Means over questions, with intervals that say how far they would move with other questions.

The questions are the sample: the k completions of one question are not independent evidence. The interval is the
bias-corrected and accelerated bootstrap, in NumPy so that an evaluation needs no SciPy; the tests compare the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np


LEVEL = 0.95
RESAMPLES = 10_000
CHUNK = 2_000_000  # numbers in memory at once

ONE_QUESTION = "one question says nothing about others"
ALL_EQUAL = "all questions have the same score"


@dataclass(frozen=True)
class Estimate:
    """
    A mean over questions.

    Args:
        value (`float`):
            The mean.
        interval (`tuple[float, float]`, *optional*):
            Lower and upper end of the interval, `None` where there can be none.
        reason (`str`, *optional*):
            Why there is none.
    """

    value: float
    interval: tuple[float, float] | None = None
    reason: str | None = None


def estimate(values: Sequence[float], level: float = LEVEL, seed: int = 0) -> Estimate:
    """
    Returns the mean of the questions' scores with its BCa bootstrap interval.

    Eq. (14.10) and (14.15) of Efron and Tibshirani, An Introduction to the Bootstrap (1993). With few questions it is
    as rough as any interval is: below about ten, read the scores.

    Args:
        values (`Sequence[float]`):
            Score of each question.
        level (`float`, *optional*, defaults to `0.95`):
            Share of such intervals that hold the mean over all questions of the kind.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resampling: the same scores have the same interval.

    Raises:
        `ValueError`: If there are no questions.
    """
    scores = np.asarray(values, dtype=float)
    if not scores.size:
        raise ValueError("There are no questions to take the mean of.")
    mean = fmean(scores)
    if scores.size == 1:
        return Estimate(mean, reason=ONE_QUESTION)
    if np.ptp(scores) == 0.0:
        return Estimate(float(scores[0]), reason=ALL_EQUAL)
    means = _resampled_means(scores, seed)
    low, high = (float(np.quantile(means, share)) for share in _bca_shares(scores, mean, means, level))
    return Estimate(mean, (low, high))


def _resampled_means(scores: np.ndarray, seed: int) -> np.ndarray:
    generator, chunk = np.random.default_rng(seed), max(1, CHUNK // scores.size)
    rows = [min(chunk, RESAMPLES - done) for done in range(0, RESAMPLES, chunk)]
    return np.concatenate([scores[generator.integers(scores.size, size=(n, scores.size))].mean(axis=1) for n in rows])


def _bca_shares(scores: np.ndarray, mean: float, means: np.ndarray, level: float) -> tuple[float, float]:
    """Returns which quantiles of the resampled means bound the interval."""
    normal = NormalDist()
    # Half of those that equal the mean lie below it
    below = (np.mean(means < mean) + np.mean(means <= mean)) / 2
    bias = normal.inv_cdf(float(np.clip(below, 1 / means.size, 1 - 1 / means.size)))
    # The jackknife's means differ from their mean by (mean - score) / (n - 1)
    away = (mean - scores) / (scores.size - 1)
    # As shares of the largest: the cube of a tiny one would be 0
    jackknife = -away / np.abs(away).max()
    acceleration = float((jackknife**3).sum() / (6 * (jackknife**2).sum() ** 1.5))
    shares = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        shifted = bias + normal.inv_cdf(tail)
        shares.append(normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    return shares[0], shares[1]
