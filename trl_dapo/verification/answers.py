"""
What each reward function gives for the right answer and for a wrong one, in every format.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..arena import arena_accuracy, parse_prompt
from .answer_formats import Written, another_answer, asked_formats, final_answer, written
from .reward_calls import RewardCrash, is_model, rewards_of
from .setup import Setup, prompt_text, spread


# Columns that hold an answer, the first that a dataset has
ANSWER_COLUMNS = ("solution", "answer", "ground_truth", "final_answer", "target", "label")
ROWS_ASKED = 4
# Of a longer one, what its final answer is cannot be told
LONGEST_ANSWER = 200

# Names for the arguments that every reward function is given
ALWAYS_GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")


@dataclass(frozen=True)
class Asked:
    """A row of the dataset, and its answer written in every format."""

    row: dict[str, Any]
    texts: list[Written]


@dataclass(frozen=True)
class Scored:
    """
    What one reward function gave.

    Args:
        name (`str`):
            Its name.
        right, wrong (`Mapping[str, list[float | None]]`):
            Rewards by format, one per row.
        crash (`str`, *optional*):
            What it raised instead.
        is_verifier (`bool`, *optional*):
            Whether it says of itself that it reads answers: by an argument, or as one of this package's scorers.
        weight (`float`, *optional*, defaults to `1.0`):
            Its weight: with a negative one, what it gives most for earns least.
    """

    name: str
    right: Mapping[str, list[float | None]]
    wrong: Mapping[str, list[float | None]]
    crash: str | None = None
    is_verifier: bool = False
    weight: float = 1.0

    def takes(self, name: str) -> bool:
        """Returns whether the right answer, in that format, scores above a wrong one in every row."""
        return all(_above(right, wrong) for right, wrong in self._pairs(name))

    def turns(self, name: str) -> bool:
        """Returns whether a wrong answer, in that format, scores above the right one in every row."""
        return all(_above(wrong, right) for right, wrong in self._pairs(name))

    def _pairs(self, name: str) -> list[tuple[float | None, float | None]]:
        pairs = zip(self.right[name], self.wrong[name], strict=True)
        return [(right, wrong) if self.weight >= 0 else (wrong, right) for right, wrong in pairs]


def answer_column(setup: Setup) -> str | None:
    """Returns the column that holds the answers, or `None`."""
    first = setup.sample.rows[0] if setup.sample.rows else {}
    return next((name for name in ANSWER_COLUMNS if name in first), None)


def asked_rows(setup: Setup) -> list[Asked]:
    """Returns a few rows of which the answer is known, with the answer written in every format."""
    if arena_accuracy in setup.functions:
        return [_arena_row(row) for row in spread(setup.sample.rows, ROWS_ASKED)]
    column = answer_column(setup)
    if column is None:
        return []
    rows = [(row, text) for row in setup.sample.rows if (text := _answer(row[column])) is not None]
    chosen = spread(rows, ROWS_ASKED)
    answers = [text for _, text in rows[:64]]
    return [
        Asked(row, written(prompt_text(row.get("prompt")), text, another_answer(text, answers)))
        for row, text in chosen
    ]


def asked_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Returns the formats that the prompt of a row asks for."""
    return asked_formats(prompt_text(row.get("prompt")))


def score(function: Any, name: str, asked: list[Asked], column: str | None, tokenizer: Any) -> Scored:
    """Calls a reward function once, with every form of every row."""
    pairs = [(one.row, text) for one in asked for text in one.texts]
    reads = hasattr(function, "answer_format") or column in _arguments(function)
    try:
        rewards = rewards_of(function, [row for row, _ in pairs], [text.text for _, text in pairs], tokenizer)
    except RewardCrash as error:
        return Scored(name, {}, {}, crash=str(error), is_verifier=reads)
    right: dict[str, list[float | None]] = {}
    wrong: dict[str, list[float | None]] = {}
    for (_, text), reward in zip(pairs, rewards, strict=True):
        (right if text.is_right else wrong).setdefault(text.format, []).append(reward)
    # Not every row has every form: an answer that is no whole number has no decimals
    complete = {key: values for key, values in right.items() if len(values) == len(asked)}
    return Scored(name, complete, wrong, is_verifier=reads)


def scored_functions(setup: Setup, asked: list[Asked]) -> list[Scored]:
    """Returns the [`Scored`] of each reward function of the raw metric that is no model."""
    column = answer_column(setup)
    found = []
    for place, weight in zip(setup.metric_columns, setup.metric_weights, strict=True):
        function = setup.functions[place]
        if not is_model(function):
            scored = score(function, setup.names[place], asked, column, setup.tokenizer)
            found.append(replace(scored, weight=weight))
    return found


def scorer_for(asked: list[Asked], tokenizer: Any) -> str | None:
    """Returns the first scorer of this package that takes what the prompts ask for, or `None`."""
    from ..evaluation import scorers

    for name in getattr(scorers, "SCORERS", ()):
        if name != "reasoning_gym":
            rows = [Asked({**one.row, "solution": _first_answer(one)}, one.texts) for one in asked]
            found = score(scorers.get_scorer(name), name, rows, "solution", tokenizer)
            if found.crash is None and found.takes("asked"):
                return name
    return None


def required_columns(function: Any) -> list[str]:
    """Returns the columns that a reward function must have: a scorer's, or the arguments that only they can give."""
    if hasattr(function, "answer_format"):
        return list(getattr(function, "columns", ()))
    return [
        name
        for name, one in _arguments(function).items()
        if one.default is inspect.Parameter.empty and name not in ALWAYS_GIVEN
    ]


def _arguments(function: Any) -> dict[str, inspect.Parameter]:
    try:
        found = inspect.signature(function).parameters
    except (ValueError, TypeError):
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: one for name, one in found.items() if one.kind in kinds}


def _answer(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = final_answer(str(value))
    return text if 0 < len(text) <= LONGEST_ANSWER else None


def _first_answer(one: Asked) -> str:
    return next(text.text for text in one.texts if text.format == "plain" and text.is_right)


def _arena_row(row: dict[str, Any]) -> Asked:
    """The arena asks for `#` and a digit, which no prompt says and the warm start has learned."""
    answer = parse_prompt(row["prompt"]).answer
    wrong = str((int(answer) + 1) % 10)
    texts = written(row["prompt"], answer, wrong)
    asked = [Written("asked", f"#{answer}", True), Written("asked", f"#{wrong}", False)]
    return Asked(row, asked + [one for one in texts if one.format != "asked"])


def _above(first: float | None, second: float | None) -> bool:
    lowest = float("-inf")
    return (lowest if first is None else first) > (lowest if second is None else second)
