"""
Intervals for means over seeds and over seeds and questions: the studentised bootstrap.

Ordinary bootstrap intervals, percentile and BCa, are too short with the number of seeds that one can pay for: with
eight, nine in ten of them hold the mean where 95 % should. The studentised bootstrap divides each resampled mean by
its own standard error, as Student's t does, and covers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .intervals import Interval
from .scipy_stats import stats
from .scores import TIE


RESAMPLES = 10_000
# So many resamples are in memory at once. A constant, since the draws must not depend on what else is in a table
CHUNK = 1_000
# Five values have 126 distinct resamples: no tail to read 2.5 % from. Below this number, Student's t
FEWEST = 6
# An end is at most so many times as far away as Student's. One run of eight that collapsed would set it a thousand
# times as far, since a third of the resamples lack that run and have hardly any spread
FARTHEST = 2.0
# Variance of a resample, relative to the sample's, below which it has none
NO_SPREAD = 1e-12

ONE_SEED = "one seed says nothing about others"
ALL_EQUAL = "all seeds agree, so their spread is unknown"
ONE_QUESTION = "one question says nothing about others"


@dataclass(frozen=True)
class MeanIntervals:
    """
    How far a mean over seeds and questions would move.

    Args:
        over_seeds (`Interval`, *optional*):
            With other seeds. `None` with one seed, and where all seeds have the same mean: a few equal numbers do not
            say that their spread is 0.
        over_both (`Interval`, *optional*):
            With other seeds and other questions; it holds `over_seeds`. `None` where that is, and with one question.
        reason (`str`, *optional*):
            Why one is missing.
    """

    over_seeds: Interval | None = None
    over_both: Interval | None = None
    reason: str | None = None


def mean_intervals(samples: Sequence[np.ndarray], level: float, seed: int) -> list[MeanIntervals]:
    """
    Returns the intervals of the means of score arrays, all with the same number of questions.

    Over seeds: [`studentised_arms`] of the seeds' means. Over both, seeds and questions are resampled apart, crossed
    as in Owen (2007), The pigeonhole bootstrap. An end's distance from the mean is

        sqrt(over_seeds² + (1 - MS_residual / MS_questions) · over_questions²)

    with the mean squares of the two-way analysis of variance: the factor is the share of the variance of the
    questions' means that is the questions' own, since the seeds' noise in them is in `over_seeds` already. Distances
    of independent parts add as squares: Zou and Donner (2008), Construction of confidence limits about effect
    measures. (Resampling the cells themselves counts their noise three times, and the ANOVA standard error in each
    resample does not make up for it: it covered 0.93 with eight seeds and 0.89 with three.)

    In simulated tables with 225 questions 95 % intervals cover 0.94 to 0.97 from five seeds on; with three, those over
    both are too long (up to 0.98). With 20 questions most of which are never missed, those over both are too short.

    Args:
        samples (`Sequence[np.ndarray]`):
            Scores, or paired differences of scores, each of shape `(seeds, questions)`.
        level (`float`):
            Level of the intervals.
        seed (`int`):
            Seed of the resampling. The draws depend on it and on the sizes alone.
    """
    by_question = np.stack([scores.mean(axis=0) for scores in samples])
    over_questions = studentised_arms(by_question, level, seed) if by_question.shape[1] > 1 else None
    over_seeds = _seed_arms(samples, level, seed)
    found = []
    for place, scores in enumerate(samples):
        if scores.shape[0] == 1:
            found.append(MeanIntervals(reason=ONE_SEED))
        elif np.ptp(scores.mean(axis=1)) < TIE:
            found.append(MeanIntervals(reason=ALL_EQUAL))
        elif over_questions is None:
            found.append(MeanIntervals(_around(scores, over_seeds[place]), reason=ONE_QUESTION))
        else:
            both = np.sqrt(over_seeds[place] ** 2 + question_share(scores) * over_questions[place] ** 2)
            found.append(MeanIntervals(_around(scores, over_seeds[place]), _around(scores, both)))
    return found


def _seed_arms(samples: Sequence[np.ndarray], level: float, seed: int) -> np.ndarray:
    arms = np.zeros((len(samples), 2))
    for size in {scores.shape[0] for scores in samples} - {1}:
        places = [place for place, scores in enumerate(samples) if scores.shape[0] == size]
        arms[places] = studentised_arms(np.stack([samples[one].mean(axis=1) for one in places]), level, seed)
    return arms


def _around(scores: np.ndarray, arms: np.ndarray) -> Interval:
    mean = float(scores.mean())
    return Interval(mean - float(arms[0]), mean + float(arms[1]))


def question_share(scores: np.ndarray) -> float:
    """
    Returns the share of the variance of the questions' means that is the questions' own, from 0 to 1.

    The rest is the noise of seeds and samples within a question: `1 - MS_residual / MS_questions` of the two-way
    analysis of variance, 0 where that is negative.

    Args:
        scores (`np.ndarray`):
            Shape `(seeds, questions)`, two or more of both.
    """
    seeds, questions = scores.shape
    by_question = scores.mean(axis=0)
    residuals = scores - by_question - scores.mean(axis=1, keepdims=True) + scores.mean()
    between = seeds * by_question.var(ddof=1)
    within = (residuals**2).sum() / ((seeds - 1) * (questions - 1))
    return max(0.0, 1.0 - within / between) if between > 0 else 0.0


def studentised_arms(samples: np.ndarray, level: float, seed: int) -> np.ndarray:
    """
    Returns how far below and above their means the intervals of samples of one size reach, shape `(samples, 2)`.

    Eq. (12.22) of Efron and Tibshirani, An Introduction to the Bootstrap (1993): quantiles of
    `(resampled mean - mean) / resampled standard error` stand in for Student's. Below [`FEWEST`] values they are
    Student's: in simulations both cover, and the bootstrap's interval is a fifth longer with five. No end is farther
    than [`FARTHEST`] times Student's. Equal values have arms of 0.

    Args:
        samples (`np.ndarray`):
            Shape `(samples, size)`, of size 2 or more.
        level (`float`):
            Level of the intervals.
        seed (`int`):
            Seed of the resampling.
    """
    size = samples.shape[1]
    deviations = samples - samples.mean(axis=1, keepdims=True)
    errors = deviations.std(axis=1, ddof=1, keepdims=True) / math.sqrt(size)
    student = float(stats.t.ppf((1 + level) / 2, size - 1))
    if size < FEWEST:
        return errors * np.array([student, student])
    standard = np.divide(deviations, errors, out=np.zeros_like(deviations), where=errors > 0)
    ratios = np.clip(_studentised_means(standard, seed), -FARTHEST * student, FARTHEST * student)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], axis=0)
    # The bootstrap's upper tail bounds the mean from below
    return errors * np.stack([high, -low], axis=1)


def _studentised_means(standard: np.ndarray, seed: int) -> np.ndarray:
    """Returns resampled means of centred samples over their standard errors, shape `(resamples, samples)`."""
    size = standard.shape[1]
    generator = np.random.default_rng((seed, size))
    ratios = []
    for done in range(0, RESAMPLES, CHUNK):
        counts = _counts(generator, min(CHUNK, RESAMPLES - done), size)
        means = counts @ standard.T / size
        squares = counts @ (standard**2).T - size * means**2
        ratios.append(means / np.sqrt(np.maximum(squares / (size * (size - 1)), NO_SPREAD)))
    return np.concatenate(ratios)


def _counts(generator: np.random.Generator, resamples: int, size: int) -> np.ndarray:
    """Returns how often each value is in each resample, shape `(resamples, size)`: multinomial weights."""
    drawn = generator.integers(size, size=(resamples, size)) + size * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size).astype(float)
