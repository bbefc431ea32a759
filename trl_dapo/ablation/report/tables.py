"""
From runs to tables: which runs each table is made of, what its scores say, and what is wrong with it.

In here: choosing, pairing and refusing. Not in here: the statistics, and how a table looks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np

from .. import statistics
from ..designs import PAPER_LADDER, Design, Row
from ..results import DataSet, End, RunResult
from ..statistics import Difference, RowScores, RowStatistics


Runs = Mapping[int, RunResult]  # by seed


@dataclass(frozen=True)
class Spread:
    """Mean, least and greatest of something over the seeds of a row."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class TableRow:
    """
    A row of a table.

    Args:
        key (`str`):
            Key of its runs.
        row ([`~trl_dapo.ablation.designs.Row`]):
            Its name and changes.
        statistics ([`~trl_dapo.ablation.statistics.RowStatistics`]):
            What its scores say.
        to_previous, to_first, to_last ([`~trl_dapo.ablation.statistics.Difference`], *optional*):
            Differences to other rows; `None` for the row itself, and where the other row has no runs.
        spent (`dict[str, Spread]`):
            `budget`, `completions`, `steps` and `seconds` when the policy was evaluated.
        truncated, mean_length (`float`, *optional*):
            Means over seeds of what the data set says.
        others (`dict[str, float]`):
            Mean accuracy on further data sets.
        paper (`float`, *optional*):
            Accuracy of the paper's row in percent.
    """

    key: str
    row: Row
    statistics: RowStatistics
    to_previous: Difference | None
    to_first: Difference | None
    to_last: Difference | None
    spent: Mapping[str, Spread]
    truncated: float | None = None
    mean_length: float | None = None
    others: Mapping[str, float] | None = None
    paper: float | None = None


@dataclass(frozen=True)
class Table:
    """
    A design's table at one kind of budget.

    Args:
        design ([`~trl_dapo.ablation.designs.Design`]):
            The design.
        match (`str`):
            What was matched.
        regime (`str`, *optional*):
            The regime.
        data_set (`str`):
            What the policies were evaluated on.
        questions (`tuple[str, ...]`):
            Ids of its questions.
        samples (`tuple[int, int]`):
            Fewest and most samples of a question.
        scorers (`tuple[str, ...]`):
            Who judged; more than one is a defect, which `problems` names.
        rows (`tuple[TableRow, ...]`):
            Rows that have runs; none if the table is refused.
        problems (`tuple[str, ...]`):
            What is missing or cannot be compared, one line each.
    """

    design: Design
    match: str
    regime: str | None
    data_set: str
    questions: tuple[str, ...]
    samples: tuple[int, int]
    scorers: tuple[str, ...]
    rows: tuple[TableRow, ...]
    problems: tuple[str, ...]

    @property
    def is_one_seed(self) -> bool:
        """Whether no row has an interval."""
        return bool(self.rows) and max(one.statistics.seeds for one in self.rows) == 1

    @property
    def reference(self) -> str:
        """Which row the table itself compares with: `"previous"` if each adds to the one before, else `"first"`."""
        return "previous" if self.design.is_cumulative else "first"


def compared(row: TableRow, with_row: str) -> Difference | None:
    """Returns the difference of a row to the `"previous"`, the `"first"` or the `"last"`."""
    return {"previous": row.to_previous, "first": row.to_first, "last": row.to_last}[with_row]


def found_rows(runs: Iterable[RunResult]) -> Design:
    """Returns a design of the rows that runs say they belong to, by position and name."""
    first: dict[str, RunResult] = {}
    for run in runs:
        first.setdefault(run.row.key, run)
    in_order = sorted(first.values(), key=lambda run: (run.row.position, run.row.name, run.row.key))
    names = [run.row.name for run in in_order]
    rows = [
        Row(run.row.name if names.count(run.row.name) == 1 else f"{run.row.name} ({run.row.key})", run.row.changes)
        for run in in_order
    ]
    return _Keyed("rows", tuple(rows), keys=tuple(run.row.key for run in in_order))


@dataclass(frozen=True)
class _Keyed(Design):
    """A design whose rows have the keys that runs say, which may be of another program."""

    keys: tuple[str, ...] = ()


def row_keys(design: Design) -> tuple[str, ...]:
    """Returns the keys of a design's rows."""
    return design.keys if isinstance(design, _Keyed) else tuple(row.key for row in design.rows)


def runs_of_rows(runs: Iterable[RunResult], design: Design) -> dict[str, dict[int, RunResult]]:
    """Returns the runs of each row of a design by key and seed; a row without runs has none."""
    found: dict[str, dict[int, RunResult]] = {key: {} for key in row_keys(design)}
    for run in runs:
        if run.row.key in found:
            found[run.row.key].setdefault(run.seed, run)
    return {key: dict(sorted(by_seed.items())) for key, by_seed in found.items()}


