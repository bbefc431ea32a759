"""
What the scores of an ablation say: means, differences between rows, and how sure they are.

Pure: arrays in, numbers out. Scores are per seed and question; rows are compared in pairs of the same seed and
question.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


LEVEL = 0.95


@dataclass(frozen=True)
class RowScores:
    """
    Scores of a row.

    Args:
        name (`str`):
            The row.
        by_seed (`dict[int, np.ndarray]`):
            For each seed the share of right samples of each question, shape `(questions,)`. All rows of a table have
            the same questions, in the same order.
    """

    name: str
    by_seed: Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Interval:
    """Lower and upper end of an interval."""

    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether 0 is in it, the ends included."""
        return self.low <= 0.0 <= self.high


@dataclass(frozen=True)
class RowStatistics:
    """
    What the scores of a row say.

    Args:
        name (`str`):
            The row.
        seeds (`int`):
            Number of seeds.
        questions (`int`):
            Number of questions.
        mean (`float`):
            Mean over seeds and questions.
        iqm (`float`):
            Interquartile mean over seeds of the seeds' means.
        over_seeds (`Interval`, *optional*):
            How far the mean would move with other seeds and these questions. `None` with one seed.
        over_both (`Interval`, *optional*):
            How far it would move with other seeds and other questions of the kind. `None` with one seed or question.
        by_seed (`dict[int, float]`):
            Mean over questions of each seed.
    """

    name: str
    seeds: int
    questions: int
    mean: float
    iqm: float
    over_seeds: Interval | None
    over_both: Interval | None
    by_seed: Mapping[int, float]


@dataclass(frozen=True)
class Difference:
    """
    A row minus another, paired by seed and question.

    Args:
        row (`str`):
            The row.
        other (`str`):
            The row that is subtracted.
        seeds (`int`):
            Seeds that both have; the others take no part.
        mean (`float`):
            Mean difference.
        over_seeds (`Interval`, *optional*):
            As in [`RowStatistics`]. `None` with one common seed.
        over_both (`Interval`, *optional*):
            As in [`RowStatistics`].
        improvement (`float`):
            Probability that a run of the row is better than one of the other: the share of pairs of runs, ties half.
        wins (`int`):
            Seeds on which the row is better than the other; of `seeds`.
        p_value (`float`, *optional*):
            Of the sign-flip permutation test over seeds, two-sided. `None` with one common seed.
        p_holm (`float`, *optional*):
            The same, corrected for all differences of this kind in the table (Holm).
        seeds_needed (`int`, *optional*):
            Seeds with which a difference of this size and spread would be told from 0 with a power of 0.8. `None`
            where the spread or the difference is 0, or with one common seed.
    """

    row: str
    other: str
    seeds: int
    mean: float
    over_seeds: Interval | None
    over_both: Interval | None
    improvement: float
    wins: int
    p_value: float | None
    p_holm: float | None
    seeds_needed: int | None

    @property
    def is_resolved(self) -> bool:
        """Whether the interval over seeds leaves 0 out."""
        return self.over_seeds is not None and not self.over_seeds.holds_zero


@dataclass(frozen=True)
class TableStatistics:
    """
    What the scores of a table say. The tuples have one entry per row, `None` for the row itself or where there is no
    common seed.
    """

    rows: tuple[RowStatistics, ...]
    to_previous: tuple[Difference | None, ...]
    to_first: tuple[Difference | None, ...]
    to_last: tuple[Difference | None, ...]


def table_statistics(rows: Sequence[RowScores], level: float = LEVEL, seed: int = 0) -> TableStatistics:
    """
    Returns the statistics of a table.

    Args:
        rows (`Sequence[RowScores]`):
            Rows in order.
        level (`float`, *optional*, defaults to `0.95`):
            Level of the intervals.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resampling: the same scores have the same intervals.

    Raises:
        `ValueError`: If rows have different numbers of questions, none, or scores that are not finite.
    """
    raise NotImplementedError
