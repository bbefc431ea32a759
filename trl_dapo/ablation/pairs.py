"""
What paired seeds say without an interval: the probability of improvement, a permutation test, and how many seeds it
would take.
"""

import math
from functools import lru_cache

import numpy as np

from .scipy_stats import stats
from .scores import TIE, zero_ties


# All 2^n sign flips up to here, and this many random ones beyond
EXACT_UP_TO, RANDOM_FLIPS = 16, 20_000
POWER, SIGNIFICANCE = 0.8, 0.05
# A sample of millions needs no t; one value stands for effects that two seeds would show for certain
NORMAL_FROM, LARGEST_EFFECT = 1_000_000, 50.0


def probability_of_improvement(scores: np.ndarray, others: np.ndarray) -> float:
    """
    Returns the share of pairs of runs, one of each row, of which the first row's is better; ties count half.

    The Mann-Whitney statistic over the number of pairs; section 4.3 of Agarwal et al. (2021), Deep Reinforcement
    Learning at the Edge of the Statistical Precipice.

    Args:
        scores (`np.ndarray`):
            Mean scores of a row's runs, shape `(runs,)`.
        others (`np.ndarray`):
            The same of the other row, shape `(other runs,)`.
    """
    signs = np.sign(zero_ties(scores[:, None] - others))
    return float((1 + signs.mean()) / 2)


def sign_flip_p_value(differences: np.ndarray) -> float:
    """
    Returns the two-sided p-value of the permutation test that flips signs of paired differences.

    If rows make no difference, a pair's difference is as likely as its negative. The p-value is the share of all
    `2^n` flips whose mean is as far from 0 as the one seen, so it is at least `2 / 2^n`: with five seeds nothing can
    fall below 0.06. Exact up to 16 seeds; beyond, 20,000 random flips, the same for the same number of seeds, and the
    one seen is among them.

    Args:
        differences (`np.ndarray`):
            Paired differences, shape `(seeds,)`.
    """
    sums = np.abs(_flips(len(differences)) @ differences)
    # Flips that tie with the one seen must count, whatever the order of summing makes of them
    as_far = sums >= abs(differences.sum()) - TIE * np.abs(differences).sum()
    if len(differences) <= EXACT_UP_TO:
        return float(as_far.mean())
    return float((1 + as_far.sum()) / (1 + RANDOM_FLIPS))


@lru_cache(maxsize=4)
def _flips(seeds: int) -> np.ndarray:
    """Signs, shape `(flips, seeds)`. If they are all, the first is +1: the other half has the same absolute sums."""
    if seeds > EXACT_UP_TO:
        return np.random.default_rng(seeds).choice([-1.0, 1.0], size=(RANDOM_FLIPS, seeds))
    bits = np.arange(2 ** (seeds - 1))[:, None] >> np.arange(seeds)
    return 1.0 - 2.0 * (bits[:, ::-1] & 1)


def seeds_needed(differences: np.ndarray) -> int | None:
    """
    Returns with how many seeds a paired t-test would tell the differences' mean from 0 with a power of 0.8.

    At a significance of 0.05, two-sided, if the mean and spread seen were the true ones. They are not: where a
    difference came out too small by chance, so many seeds would be too many, and too few where it came out too large.

    Args:
        differences (`np.ndarray`):
            Paired differences, shape `(seeds,)`.

    Returns:
        `int` or `None`: At least 2; `None` with one seed, or where the mean or the spread is 0.
    """
    if len(differences) < 2 or np.ptp(differences) < TIE or abs(differences.mean()) < TIE:
        return None
    effect = min(abs(float(differences.mean() / differences.std(ddof=1))), LARGEST_EFFECT)
    # With a known spread it would be this many. Student's test never needs fewer, and about two more
    needed = max(2, math.ceil((stats.norm.ppf(1 - SIGNIFICANCE / 2) + stats.norm.ppf(POWER)) ** 2 / effect**2))
    while needed < NORMAL_FROM and power(effect, needed) < POWER:
        needed += 1
    return needed


def power(effect: float, seeds: int) -> float:
    """
    Returns the power of the two-sided paired t-test at a significance of 0.05, from the noncentral t distribution.

    Args:
        effect (`float`):
            Mean difference in standard deviations of the differences.
        seeds (`int`):
            Number of pairs, 2 or more.
    """
    critical, shift = stats.t.ppf(1 - SIGNIFICANCE / 2, seeds - 1), effect * math.sqrt(seeds)
    upper, lower = stats.nct.sf(critical, seeds - 1, shift), stats.nct.cdf(-critical, seeds - 1, shift)
    return float(upper + lower)