def make_table(runs: Sequence[RunResult], design: Design, match: str, regime: str | None = None) -> Table:
    """
    Returns a design's table at one kind of budget.

    Args:
        runs (`Sequence[RunResult]`):
            Runs of one regime; those of other rows take no part.
        design ([`~trl_dapo.ablation.designs.Design`]):
            The design.
        match (`str`):
            `"samples"`, `"steps"` or `"seconds"`.
        regime (`str`, *optional*):
            The regime.
    """
    by_key = runs_of_rows((run for run in runs if match in run.ends), design)
    present = [(row, by_key[key]) for row, key in zip(design.rows, row_keys(design), strict=True) if by_key[key]]
    problems = _missing(design, by_key, match)
    if not present:
        return Table(design, match, regime, "", (), (0, 0), (), (), tuple(problems))
    ends = [run.ends[match] for _, by_seed in present for run in by_seed.values()]
    name = next(iter(ends[0].data_sets))
    refusals = _refusals(present, match, name)
    data_sets = [end.data_sets[name] for end in ends if name in end.data_sets]
    questions = tuple(question.id for question in data_sets[0].questions)
    samples = [question.samples for one in data_sets for question in one.questions]
    scorers = tuple(dict.fromkeys(one.scorer for one in data_sets))
    if len(scorers) > 1:
        problems.append(f"Answers were judged by different scorers: {', '.join(scorers)}.")
    if min(samples) != max(samples):
        problems.append(f"Questions have different numbers of samples, from {min(samples)} to {max(samples)}.")
    rows = () if refusals else _rows(present, design, match, name, questions)
    return Table(
        design,
        match,
        regime,
        name,
        questions,
        (min(samples), max(samples)),
        scorers,
        tuple(rows),
        (*refusals, *problems),
    )


def _missing(design: Design, by_key: Mapping[str, Runs], match: str) -> list[str]:
    rows = [(row.name, by_key[key]) for row, key in zip(design.rows, row_keys(design), strict=True)]
    absent = [name for name, by_seed in rows if not by_seed]
    if len(absent) == len(rows):
        return [f"No run of this design was evaluated at a budget of {match}."]
    problems = [f"Incomplete: no run of {_listed(absent)}."] if absent else []
    every = sorted({seed for _, by_seed in rows for seed in by_seed})
    for name, by_seed in rows:
        lacking = [seed for seed in every if seed not in by_seed]
        if by_seed and lacking:
            seeds = f"seed{'s' * (len(lacking) > 1)} {_listed(lacking)}"
            problems.append(
                f"Incomplete: {name} has no run of {seeds}. Unpaired seeds count in the rows that have them, and in "
                "no difference to this one."
            )
    return problems


def _refusals(present: Sequence[tuple[Row, Runs]], match: str, name: str) -> list[str]:
    """Why the rows cannot be compared: other data sets, or other questions."""
    questions: set[str] | None = None
    where = ""
    for row, by_seed in present:
        for seed, run in by_seed.items():
            data_set = run.ends[match].data_sets.get(name)
            here = f"{row.name}, seed {seed}"
            if data_set is None:
                return [f"Refused: {here} was not evaluated on {name}, which the table is about."]
            ids = {question.id for question in data_set.questions}
            if questions is None:
                questions, where = ids, here
            elif ids != questions:
                return [
                    f"Refused: {here} has other questions of {name} than {where}: {len(ids - questions)} that are not "
                    f"there, and {len(questions - ids)} fewer of those. Rows are compared on the same questions alone."
                ]
    return []


def _rows(
    present: Sequence[tuple[Row, Runs]], design: Design, match: str, data_set: str, questions: tuple[str, ...]
) -> list[TableRow]:
    scores = [
        RowScores(
            row.name,
            {seed: shares(run.ends[match].data_sets[data_set], questions) for seed, run in by_seed.items()},
        )
        for row, by_seed in present
    ]
    found = statistics.table_statistics(scores)
    is_ladder = design.name == "ladder" and len(design.rows) == len(PAPER_LADDER)
    rows = []
    for number, (row, by_seed) in enumerate(present):
        at = design.rows.index(row)
        # A row that is missing between two others would make their difference that of two parts
        follows = number > 0 and design.rows[at - 1] == present[number - 1][0]
        has_ends = (present[0][0] == design.rows[0], present[-1][0] == design.rows[-1])
        rows.append(
            TableRow(
                key=row_keys(design)[at],
                row=row,
                statistics=found.rows[number],
                to_previous=found.to_previous[number] if design.is_cumulative and follows else None,
                to_first=found.to_first[number] if has_ends[0] else None,
                to_last=found.to_last[number] if has_ends[1] else None,
                paper=PAPER_LADDER[at] if is_ladder else None,
                **_means([run.ends[match] for run in by_seed.values()], data_set),
            )
        )
    return rows


def shares(data_set: DataSet, questions: Sequence[str]) -> np.ndarray:
    """Returns the share of right samples of each question, in the order of `questions`; shape `(questions,)`."""
    by_id = {one.id: one.right / one.samples for one in data_set.questions}
    return np.array([by_id[one] for one in questions], dtype=np.float64)


def _means(ends: Sequence[End], data_set: str) -> dict:
    spent = {
        name: spread([float(getattr(end, name)) for end in ends])
        for name in ("budget", "completions", "steps", "seconds")
    }
    own = [end.data_sets[data_set] for end in ends]
    common = [name for name in ends[0].data_sets if name != data_set and all(name in one.data_sets for one in ends)]
    return {
        "spent": spent,
        "truncated": _mean([one.truncated for one in own]),
        "mean_length": _mean([one.mean_length for one in own]),
        "others": {name: fsum(one.data_sets[name].accuracy for one in ends) / len(ends) for name in common},
    }


def spread(values: Sequence[float]) -> Spread:
    """Returns mean, least and greatest."""
    return Spread(fsum(values) / len(values), min(values), max(values))


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fsum(there) / len(there) if len(there) == len(values) else None


def _listed(values: Sequence[object], most: int = 8) -> str:
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more
