"""
The answer of a row: found by a dotted name, and turned into text. Pure functions on plain Python values.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Any


MISSING = object()
BEHIND = "####"  # in GSM8K, between the worked solution and the answer
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_SHOWN = 20  # names of columns in a message


def look_up(row: Any, name: str) -> Any:
    """
    Returns what a dotted name leads to, or `MISSING`.

    A column that is itself called so comes first. A part leads into a mapping, into the JSON text of one, or, as a
    number, into a list: `reward_model.ground_truth`, `answers.0`.
    """
    if isinstance(row, str):
        row = _parsed(row)
    if isinstance(row, (list, tuple)):
        row = {str(place): value for place, value in enumerate(row)}
    if not isinstance(row, Mapping):
        return MISSING
    if name in row:
        return row[name]
    for head, rest in _cuts(name):
        if head in row and (found := look_up(row[head], rest)) is not MISSING:
            return found
    return MISSING


def column_of(columns: list[str], name: str) -> str | None:
    """Returns the column that a dotted name begins with, or `None` if there is none."""
    return next((head for head in [name, *(head for head, _ in _cuts(name))] if head in columns), None)


def answer_text(value: Any) -> str:
    """
    Returns an answer as text: 45 and 45.0 are "45", and of a solution as in GSM8K the number behind `####`.

    Raises:
        `ValueError`: For what is no answer; the message stands behind the name of the column.
    """
    if value is MISSING:
        raise ValueError("is not there")
    if value is None:
        raise ValueError("is null")
    if isinstance(value, str) and not isinstance(value := _mapping(value), Mapping):
        return _of_text(value)
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, (Integral, Real, Decimal)):
        return _of_number(value)
    if isinstance(value, Mapping):
        raise ValueError(f"is a mapping of {_listed(list(map(str, value)))}; name one of these behind a dot")
    if isinstance(value, (list, tuple)):
        raise ValueError(f"is a list of {len(value)} entries; a dot and a number name one of them")
    raise ValueError(f"is a {type(value).__name__}, and must be text or a number")


def leaves(row: Mapping[str, Any]) -> list[str]:
    """Returns the names of the columns, those of mappings with the names inside them, dotted."""
    found: list[str] = []
    for name, value in row.items():
        inside = _parsed(value) if isinstance(value, str) else value
        found += [f"{name}.{leaf}" for leaf in leaves(inside)] if isinstance(inside, Mapping) and inside else [name]
    return found


def listed_columns(row: Mapping[str, Any]) -> str:
    """Returns the names of a row's columns, dotted, for a message."""
    return _listed(leaves(row)) or "none"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _of_text(text: str) -> str:
    if BEHIND in text:
        # Only GSM8K writes thousands with a comma for certain: elsewhere "1,234" may be two numbers
        text = _THOUSANDS.sub("", text.rpartition(BEHIND)[2])
    text = text.strip()
    if not text:
        raise ValueError("is empty")
    if text.lower() == "nan":
        raise ValueError("is NaN")
    return text


def _of_number(value: Any) -> str:
    if not isinstance(value, Integral) and not math.isfinite(value):
        raise ValueError(f"is {value}")
    if isinstance(value, Integral) or value == int(value):
        return str(int(value))
    return str(value)


def _cuts(name: str) -> Iterator[tuple[str, str]]:
    """Yields each way to cut a dotted name in two, shortest head first."""
    for place, character in enumerate(name):
        if character == ".":
            yield name[:place], name[place + 1 :]


def _mapping(text: str) -> Any:
    """Returns the mapping that a text holds as JSON, or the text: "[1, 2]" is an answer."""
    parsed = _parsed(text) if text.lstrip().startswith("{") else text
    return parsed if isinstance(parsed, Mapping) else text


def _parsed(text: str) -> Any:
    """Returns the mapping or the list that a text holds as JSON, or the text."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
