"""
A config of TRL's as the config of ours that extends it.

Field by field, not constructed anew: the host's checks have rewritten some fields in ways that they would not accept
again. The invariant: every field that the host's config has keeps its value.
"""

from dataclasses import MISSING, fields
from typing import Any, TypeVar


T = TypeVar("T")


def promoted(config: Any, cls: type[T]) -> T:
    """
    Returns `config` itself where it is a `cls`, else a `cls` with its values and the defaults of the fields it lacks.

    Raises:
        `TypeError`: Where `cls` does not extend the class of `config`.
    """
    if isinstance(config, cls):
        return config
    if not issubclass(cls, type(config)):
        taken = " or ".join(f"{base.__module__.split('.')[0]}.{base.__name__}" for base in cls.__mro__[:2])
        raise TypeError(f"`args` must be a {taken}, got a {type(config).__name__}.")
    result = object.__new__(cls)
    vars(result).update(vars(config))
    for own in fields(cls):
        if own.name not in vars(config):
            setattr(result, own.name, own.default if own.default_factory is MISSING else own.default_factory())
    return result
