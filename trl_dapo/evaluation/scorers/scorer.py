"""
The scorer: one rule as a reward function for TRL and as a judge in evaluations.

It reads texts, asks its rule for a verdict on each, and turns verdicts into rewards. It knows no rule itself.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .texts import completion_text, entry_texts, shown, solution_text
from .verdicts import ANSWER_CHARACTERS, Judgement, Verdict


logger = logging.getLogger(__name__)

# What TRL passes beside the data set's columns
OF_THE_TRAINER = ("prompts", "completion_ids", "environments")

RIGHT = 0.999  # scores of reasoning-gym are sums of floats


@dataclass(frozen=True)
class Scorer:
    """
    Says whether the answers of completions are right. Called, it is a reward function of TRL.

    Args:
        name (`str`):
            Name of the rule, and of the reward function.
        judge_texts (`Callable`):
            Called with the scorer, the completions' texts, the solutions' texts and the other columns; returns one
            [`Verdict`] per completion.
        reward_range (`tuple[float, float]`):
            Rewards of a wrong and of a right answer.
        answer_format (`str`):
            Instruction with which a prompt asks for an answer that this scorer finds.
        unparseable_reward (`float`, *optional*):
            Reward where no answer is found, and where the time limit stops the rule. `None`: the function does not
            apply to such a completion.
        time_limit (`float`):
            Most seconds for one answer.
        workers (`int`, *optional*):
            Worker processes of a rule that needs them. `None`: by the number of cores.
        columns (`tuple[str, ...]`):
            Columns of the data set that are needed.
    """

    name: str
    judge_texts: "Callable[[Scorer, list[str], list[str], dict[str, Any]], list[Verdict]]"
    reward_range: tuple[float, float]
    answer_format: str
    unparseable_reward: float | None
    time_limit: float
    workers: int | None = None
    columns: tuple[str, ...] = ("solution",)

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(
        self,
        completions: list[Any],
        solution: list[Any] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """
        Returns the rewards, and logs the shares of unparseable and of timed-out answers.

        Args:
            completions (`list`):
                Texts, or lists of messages whose last one has the answer.
            solution (`list`):
                Right answers, one text per completion.
            log_metric (`Callable`, *optional*):
                TRL's function for metrics.
            log_extra (`Callable`, *optional*):
                TRL's function for columns of the table of completions.
            columns:
                The other columns that TRL passes.

        Raises:
            `ValueError`: If there is no column `solution`, or a solution is no text.
        """
        if solution is None:
            if "solution" in self.columns:
                raise ValueError(self._missing("solution", columns))
            solution = [None] * len(completions)
        judgements = self.judge(completions, solution, **columns)
        if log_metric is not None:
            for name, value in shares(judgements).items():
                log_metric(f"{self.name}/{name}", value)
        if log_extra is not None:
            log_extra(f"{self.name}/answer", [judgement.answer or "" for judgement in judgements])
        return [judgement.reward for judgement in judgements]

    def judge(self, completions: list[Any], solutions: list[Any], **columns: Any) -> list[Judgement]:
        """
        Returns what the scorer says of each completion.

        Args:
            completions (`list`):
                Texts, or lists of messages whose last one has the answer.
            solutions (`list`):
                Right answers, one text per completion.
            columns:
                Other columns of the data set, one entry per completion.

        Raises:
            `ValueError`: If a solution is no text, or a column is missing or has another length.
        """
        for name in self.columns:
            self._check_column(name, {"solution": solutions, **columns}, len(completions))
        texts = [completion_text(completion, row) for row, completion in enumerate(completions)]
        answers = [self._solution(solution, row) for row, solution in enumerate(solutions)]
        verdicts = self.judge_texts(self, texts, answers, columns)
        self._tell_unreadable(verdicts, columns["entry"] if "entry" in self.columns else solutions)
        return [self._judgement(verdict) for verdict in verdicts]

    def check_rows(self, rows: list[dict[str, Any]]) -> None:
        """
        Raises for rows of a data set that could not be judged, whatever the completion.

        Args:
            rows (`list[dict[str, Any]]`):
                Rows with the columns that the scorer reads.

        Raises:
            `ValueError`: If a solution is no text, or an entry none of reasoning-gym's.
        """
        for number, row in enumerate(rows):
            self._solution(row.get("solution"), number)
        if "entry" in self.columns:
            entry_texts([row.get("entry") for row in rows])

    def _check_column(self, name: str, columns: dict[str, Any], size: int) -> None:
        column = columns.get(name)
        if column is None:
            raise ValueError(self._missing(name, columns))
        if isinstance(column, str) or len(column) != size:
            given = "is one text" if isinstance(column, str) else f"has {len(column)} rows"
            raise ValueError(
                f"{self.name}: the column {name!r} {given} for {size} completions. Give one row for each."
            )

    def _solution(self, solution: Any, row: int) -> str:
        # A rule that reads an entry finds all that it needs there: some tasks have many right answers and name none
        return solution_text(solution, row) if "solution" in self.columns else ""

    def _judgement(self, verdict: Verdict) -> Judgement:
        if not verdict.readable_solution:
            return Judgement("unparseable", None, None, readable_solution=False)
        if verdict.score is None:
            return Judgement("unparseable", self.unparseable_reward, None, timed_out=verdict.timed_out)
        lowest, highest = self.reward_range
        outcome = "right" if verdict.score >= RIGHT else "wrong"
        return Judgement(outcome, lowest + (highest - lowest) * verdict.score, _storable(verdict.answer))

    def _tell_unreadable(self, verdicts: list[Verdict], solutions: list[Any]) -> None:
        for verdict, solution in zip(verdicts, solutions, strict=True):
            if not verdict.readable_solution:
                _tell_unreadable(self.name, self.columns[0], shown(solution))

    def _missing(self, column: str, columns: dict[str, Any]) -> str:
        there = [name for name, value in columns.items() if isinstance(value, list) and name not in OF_THE_TRAINER]
        return (
            f"{self.name}: the data set has no column {column!r}; its columns are {', '.join(there) or 'none'}. "
            f"Rename the one that is meant to {column!r}."
        )


@functools.lru_cache(maxsize=256)
def _tell_unreadable(name: str, column: str, solution: str) -> None:
    """Says it once: a data set passes by many times."""
    logger.warning(
        "%s cannot read the %s %s: its completions get no reward. Correct the data set, or choose another scorer.",
        *(name, column, solution),
    )


def shares(judgements: list[Judgement]) -> dict[str, float]:
    """Returns the shares of answers that are unparseable, that timed out, and whose solution cannot be read."""
    size = max(len(judgements), 1)
    timed_out = sum(judgement.timed_out for judgement in judgements)
    unreadable = sum(not judgement.readable_solution for judgement in judgements)
    unparseable = sum(judgement.outcome == "unparseable" for judgement in judgements) - timed_out - unreadable
    return {
        "unparseable": unparseable / size,
        "timed_out": timed_out / size,
        "unreadable_solution": unreadable / size,
    }


def _storable(answer: str | None) -> str | None:
    """The answer as a table or a file can hold it: short, and without halves of characters."""
    if answer is None:
        return None
    return answer[:ANSWER_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
