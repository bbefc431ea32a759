"""
Crude statistics with the interface of `trl_dapo.ablation.statistics`, for tests of what is written about them.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t

from trl_dapo.ablation.statistics import Difference, Interval, RowScores, RowStatistics, TableStatistics


def _interval(values: np.ndarray) -> Interval | None:
    if len(values) < 2:
        return None
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return Interval(float(values.mean() - half), float(values.mean() + half))


def _row(row: RowScores) -> RowStatistics:
    means = np.array([one.mean() for one in row.by_seed.values()])
    found = _interval(means)
    by_seed = {seed: float(one.mean()) for seed, one in row.by_seed.items()}
    questions = len(next(iter(row.by_seed.values())))
    return RowStatistics(
        row.name, len(means), questions, float(means.mean()), float(np.median(means)), found, found, by_seed
    )


def _difference(row: RowScores, other: RowScores) -> Difference | None:
    common = sorted(set(row.by_seed) & set(other.by_seed))
    if not common or row is other:
        return None
    values = np.array([(row.by_seed[seed] - other.by_seed[seed]).mean() for seed in common])
    found, several = _interval(values), len(common) > 1
    return Difference(
        row.name,
        other.name,
        len(common),
        float(values.mean()),
        found,
        found,
        float((values > 0).mean()),
        int((values > 0).sum()),
        0.04 if several else None,
        0.2 if several else None,
        12 if several else None,
    )


def crude_statistics(rows: Sequence[RowScores], level: float = 0.95, seed: int = 0) -> TableStatistics:
    return TableStatistics(
        tuple(map(_row, rows)),
        tuple(None if not number else _difference(row, rows[number - 1]) for number, row in enumerate(rows)),
        tuple(_difference(row, rows[0]) for row in rows),
        tuple(_difference(row, rows[-1]) for row in rows),
    )
