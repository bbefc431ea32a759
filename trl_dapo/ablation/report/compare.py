"""
Two reports side by side, from their `results.json`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np

from .. import statistics
from ..scores import TIE
from ..statistics import LEVEL, Interval, RowScores
from .archive import ARCHIVE, ArchiveError, read_archive
from .escaping import as_markdown, as_markdown_line, one_line
from .numbers import NOT_RESOLVED, NOTHING, RESOLVED, interval, no_interval, percent, points


@dataclass(frozen=True)
class _Scores:
    """Shares of right samples by seed, each of shape `(questions,)`, and the questions' ids."""

    data_set: str
    questions: tuple[str, ...]
    by_seed: Mapping[int, np.ndarray]

    @property
    def means(self) -> list[float]:
        return [float(one.mean()) for one in self.by_seed.values()]


def compare(a: Path, b: Path) -> str:
    """
    Returns two reports side by side as Markdown: B minus A for each row that both have, by its key.

    Rows are paired by seed and question where both reports have the same of both; otherwise the interval is Welch's,
    over the means of the seeds. Needs scipy.

    Args:
        a, b (`Path`):
            Folders of reports.

    Raises:
        [`~trl_dapo.ablation.report.archive.ArchiveError`]: If one of them has no `results.json` of this schema.
    """
    first, second = read_archive(a), read_archive(b)
    try:
        return _compared(first, second, a, b)
    except ArchiveError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ArchiveError(f"{a} or {b}: {ARCHIVE} lacks what its schema has: {error!r}.") from error


def _compared(first: dict[str, Any], second: dict[str, Any], a: Path, b: Path) -> str:
    parts = ["# Two reports side by side", f"- A: {_called(first, a)}\n- B: {_called(second, b)}"]
    ours, theirs = _by_regime(first), _by_regime(second)
    for regime in dict.fromkeys([*ours, *theirs]):
        if regime is not None:
            parts.append(f"## Regime: {as_markdown(regime)}")
        if regime not in ours or regime not in theirs:
            parts.append(f"Only in {'A' if regime in ours else 'B'}.")
            continue
        parts += _tables(ours[regime], theirs[regime])
        parts += ["### What differs in settings", _settings(ours[regime], theirs[regime])]
    parts.append(f"Intervals are at {LEVEL:.0%}. Not resolved: the interval holds 0.".replace("%", " %"))
    return "\n\n".join(parts) + "\n"


def _called(content: Mapping[str, Any], folder: Path) -> str:
    runs = sum(len(section["runs"]) for section in content["sections"])
    return f"{as_markdown(content['title'])} ({as_markdown(folder.as_posix())}, {runs} runs)"


def _by_regime(content: Mapping[str, Any]) -> dict[str | None, dict[str, Any]]:
    return {section["regime"]: {**section, "questions": content["questions"]} for section in content["sections"]}


