"""
Turns a config of TRL's into the config of this package that extends it.

Values are copied field by field, and the result is not constructed: TRL's checks have already rewritten some fields,
and would not accept the rewritten values a second time.
"""

from dataclasses import MISSING, fields
from typing import Any, TypeVar

from transformers import TrainingArguments


T = TypeVar("T", bound=TrainingArguments)


def promoted(config: Any, cls: type[T]) -> T:
    """
    Returns `config` itself if it is a `cls`, else a `cls` with its values and defaults for the fields it lacks.

    Raises:
        `TypeError`: If `cls` does not extend the class of `config`.
    """
    if isinstance(config, cls):
        return config
    if not issubclass(cls, type(config)):
        taken = " or ".join(f"{base.__module__.split('.')[0]}.{base.__name__}" for base in cls.__mro__[:2])
        raise TypeError(f"`args` must be a {taken}, got a {type(config).__name__}.")
    return with_defaults(config, cls)


def with_defaults(config: Any, cls: type[T]) -> T:
    """Returns a `cls` with the values of `config`, whatever its class, and defaults for the fields it lacks."""
    result = object.__new__(cls)
    vars(result).update(vars(config))
    for own in fields(cls):
        if own.name not in vars(config):
            setattr(result, own.name, own.default if own.default_factory is MISSING else own.default_factory())
    return result
