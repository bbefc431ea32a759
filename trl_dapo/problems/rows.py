"""
Rows of a data set, turned into prompts with solutions.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, IterableDataset

from ..host.messages import flaw_of_text
from .answers import MISSING, answer_text, column_of, listed_columns, look_up
from .files import ProblemError
from .prompts import PromptStyle, styled, user_text


Rows = Dataset | IterableDataset

PROMPT, SOLUTION, QUESTION_ID, ENTRY = "prompt", "solution", "question_id", "entry"
# Looked for where no column is named
PROMPT_COLUMNS = (PROMPT, "question", "problem", "Question", "Problem")
ANSWER_COLUMNS = (SOLUTION, "answer", "ground_truth", "reward_model.ground_truth", "Answer")


@dataclass(frozen=True)
class Shape:
    """
    Makes a problem of a row; a function for `map`, with indices.

    Args:
        split (`str`):
            What messages call the split.
        prompt (`str`):
            Column of the question, by its dotted name.
        answer (`str`, *optional*):
            Column of the answer, by its dotted name; `None` leaves `solution` alone.
        style ([`PromptStyle`]):
            How a question becomes a prompt.
        conversational (`bool`, *optional*, defaults to `True`):
            Whether text becomes a message.
        may_be_empty (`bool`, *optional*, defaults to `False`):
            Whether an answer may be empty text, since something else tells what is right.
        id (`str`, *optional*):
            Column that tells the questions apart. Else a hash of the question does.
        with_id (`bool`, *optional*, defaults to `False`):
            Whether to write `question_id`.
    """

    split: str
    prompt: str
    answer: str | None
    style: PromptStyle = field(default_factory=PromptStyle)
    conversational: bool = True
    may_be_empty: bool = False
    id: str | None = None
    with_id: bool = False

    def __call__(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        """Returns the columns of the problem; raises [`ProblemError`] for a row that has no question or answer."""
        question = look_up(row, self.prompt)
        if question is MISSING:
            raise self._refused(row, index, self.prompt, "is not there", "prompt_column")
        if flaw := flaw_of_text(self.prompt, question):
            raise ProblemError(f"Row {index} of the {self.split} split: {flaw}")
        if not user_text(question).strip():
            raise self._refused(row, index, self.prompt, "is empty", "prompt_column")
        made = {PROMPT: styled(question, self.style, self.conversational)}
        if self.answer is not None:
            made[SOLUTION] = self._solution(row, index, self.answer)
        if self.with_id:
            made[QUESTION_ID] = self._id(row, question)
        return made

    def _solution(self, row: Mapping[str, Any], index: int, name: str) -> str:
        value = look_up(row, name)
        if self.may_be_empty and value == "":
            return ""
        try:
            return answer_text(value)
        except ValueError as error:
            raise self._refused(row, index, name, str(error), "answer_column") from error

    def _id(self, row: Mapping[str, Any], question: Any) -> str:
        value = MISSING if self.id is None else look_up(row, self.id)
        if value is not MISSING and value is not None and str(value):
            return str(value)
        text = question if isinstance(question, str) else json.dumps(question, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _refused(self, row: Mapping[str, Any], index: int, column: str, flaw: str, option: str) -> ProblemError:
        return ProblemError(
            f"{option}={column}: in row {index} of the {self.split} split it {flaw}. The columns are "
            f"{listed_columns(row)}. Name another, or correct the row."
        )


def columns_of(rows: Rows) -> list[str]:
    """Returns the names of the columns, of a stream's first row if the stream has none."""
    return list(rows.column_names or next(iter(rows), {}))


def first_row(rows: Rows) -> Mapping[str, Any]:
    """Returns the first row, or an empty one."""
    return next(iter(rows), {})


def prompt_column(rows: Rows, asked: str | None) -> str:
    """
    Returns the column of the questions: the one that is asked for, else `prompt`, else the only one with such a name.

    Raises:
        [`ProblemError`]: If it is not there, or cannot be told.
    """
    return _column(rows, "prompt_column", asked, PROMPT_COLUMNS, first_wins=True)


def answer_column(rows: Rows, asked: str | None) -> str:
    """
    Returns the column of the answers: the one that is asked for, else the only one with such a name.

    Raises:
        [`ProblemError`]: If it is not there, or cannot be told: `solution` beside `answer` is often worked out.
    """
    return _column(rows, "answer_column", asked, ANSWER_COLUMNS, first_wins=False)


def answer_or_entry(rows: Rows, asked: str | None) -> str | None:
    """Returns what [`answer_column`] does; `None` where rows have an `entry` instead, which tells what is right."""
    by_entry = asked is None and ENTRY in columns_of(rows)
    if by_entry and all(look_up(first_row(rows), name) is MISSING for name in ANSWER_COLUMNS):
        return None
    return answer_column(rows, asked)


def with_solutions(rows: Rows, shape: Shape) -> Rows:
    """Returns rows of which each has a solution: "" where the shape has no column of answers."""
    return rows if shape.answer is not None else rows.map(_without_answer)


def _without_answer(row: Mapping[str, Any]) -> dict[str, str]:
    return {SOLUTION: ""}


def numbered_apart(ids: Sequence[str]) -> list[str]:
    """Returns ids of which the second and later ones of the same kind carry their number: `a`, `b`, `a#2`."""
    seen: Counter[str] = Counter()
    apart = []
    for one in ids:
        seen[one] += 1
        apart.append(one if seen[one] == 1 else f"{one}#{seen[one]}")
    return apart


def _column(rows: Rows, option: str, asked: str | None, known: Sequence[str], first_wins: bool) -> str:
    columns, row = columns_of(rows), first_row(rows)
    if asked is not None:
        if column_of(columns, asked) is None:
            raise ProblemError(
                f"{option}={asked}: there is no such column. The columns are {listed_columns(row)}; a dot leads to "
                "what is inside one."
            )
        return asked
    found = [name for name in known if look_up(row, name) is not MISSING]
    if len(found) == 1 or (found and first_wins and found[0] == known[0]):
        return found[0]
    if not found:
        raise ProblemError(
            f"{option} is missing: no column is called {', '.join(known)}. The columns are {listed_columns(row)}; "
            "name the one."
        )
    raise ProblemError(f"{option} is missing: there are {' and '.join(found)}. Name the one that is meant.")
