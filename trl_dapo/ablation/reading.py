"""
Checks `result.json`, from whoever wrote it.

In here: a file in, checked JSON out. Not in here: the classes of `results.py`, which are made from it. A file is right
as a whole or takes no part: each value is checked, and the message names the field, the value and the rule. Fields
that the schema does not know are passed over.
"""

import json
import math
import reprlib
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar


# A run of ten thousand logs with thirty metrics has 15 MB
LARGEST = 64 * 2**20

Value = TypeVar("Value")


class NoResult(ValueError):
    """A file is no result, and the message says why, in one line."""


def checked(path: Path, kind: str, schema: int) -> dict[str, Any]:
    """
    Returns the fields of a result: all that the schema has, with defaults for what is left out, and no others.

    Raises:
        [`NoResult`]: If the file holds none.
    """
    content = _parsed(_read(path), kind, schema)
    try:
        return _run(content)
    except RecursionError:
        raise NoResult("it is nested too deeply") from None


# ---------------------------------------------------------------------------------------------------------- the file


def _read(path: Path) -> str:
    try:
        status = path.stat()
        # A pipe would keep the reader waiting
        if not stat.S_ISREG(status.st_mode):
            raise NoResult("it is no regular file")
        if status.st_size > LARGEST:
            raise NoResult(f"it has {status.st_size:,} bytes, more than the {LARGEST:,} that are read")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise NoResult("it is no UTF-8 text") from None
    except OSError as error:
        raise NoResult(f"it cannot be read: {error.strerror or error}") from None


