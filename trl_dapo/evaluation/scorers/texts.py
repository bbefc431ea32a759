"""
What a scorer reads: the text of a completion and the text of a solution.

Completions are untrusted and of any length: only their end is read, so that every rule takes bounded time. Solutions
come from the data set: what is no single text is refused with the row, never guessed.
"""

import json
import math
import numbers
from collections.abc import Mapping
from decimal import Decimal
from typing import Any


# The answer stands at the end. Rules that take more than one pass would be slow on 10 MB of braces
READ_CHARACTERS = 10_000
# Longer than any answer that a data set of problems has
SOLUTION_CHARACTERS = 10_000
SHOWN_CHARACTERS = 80


def completion_text(completion: Any, row: int) -> str:
    """
    Returns the text of a completion: a string, or the content of the last message of a conversational one.

    Raises:
        `ValueError`: If it is neither. A message without content, as in a call of a tool, is an empty text.
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, list | tuple) and all(isinstance(message, Mapping) for message in completion):
        return _content(completion[-1].get("content"), row) if completion else ""
    raise ValueError(
        f"completions: row {row} is {shown(completion)} of type {type(completion).__name__}. Give a text or a list of "
        "messages."
    )


def _content(content: Any, row: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        # Parts, as of models that take images: those without a text have no answer in them
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    raise ValueError(
        f"completions: the content of row {row} is {shown(content)} of type {type(content).__name__}. Give a text."
    )


def end_of(text: str) -> str:
    """Returns the last `READ_CHARACTERS` characters."""
    return text[-READ_CHARACTERS:]


def solution_text(solution: Any, row: int) -> str:
    """
    Returns a solution as text.

    Numbers are accepted, because files of numbers are read as such. A whole float becomes the text of an integer: one
    empty cell turns a column of integers into floats, and "34.0" would be another answer than "34".

    Raises:
        `ValueError`: In one line with the row and the fix, for a list, an empty text, `None` and anything else.
    """
    if isinstance(solution, str):
        text = solution
    elif isinstance(solution, bool) or not isinstance(solution, numbers.Real | Decimal | None):
        raise ValueError(_refusal(solution, row))
    else:
        text = _number_text(solution)
    if not text.strip():
        raise ValueError(
            f"solution: row {row} is {shown(solution)}, no answer. Leave such rows out of the data set, or name the "
            "column that has the answers."
        )
    if len(text) > SOLUTION_CHARACTERS:
        raise ValueError(
            f"solution: row {row} has {len(text)} characters, and at most {SOLUTION_CHARACTERS} are an answer. Name "
            "the column that has the final answer alone."
        )
    return text


def _number_text(number: Any) -> str:
    if number is None or not math.isfinite(number):
        return ""
    return str(int(number)) if abs(number) < 1e15 and number == int(number) else str(number)


def _refusal(solution: Any, row: int) -> str:
    fix = "Give one text, such as '34' or 'True'."
    if isinstance(solution, list | tuple):
        fix = "Choose one of them as a text, for instance dataset.map(lambda row: {'solution': row['solution'][0]})."
    elif isinstance(solution, Mapping):
        fix = "Name the nested column with the answer, such as reward_model.ground_truth."
    return f"solution: row {row} is {shown(solution)} of type {type(solution).__name__}, and no text. {fix}"


def shown(value: Any) -> str:
    """Returns a value for an error: escaped, in one line, shortened."""
    text = repr(value[: SHOWN_CHARACTERS + 1] if isinstance(value, str | list | tuple) else value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def entry_texts(entries: list[Any]) -> list[str]:
    """
    Returns entries of reasoning-gym as JSON.

    Raises:
        `ValueError`: For an entry that is no JSON object which names its task.
    """
    return [_entry_text(entry, row) for row, entry in enumerate(entries)]


def _entry_text(entry: Any, row: int) -> str:
    try:
        read = json.loads(entry) if isinstance(entry, str) else entry
        task = read["metadata"]["source_dataset"]
        text = entry if isinstance(entry, str) else json.dumps(entry)
    except (ValueError, TypeError, KeyError):
        task = text = None
    if not isinstance(text, str) or not isinstance(task, str):
        raise ValueError(
            f"entry: row {row} is {shown(entry)}, and not the JSON text of an entry of reasoning-gym, which names its "
            "task in metadata.source_dataset. Make it with json.dumps(dataset[i])."
        )
    return text
