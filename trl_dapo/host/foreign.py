"""
Configs and trainers that do not belong together, by name.

A config of this package extends TRL's, so that TRL's trainers take it and read the fields that they know. Ours refuse
a config that another trainer reads; a config of ours that another trainer has taken says so, when that trainer asks
it for the level of its logs, which every trainer of transformers does at construction.
"""

import sys
from dataclasses import MISSING, fields
from typing import Any

from accelerate.logging import get_logger
from transformers import Trainer


logger = get_logger(__name__)

PACKAGE = __name__.split(".")[0]
LIBRARIES = (PACKAGE, "trl", "transformers")
LISTED = 6


class OwnConfig:
    """
    What every config of this package has beside its fields.

    Attributes:
        own_trainer (`str`):
            The trainer that reads all of them.
        method_fields (`tuple[str, ...]`):
            Fields that make its method, whatever their default.
        filled_fields (`tuple[str, ...]`):
            Fields that construction fills in where the user leaves them out.
    """

    # Without annotations, which would make them fields
    own_trainer = "GRPOTrainer"
    method_fields = ()
    filled_fields = ()

    def get_process_log_level(self) -> int:
        """Returns the level of logs, as transformers does; says which fields the asking trainer does not read."""
        caller = sys._getframe(1).f_locals.get("self")
        # The trainers of this package check their config before a model is loaded
        if isinstance(caller, Trainer) and not is_own(type(caller)):
            line = self.unread_by(type(caller))
            if line is not None:
                logger.warning(line)
        return super().get_process_log_level()  # ty: ignore[missing-attribute]

    def unread_by(self, trainer: type) -> str | None:
        """Returns one line about the fields of this config that a trainer of another library does not read."""
        names = unread_fields(self)
        if not names:
            return None
        name = f"{trainer.__module__.split('.')[0]}.{trainer.__name__}"
        return (
            f"{name} got a {type(self).__name__} and does not read {_listed(self, names)}: it trains as if they were "
            f"not there. Use {PACKAGE}.{self.own_trainer}, or give it a config of its own."
        )


def unread_fields(config: Any) -> list[str]:
    """
    Returns the fields that the host's config does not have and that ask for something: those that are the method, and
    those that hold another value than their default.
    """
    cls = type(config)
    hosts = _field_names({base for base in cls.__mro__ if _package(base) in LIBRARIES[1:]})
    found = [name for name in config.method_fields if getattr(config, name) not in (None, False)]
    for own in fields(cls):
        if own.name in hosts or own.name in (*config.method_fields, *config.filled_fields):
            continue
        default = own.default if own.default_factory is MISSING else own.default_factory()
        if _is_of_package(cls, own.name) and getattr(config, own.name, default) != default:
            found.append(own.name)
    return found


def check_config(config: Any, own: type, host: type, trainer: str) -> None:
    """
    Raises `TypeError` for a config that is another trainer's.

    Args:
        config (`Any`):
            What the user gave as `args`.
        own (`type`):
            The config of the trainer.
        host (`type`):
            That of its host, which is taken too, and so is a subclass of either that the user wrote.
        trainer (`str`):
            Name of the trainer.
    """
    taken = f"{PACKAGE}.{own.__name__}"
    if host is not own:
        taken += f" or trl.{host.__name__}"
    if not isinstance(config, host):
        raise TypeError(f"`args` must be a {taken}, got a {type(config).__name__}. {trainer} has no other config.")
    known = set(own.__mro__)
    for cls in type(config).__mro__:
        if cls in known:
            return
        if _package(cls) in LIBRARIES and hasattr(cls, "__dataclass_fields__"):
            unread = [own.name for own in fields(cls) if own.name not in _field_names(known)]
            hint = getattr(cls, "own_trainer", None)
            use = f"Use {hint}" if hint is not None else "Use the trainer that it is for"
            raise TypeError(
                f"`args` must be a {taken}, got a {cls.__name__}: {trainer} does not read {_listed(config, unread)}. "
                f"{use}, or give a {own.__name__}."
            )


def is_own(trainer: type) -> bool:
    """Returns whether a trainer is one of this package, or was derived from one."""
    return any(_package(cls) == PACKAGE for cls in trainer.__mro__)


def _package(cls: type) -> str:
    return cls.__module__.split(".")[0]


def _is_of_package(cls: type, name: str) -> bool:
    """Whether a field is one of this package's, and not of a subclass that the user wrote."""
    return any(_package(base) == PACKAGE and name in _field_names({base}) for base in cls.__mro__)


def _field_names(classes: set[type]) -> set[str]:
    known: list[Any] = [cls for cls in classes if hasattr(cls, "__dataclass_fields__")]
    return {own.name for cls in known for own in fields(cls)}


def _listed(config: Any, names: list[str]) -> str:
    shown = [f"{name}={getattr(config, name, None)!r}" for name in names[:LISTED]]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(shown) + more if shown else "what makes it another method"
