"""
What the scores of an ablation say: means, differences between rows, and how sure they are.

Pure: arrays in, numbers out. Scores are per seed and question; rows are compared in pairs of the same seed and
question.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .bootstrap import MeanIntervals, mean_intervals
from .intervals import LEVEL, Interval, check_level
from .multiple_comparisons import holm
from .pairs import probability_of_improvement, seeds_needed, sign_flip_p_value
from .scipy_stats import stats
from .scores import RowScores, check_rows, common_seeds, seed_differences


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
            How far the mean would move with other seeds and these questions. `None` with one seed, and where all
            seeds have the same mean. It may reach beyond what a score can be, such as 1.
        over_both (`Interval`, *optional*):
            How far it would move with other seeds and other questions of the kind. `None` where `over_seeds` is,
            and with one question.
        by_seed (`dict[int, float]`):
            Mean over questions of each seed.
        reason (`str`, *optional*):
            Why an interval is missing.
    """

    name: str
    seeds: int
    questions: int
    mean: float
    iqm: float
    over_seeds: Interval | None
    over_both: Interval | None
    by_seed: Mapping[int, float]
    reason: str | None = None


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
            As in [`RowStatistics`].
        over_both (`Interval`, *optional*):
            As in [`RowStatistics`].
        improvement (`float`):
            Probability that a run of the row is better than one of the other: the share of pairs of runs, ties half.
        wins (`int`):
            Seeds on which the row is better than the other; of `seeds`.
        p_value (`float`, *optional*):
            Of the sign-flip permutation test over seeds, two-sided, exact up to 16 seeds. `None` with one common seed.
        p_holm (`float`, *optional*):
            The same, corrected for all differences of this kind in the table (Holm): those to the previous row are a
            family, those to the first row another, those to the last a third.
        seeds_needed (`int`, *optional*):
            Seeds with which a difference of this size and spread would be told from 0 with a power of 0.8. `None`
            where the spread or the difference is 0, or with one common seed.
        reason (`str`, *optional*):
            Why an interval is missing.
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
    reason: str | None = None

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


Pair = tuple[int, int]


def table_statistics(rows: Sequence[RowScores], level: float = LEVEL, seed: int = 0) -> TableStatistics:
    """
    Returns the statistics of a table.

    Each interval has the level by itself. They are studentised bootstrap intervals, stratified by row and paired in
    differences, see `bootstrap.mean_intervals`, which says what they cover.

    Args:
        rows (`Sequence[RowScores]`):
            Rows in order.
        level (`float`, *optional*, defaults to `0.95`):
            Level of the intervals.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resampling: the same scores have the same intervals.

    Raises:
        `ValueError`: If rows have different numbers of questions, none, or scores that are not finite, or if two have
            the same name.
    """
    check_level(level)
    check_rows(rows)
    last = len(rows) - 1
    previous = [(place, place - 1) for place in range(1, len(rows))]
    first, final = [(place, 0) for place in range(1, len(rows))], [(place, last) for place in range(last)]
    found, differences = _all_statistics(rows, dict.fromkeys(previous + first + final), level, seed)
    return TableStatistics(
        rows=found,
        to_previous=(None, *_corrected(differences, previous)),
        to_first=(None, *_corrected(differences, first)),
        to_last=(*_corrected(differences, final), None),
    )


def _all_statistics(
    rows: Sequence[RowScores], pairs: Mapping[Pair, None], level: float, seed: int
) -> tuple[tuple[RowStatistics, ...], dict[Pair, Difference]]:
    """Returns the rows' statistics and those of pairs that share seeds; all are resampled together."""
    scores = [row.of_seeds(sorted(row.by_seed)) for row in rows]
    seeds = {pair: common_seeds(rows[pair[0]], rows[pair[1]]) for pair in pairs}
    seeds = {pair: common for pair, common in seeds.items() if common}
    paired = [rows[one].of_seeds(common) - rows[two].of_seeds(common) for (one, two), common in seeds.items()]
    intervals = mean_intervals(scores + paired, level, seed)
    of_rows = tuple(map(_of_row, rows, scores, intervals[: len(rows)]))
    of_pairs = zip(seeds, intervals[len(rows) :], strict=True)
    return of_rows, {(one, two): _difference(rows[one], rows[two], each) for (one, two), each in of_pairs}


def _of_row(row: RowScores, scores: np.ndarray, intervals: MeanIntervals) -> RowStatistics:
    by_seed = dict(zip(sorted(row.by_seed), scores.mean(axis=1).tolist(), strict=True))
    return RowStatistics(
        name=row.name,
        seeds=scores.shape[0],
        questions=scores.shape[1],
        mean=float(scores.mean()),
        iqm=float(stats.trim_mean(list(by_seed.values()), 0.25)),
        over_seeds=intervals.over_seeds,
        over_both=intervals.over_both,
        by_seed=by_seed,
        reason=intervals.reason,
    )


def _difference(row: RowScores, other: RowScores, intervals: MeanIntervals) -> Difference:
    seeds, differences = common_seeds(row, other), seed_differences(row, other)
    return Difference(
        row=row.name,
        other=other.name,
        seeds=len(seeds),
        mean=float(differences.mean()),
        over_seeds=intervals.over_seeds,
        over_both=intervals.over_both,
        improvement=probability_of_improvement(row.of_seeds(seeds).mean(axis=1), other.of_seeds(seeds).mean(axis=1)),
        wins=int((differences > 0).sum()),
        p_value=sign_flip_p_value(differences) if len(seeds) > 1 else None,
        p_holm=None,
        seeds_needed=seeds_needed(differences),
        reason=intervals.reason,
    )


def _corrected(differences: Mapping[Pair, Difference], pairs: Sequence[Pair]) -> list[Difference | None]:
    """Returns the differences of pairs with p-values corrected for all of them, `None` where seeds are not shared."""
    found = [differences.get(pair) for pair in pairs]
    raw = {place: one.p_value for place, one in enumerate(found) if one is not None and one.p_value is not None}
    corrected = dict(zip(raw, holm(list(raw.values())), strict=True))
    return [None if one is None else replace(one, p_holm=corrected.get(place)) for place, one in enumerate(found)]
