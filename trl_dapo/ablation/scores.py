"""
Scores of a row per seed and question, and how two rows are paired. What cannot be scores is refused here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


# Two runs whose accuracies differ by less are equal: the rest is rounding. One sample of one question is 1e-6 or more
TIE = 1e-9


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

    def of_seeds(self, seeds: Sequence[int]) -> np.ndarray:
        """Returns the scores of some seeds, shape `(seeds, questions)`."""
        return np.stack([np.asarray(self.by_seed[seed], dtype=float) for seed in seeds])


def common_seeds(row: RowScores, other: RowScores) -> list[int]:
    """Returns the seeds that both rows have, in ascending order."""
    return sorted(set(row.by_seed) & set(other.by_seed))


def seed_differences(row: RowScores, other: RowScores) -> np.ndarray:
    """
    Returns a row's mean score minus another's for each seed that both have, in ascending order of seeds.

    Differences that are only rounding are 0 exactly, so that ties are ties.
    """
    seeds = common_seeds(row, other)
    if not seeds:
        return np.zeros(0)
    return zero_ties((row.of_seeds(seeds) - other.of_seeds(seeds)).mean(axis=1))


def zero_ties(differences: np.ndarray) -> np.ndarray:
    """Returns differences with 0 in place of what is only rounding."""
    return np.where(np.abs(differences) < TIE, 0.0, differences)


def check_rows(rows: Sequence[RowScores]) -> None:
    """
    Refuses what is no table.

    Raises:
        `ValueError`: If there are no rows, two of one name, a row without seeds, a seed without questions or with
            other questions than the first, or a score that is not finite.
    """
    if not rows:
        raise ValueError("rows is empty; a table has at least one row.")
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"rows has two rows of the name {name!r}; give each a name of its own.")
    questions: int | None = None
    for row in rows:
        if not row.by_seed:
            raise ValueError(f"Row {row.name!r} has no seeds; leave it out until a run is finished.")
        for seed in row.by_seed:
            questions = _checked_questions(row, seed, questions)


def _checked_questions(row: RowScores, seed: int, expected: int | None) -> int:
    scores, place = np.asarray(row.by_seed[seed], dtype=float), f"Row {row.name!r}, seed {seed}"
    if scores.ndim != 1 or not scores.size:
        raise ValueError(f"{place}: scores have the shape {scores.shape}; they are one number for each question.")
    if expected is not None and scores.size != expected:
        raise ValueError(
            f"{place} has {scores.size} questions and the first run {expected}; rows are compared on the same ones."
        )
    wrong = np.flatnonzero(~np.isfinite(scores))
    if wrong.size:
        raise ValueError(
            f"{place}: the score of question {wrong[0]} is {scores[wrong[0]]}; evaluate the run again or leave it out."
        )
    return scores.size
