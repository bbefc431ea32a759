"""
The rules that belong to libraries. Only workers import this file.

Each rule takes the end of a completion, the solution, and the data set's entry if it needs one.
"""

import functools
import json
import logging
import math
import sys
from collections.abc import Callable
from typing import Any

from .guard import read_without_eval
from .last_number import only_number
from .verdicts import NO_ANSWER, UNREADABLE_SOLUTION, Verdict


# What tells mathematics from the text around it
DELIMITERS = ("$", "\\boxed", "\\(", "\\[")

Rule = Callable[[str, str, Any], Verdict]


def load(name: str) -> Rule:
    """Imports the library of a rule, and returns the rule."""
    return {"math_verify": _math_verify, "reasoning_gym": _reasoning_gym}[name]()


def _math_verify() -> Rule:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # Says at every answer that its own time limits are off: they work in the main thread alone, and ours everywhere
    for module in ("parser", "grader", "utils"):
        logging.getLogger(f"math_verify.{module}").setLevel(logging.CRITICAL)
    # As in TRL's `accuracy_reward`: a box first, and no formula that the text does not announce. Beyond it, \frac12
    # and \sqrt2 are read, which are right in LaTeX
    extraction = [
        LatexExtractionConfig(
            normalization_config=NormalizationConfig(units=True, malformed_operators=True),
            boxed_match_priority=0,
            try_extract_without_anchor=False,
        )
    ]

    @functools.lru_cache(maxsize=512)
    def parsed_solution(solution: str) -> Any:
        # Left to itself, the library reads the first number of a bare formula: 11 of 11\sqrt{2}
        if not any(sign in solution for sign in DELIMITERS):
            boxed = f"\\boxed{{{only_number(solution) or solution}}}"
            if parsed := parse(boxed, extraction, parsing_timeout=0):
                return parsed
        return parse(solution, parsing_timeout=0)

    def judge(text: str, solution: str, entry: Any) -> Verdict:
        gold = parsed_solution(solution)
        if not gold:
            return UNREADABLE_SOLUTION
        answer = parse(text, extraction, extraction_mode="first_match", parsing_timeout=0)
        if not answer:
            return NO_ANSWER
        right = verify(gold, answer, timeout_seconds=0)
        # All right answers are one, however they are written: else they would split the majority's vote
        return Verdict(_one_form(gold if right else answer), float(right))

    return judge


def _one_form(parsed: Any) -> str:
    """Returns the text of what was parsed, of a number that of its value: 34.0000000000000 is 34."""
    text = str(parsed[0])
    return only_number(text) or text


# Their scorers call `eval` on the answer, to read a list
EVALUATING = [
    f"reasoning_gym.{module}"
    for module in (
        *("algorithmic.string_insertion", "algorithmic.spiral_matrix", "algorithmic.binary_matrix"),
        *("algorithmic.number_sorting", "games.n_queens"),
    )
]


# Compare tuples, which JSON turns into lists
WITH_TUPLES = ("arc_agi", "rearc")


def _as_made(value: Any) -> Any:
    """Gives nested lists back as tuples."""
    if isinstance(value, dict):
        return {key: _as_made(inner) for key, inner in value.items()}
    return tuple(_as_made(inner) for inner in value) if isinstance(value, list) else value


def _reasoning_gym() -> Rule:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    read_without_eval([module for module in EVALUATING if module in sys.modules])
    # Annotated there as taking nothing
    find: Any = reasoning_gym.get_score_answer_fn
    score_function = functools.lru_cache(maxsize=None)(find)

    def judge(text: str, solution: str, entry: Any) -> Verdict:
        entry = json.loads(entry)
        task = entry["metadata"]["source_dataset"]
        if task not in DATASETS:
            return UNREADABLE_SOLUTION
        _, opening, answer = text.rpartition("<answer>")
        answer, closing, _ = answer.partition("</answer>")
        if not (opening and closing):
            return NO_ANSWER
        answer = answer.strip()
        score = float(score_function(task)(answer, _as_made(entry) if task in WITH_TUPLES else entry))
        return Verdict(answer, min(max(score, 0.0), 1.0)) if math.isfinite(score) else NO_ANSWER

    return judge
