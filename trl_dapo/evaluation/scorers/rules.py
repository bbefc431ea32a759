"""
Where each rule is judged: in this process, or in a worker that a time limit can end.

A rule runs in this process if its time is bounded by the characters that it reads. The others belong to libraries that
promise no such bound.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from . import boxes, last_number, letters, minerva, whole_text
from .scorer import Scorer
from .verdicts import Verdict
from .workers import judge_in_workers


def judge_here(
    rule: Callable[[str, str], Verdict],
    scorer: Scorer,
    texts: list[str],
    solutions: list[str],
    columns: dict[str, Any],
) -> list[Verdict]:
    """Returns the verdicts of a rule of this package."""
    return [rule(text, solution) for text, solution in zip(texts, solutions, strict=True)]


JUDGES: dict[str, Callable[[Scorer, list[str], list[str], dict[str, Any]], list[Verdict]]] = {
    "dapo_math": partial(judge_here, minerva.judge),
    "boxed": partial(judge_here, boxes.judge),
    "exact": partial(judge_here, whole_text.judge),
    "number": partial(judge_here, last_number.judge),
    "multiple_choice": partial(judge_here, letters.judge),
    "math_verify": judge_in_workers,
    "reasoning_gym": judge_in_workers,
}
