"""
Where each rule is judged: in this process, or in a worker that a time limit can end.

A rule runs in this process if its time is bounded by the characters that it reads. The others belong to libraries that
promise no such bound.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import boxes, last_number, letters, minerva, whole_text
from .scorer import Scorer
from .verdicts import Verdict
from .workers import judge_in_workers


@dataclass(frozen=True)
class Here:
    """A rule of this package: called on one answer after the other, in this process."""

    rule: Callable[[str, str], Verdict]

    def __call__(
        self, scorer: Scorer, texts: list[str], solutions: list[str], columns: dict[str, Any]
    ) -> list[Verdict]:
        return [self.rule(text, solution) for text, solution in zip(texts, solutions, strict=True)]


JUDGES: dict[str, Callable[[Scorer, list[str], list[str], dict[str, Any]], list[Verdict]]] = {
    "dapo_math": Here(minerva.judge),
    "math_verify": judge_in_workers,
    "boxed": Here(boxes.judge),
    "exact": Here(whole_text.judge),
    "number": Here(last_number.judge),
    "multiple_choice": Here(letters.judge),
    "reasoning_gym": judge_in_workers,
}
