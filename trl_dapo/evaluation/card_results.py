"""
What evaluations of a run tell a model card.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..host.card_results import SCORES, CardResult
from .results import read_results, summary
from .samples import DataSetScore


def card_results(results: Mapping[int, Mapping[str, DataSetScore]], step: int) -> list[CardResult]:
    """Returns the newest of a run's results that were measured at a step or before."""
    steps = [one for one in results if one <= step]
    if not steps:
        return []
    newest = max(steps)
    return [one for name, score in results[newest].items() for one in _of(name, summary(score), newest)]


def written_results(folder: Path, step: int) -> list[CardResult]:
    """
    Returns the newest results in a folder of evaluations that were measured at a step or before.

    Args:
        folder (`Path`):
            With a folder `step-<n>` for each evaluation.
        step (`int`):
            The step.
    """
    for number, path in sorted(_numbered(folder), reverse=True):
        if number > step:
            continue
        try:
            content = read_results(path)
            if content is None or not content["complete"]:
                continue
            found = content["data_sets"].items()
            # A data set without a name is a file of this name
            named = {"" if len(found) == 1 and name == "questions" else name: values for name, values in found}
            return [one for name, values in named.items() for one in _of(name, values, number)]
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # an older one may be whole
    return []


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    found = [(re.fullmatch(r"step-(\d+)", one.name), one) for one in (folder.iterdir() if folder.is_dir() else ())]
    return [(int(match[1]), path) for match, path in found if match]


def _of(name: str, values: Mapping[str, Any], step: int) -> list[CardResult]:
    return [
        CardResult(
            data_set=name,
            metric=metric,
            value=float(one["value"]),
            step=step,
            interval=None if one["interval"] is None else (float(one["interval"][0]), float(one["interval"][1])),
            is_score=SCORES.fullmatch(metric) is not None,
        )
        for metric, one in values["metrics"].items()
    ]
