"""
Whether a value of a YAML file has the type of its field. Argparse checks words only, and TRL's parser nothing else.
"""

import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import UsageError


# A null here turns the filter off, as TRL's documentation says of 0
NULL_IS_OFF = frozenset({"top_k"})
# TRL's annotation has text alone; the scripts of TRL and of this package take true and false too
ALSO_BOOL = frozenset({"resume_from_checkpoint"})

NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text", list: "a list", dict: "a mapping"}


def check_values(values: Mapping[str, Any], kinds: Iterable[Any]) -> None:
    """
    Raises [`UsageError`], naming field, value and what it must be.

    Args:
        values (`Mapping[str, Any]`):
            Values of the file by name. Names that are no field are not looked at, and text passes: argparse reads it.
        kinds (`Iterable[type]`):
            Dataclasses of the fields.
    """
    for kind in kinds:
        hints = get_type_hints(kind)
        for own in fields(kind):
            if own.init and own.name in values and not isinstance(values[own.name], str):
                _check(own, hints[own.name], values[own.name])


def _check(own: Field, hint: Any, value: Any) -> None:
    if value is None and (own.default is None or own.name in NULL_IS_OFF):
        return
    if own.name in ALSO_BOOL and isinstance(value, bool):
        return
    entries = _entries(hint)
    if entries is not None and isinstance(value, list):
        for index, entry in enumerate(value):
            _check_entry(f"{own.name}[{index}]", entry, entries)
    elif not fits(value, hint):
        raise UsageError(_message(own.name, value, hint))


def _entries(hint: Any) -> Any:
    """Returns the dataclass of which a list has entries, or `None`."""
    (entry,) = get_args(hint) if get_origin(hint) is list else (None,)
    return entry if isinstance(entry, type) and is_dataclass(entry) else None


def _check_entry(name: str, entry: Any, kind: Any) -> None:
    if not isinstance(entry, dict):
        raise UsageError(f"{name}: {entry!r} in the config file is not a mapping of {_field_names(kind)}.")
    hints = get_type_hints(kind)
    for key, value in entry.items():
        if key not in hints:
            raise UsageError(f"{name}: {key!r} is not a field; the fields are {_field_names(kind)}.")
        if not fits(value, hints[key]):
            raise UsageError(_message(f"{name}.{key}", value, hints[key]))
    missing = [own.name for own in fields(kind) if own.default is MISSING and own.default_factory is MISSING]
    missing = [one for one in missing if one not in entry]
    if missing:
        raise UsageError(f"{name}: {missing[0]} is missing in {entry!r}.")


def fits(value: Any, hint: Any) -> bool:
    """Returns whether a value has a type. An integer is a number, true and false are neither; 0 and 1 are both."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(fits(one, arguments[0]) for one in value)
    if hint is dict or origin is dict:
        inner = arguments[1] if arguments else Any
        return isinstance(value, dict) and all(isinstance(key, str) and fits(value[key], inner) for key in value)
    if hint is Any:
        return True
    if hint is bool:
        return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return isinstance(value, str)
    return isinstance(hint, type) and isinstance(value, hint)


def _message(name: str, value: Any, hint: Any) -> str:
    kinds = [get_origin(one) or one for one in (get_args(hint) if get_origin(hint) not in (list, dict) else ())]
    wanted = [NAMES[one] for one in (kinds or [get_origin(hint) or hint]) if one in NAMES]
    text = f"{name}: {value!r} in the config file is not {' or '.join(wanted) or 'text'}."
    if isinstance(value, list) and list in (kinds or [get_origin(hint)]):
        text = f"{name}: {value!r} in the config file has entries of the wrong type; it must be {hint}."
    if value is None:
        text += " Leave it out for the default."
    elif isinstance(value, (int, float)) and "text" in (wanted or ["text"]) and not isinstance(value, bool):
        text += " Write it in quotes."
    return text


def _field_names(kind: Any) -> str:
    return ", ".join(own.name for own in fields(kind))