def _parsed(text: str, kind: str, schema: int) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        what = "it is cut short" if cut else "it is no JSON"
        raise NoResult(f"{what}: {error.msg} in line {error.lineno}") from None
    except RecursionError:
        raise NoResult("it is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise NoResult(f"it cannot be read: {str(error).splitlines()[0][:100]}") from None
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise NoResult(f"it is of another program: `kind` is not {kind!r}")
    if type(content.get("schema")) is not int or content["schema"] != schema:
        raise NoResult(f"`schema` is {_shown(content.get('schema'))}; this version reads schema {schema}")
    return content


# ------------------------------------------------------------------------------------------------------------ values


def _run(content: dict[str, Any]) -> dict[str, Any]:
    row = _object(content, "row")
    return {
        "row": {
            "key": _name(row, "row.key"),
            "name": _name(row, "row.name"),
            "changes": _plain(_object(row, "row.changes", {}), "row.changes"),
            "position": _count(row, "row.position", 0),
        },
        "seed": _count(content, "seed"),
        "ends": _filled({name: _end(end, f"ends.{name}") for name, end in _object(content, "ends").items()}, "ends"),
        "curve": _points(content, "curve"),
        "held_out": _points(content, "held_out"),
        "manipulation": _numbers(_object(content, "manipulation", {}), "manipulation"),
        "completions": _each(content, "completions", _completion, []),
        "regime": _text_or_none(content, "regime"),
        "start": _text_or_none(content, "start"),
        **{name: _plain(_object(content, name, {}), name) for name in ("config", "checkpoint", "environment")},
    }


def _end(end: Any, path: str) -> dict[str, Any]:
    data_sets = {
        name: _data_set(one, f"{path}.data_sets.{name}") for name, one in _object(end, f"{path}.data_sets").items()
    }
    return {
        "budget": _number(end, f"{path}.budget"),
        "steps": _count(end, f"{path}.steps"),
        "completions": _count(end, f"{path}.completions"),
        "seconds": _number(end, f"{path}.seconds"),
        "data_sets": _filled(data_sets, f"{path}.data_sets"),
    }


def _data_set(data: Any, path: str) -> dict[str, Any]:
    questions = _each(data, f"{path}.questions", _question)
    if not questions:
        raise NoResult(f"`{_path(path)}.questions` is empty")
    ids = set()
    for one in questions:
        if one["id"] in ids:
            raise NoResult(f"`{_path(path)}.questions` has the id {_shown(one['id'])} twice")
        ids.add(one["id"])
    truncated = _optional(data, f"{path}.truncated")
    if truncated is not None and truncated > 1:
        raise NoResult(f"`{_path(path)}.truncated` is {truncated}; it is a share, at most 1")
    return {
        "scorer": _text(data, f"{path}.scorer"),
        "questions": questions,
        "truncated": truncated,
        "mean_length": _optional(data, f"{path}.mean_length"),
    }


def _question(question: Any, path: str) -> dict[str, Any]:
    samples, right = _count(question, f"{path}.samples"), _count(question, f"{path}.right")
    if samples < 1:
        raise NoResult(f"`{_path(path)}.samples` is {samples}; it is at least 1")
    if right > samples:
        raise NoResult(f"`{_path(path)}.right` is {right}, more than its {samples} samples")
    return {"id": _name(question, f"{path}.id"), "samples": samples, "right": right}


def _completion(one: Any, path: str) -> dict[str, Any]:
    right = _field(one, f"{path}.right")
    if not isinstance(right, bool):
        raise NoResult(f"`{_path(path)}.right` is {_shown(right)}, neither true nor false")
    return {"prompt": _text(one, f"{path}.prompt"), "completion": _text(one, f"{path}.completion"), "right": right}


def _points(content: dict[str, Any], name: str) -> list[dict[str, float]]:
    return _each(content, name, _numbers, [])


def _numbers(values: Any, path: str) -> dict[str, float]:
    if not isinstance(values, dict):
        raise NoResult(f"`{_path(path)}` is {_shown(values)}, no object")
    for name, value in values.items():
        # `type` and not `isinstance`: faster where there are a million, and true is no number
        if type(value) not in (int, float) or not _is_finite(value):
            raise NoResult(f"`{_path(path)}.{_path(name)}` is {_shown(value)}, no finite number")
    return values


# ------------------------------------------------------------------------------------------------------------ fields

_MISSING: Any = object()


def _field(parent: Any, path: str, default: Any = _MISSING) -> Any:
    """The value of the last part of a path in the object that the other parts lead to."""
    above, _, name = path.rpartition(".")
    if not isinstance(parent, dict):
        raise NoResult(f"`{_path(above)}` is {_shown(parent)}, no object")
    value = parent.get(name, default)
    if value is _MISSING:
        raise NoResult(f"`{_path(path)}` is missing")
    return default if value is None and default is not _MISSING else value


def _object(parent: Any, path: str, default: Any = _MISSING) -> dict[str, Any]:
    value = _field(parent, path, default)
    if not isinstance(value, dict):
        raise NoResult(f"`{_path(path)}` is {_shown(value)}, no object")
    return value


def _each(parent: Any, path: str, one: Callable[[Any, str], Value], default: Any = _MISSING) -> list[Value]:
    values = _field(parent, path, default)
    if not isinstance(values, list):
        raise NoResult(f"`{_path(path)}` is {_shown(values)}, no list")
    return [one(value, f"{path}[{number}]") for number, value in enumerate(values)]


def _name(parent: Any, path: str) -> str:
    value = _field(parent, path)
    if not isinstance(value, str) or not value:
        raise NoResult(f"`{_path(path)}` is {_shown(value)}, no name")
    return value


def _text(parent: Any, path: str) -> str:
    value = _field(parent, path)
    if not isinstance(value, str):
        raise NoResult(f"`{_path(path)}` is {_shown(value)}, no text")
    return value


def _text_or_none(parent: Any, path: str) -> str | None:
    return None if _field(parent, path, None) is None else _text(parent, path)


def _number(parent: Any, path: str) -> float:
    value = _field(parent, path)
    if type(value) not in (int, float) or not _is_finite(value):
        raise NoResult(f"`{_path(path)}` is {_shown(value)}, no finite number")
    if value < 0:
        raise NoResult(f"`{_path(path)}` is {value}; it is at least 0")
    return float(value)


def _optional(parent: Any, path: str) -> float | None:
    return None if _field(parent, path, None) is None else _number(parent, path)


def _count(parent: Any, path: str, default: Any = _MISSING) -> int:
    value = _field(parent, path, default)
    if type(value) is not int:
        raise NoResult(f"`{_path(path)}` is {_shown(value)}, no whole number")
    if value < 0:
        raise NoResult(f"`{_path(path)}` is {value}; it is at least 0")
    return value


def _plain(value: Any, path: str) -> Any:
    """The value, which may be anything that JSON can say: so no NaN."""
    if isinstance(value, dict):
        return {name: _plain(one, f"{path}.{name}") for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one, f"{path}[{number}]") for number, one in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise NoResult(f"`{_path(path)}` is {value}, no finite number")
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _filled(found: dict[str, Value], path: str) -> dict[str, Value]:
    if not found:
        raise NoResult(f"`{_path(path)}` is empty")
    return found


def _path(path: str) -> str:
    path = path if path.isprintable() else ascii(path)[1:-1]
    return path if len(path) <= 120 else f"{path[:117]}..."


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**30 else "a number of more than 30 digits"
    shown = reprlib.repr(value)
    return shown if shown.isprintable() else ascii(value)[:40]