def _tables(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    matches = [
        list(dict.fromkeys(name for run in section["runs"] for name in run["ends"])) for section in (ours, theirs)
    ]
    both = [name for name in matches[0] if name in matches[1]]
    if not both:
        return ["No kind of budget is in both."]
    return [part for match in both for part in _table(ours, theirs, match)]


def _table(ours: Mapping[str, Any], theirs: Mapping[str, Any], match: str) -> list[str]:
    scores = [_scores(section, match) for section in (ours, theirs)]
    names = {run["key"]: run["name"] for section in (theirs, ours) for run in section["runs"]}
    for section in (theirs, ours):
        names |= {row["key"]: row["name"] for table in reversed(section["tables"]) for row in table["rows"]}
    columns = ("row", "seeds A", "seeds B", "A %", "B %", "B − A", "interval", "pairing", "verdict")
    lines = [columns, ["---"] + ["---:"] * 6 + ["---"] * 2]
    # As the tables have them; runs come by their paths
    order = [row["key"] for section in (ours, theirs) for table in section["tables"] for row in table["rows"]]
    for key in [key for key in dict.fromkeys([*order, *scores[0]]) if key in scores[0] and key in scores[1]]:
        lines.append(tuple(map(as_markdown, _line(names[key], scores[0][key], scores[1][key]))))
    grid = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    budgets = [_budget(section, match) for section in (ours, theirs)]
    said = f"Budget: {budgets[0]}" + ("." if budgets[0] == budgets[1] else f" in A, {budgets[1]} in B.")
    only = [
        f"Only in {name}: {', '.join(as_markdown(names[key]) for key in own if key not in other)}."
        for name, own, other in (("A", scores[0], scores[1]), ("B", scores[1], scores[0]))
        if set(own) - set(other)
    ]
    return [f"### Matched by {as_markdown(match)}", said, grid, *only]


def _scores(section: Mapping[str, Any], match: str) -> dict[str, _Scores]:
    """Scores of each row by key, on the first data set of its first run; runs without it take no part."""
    found: dict[str, dict[int, np.ndarray]] = {}
    about: dict[str, tuple[str, tuple[str, ...]]] = {}
    for run in section["runs"]:
        if match not in run["ends"]:
            continue
        data_sets = run["ends"][match]["data_sets"]
        name, questions = about.get(run["key"], (next(iter(data_sets)), None))
        if name not in data_sets:
            continue
        own = data_sets[name]
        ids = section["questions"][own["questions"]]
        questions = tuple(sorted(ids)) if questions is None else questions
        if tuple(sorted(ids)) != questions:
            continue
        order = np.argsort(np.array(ids, dtype=object))
        about[run["key"]] = (name, questions)
        right, samples = (np.asarray(own[name], dtype=np.float64) for name in ("right", "samples"))
        shares = np.divide(right, samples, out=np.full_like(right, np.nan), where=samples > 0)
        if shares.shape != (len(ids),) or not ((shares >= 0) & (shares <= 1)).all():
            raise ArchiveError(
                f"{ARCHIVE}: the scores of {run['key']!a}, seed {run['seed']}, are not one share for each question."
            )
        found.setdefault(run["key"], {})[run["seed"]] = shares[order]
    return {key: _Scores(*about[key], by_seed) for key, by_seed in found.items()}


def _budget(section: Mapping[str, Any], match: str) -> str:
    budgets = sorted({run["ends"][match]["budget"] for run in section["runs"] if match in run["ends"]})
    return " or ".join(f"{one:,g}" for one in budgets[:4]) + (" …" if len(budgets) > 4 else "")


def _line(name: str, ours: _Scores, theirs: _Scores) -> tuple[str, ...]:
    means = [fsum(one.means) / len(one.means) for one in (ours, theirs)]
    start = (name, str(len(ours.by_seed)), str(len(theirs.by_seed)), *map(percent, means))
    if ours.data_set != theirs.data_set:
        return (*start, NOTHING, NOTHING, f"other data sets: {ours.data_set}, {theirs.data_set}", NOTHING)
    difference, found, how = _difference(ours, theirs)
    fewest = min(len(ours.by_seed), len(theirs.by_seed))
    verdict = no_interval(fewest) if found is None else NOT_RESOLVED if found.holds_zero else RESOLVED
    return (*start, points(difference), interval(found, points), how, verdict)


def _difference(ours: _Scores, theirs: _Scores) -> tuple[float, Interval | None, str]:
    same_questions = ours.questions == theirs.questions
    if same_questions and set(ours.by_seed) == set(theirs.by_seed):
        found = statistics.table_statistics([RowScores("A", ours.by_seed), RowScores("B", theirs.by_seed)]).to_first[1]
        if found is not None:
            return found.mean, found.over_seeds, "seed and question"
    how = "none" if same_questions else "none: other questions"
    return fsum(theirs.means) / len(theirs.means) - fsum(ours.means) / len(ours.means), _welch(ours, theirs), how


def _welch(ours: _Scores, theirs: _Scores) -> Interval | None:
    """Welch's interval for the difference of means; `None` with one seed on a side, and where seeds have no spread."""
    from scipy.stats import ttest_ind

    a, b = ours.means, theirs.means
    if min(len(a), len(b)) < 2:
        return None
    if max(np.ptp(a), np.ptp(b)) < TIE:
        return None
    ends = ttest_ind(b, a, equal_var=False).confidence_interval(LEVEL)
    return Interval(float(ends.low), float(ends.high))


def _settings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    lines = []
    for what in ("environment", "checkpoint"):
        lines += _differing(
            {k: " | ".join(v) for k, v in ours[what].items()}, {k: " | ".join(v) for k, v in theirs[what].items()}
        )
    ours_by_row, theirs_by_row = (_by_row(section["settings"], section["runs"]) for section in (ours, theirs))
    common = [key for key in ours_by_row if key in theirs_by_row]
    by_line: dict[str, list[str]] = {}
    for key in common:
        for line in _differing(ours_by_row[key], theirs_by_row[key]):
            by_line.setdefault(line, []).append(key)
    for line, keys in by_line.items():
        lines.append(line if len(keys) == len(common) else f"{line} (row {', '.join(keys)})")
    return "\n".join(f"- {as_markdown_line(line)}" for line in lines) or "Nothing."


def _by_row(settings: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    return {run["key"]: {**settings["shared"], **settings["rows"].get(run["key"], {})} for run in runs}


def _differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    names = dict.fromkeys([*ours, *theirs])
    return [
        f"{one_line(name)}: {ours.get(name, 'absent')} in A, {theirs.get(name, 'absent')} in B"
        for name in names
        if ours.get(name) != theirs.get(name)
    ]
