"""
Whether a run wants to be told something: what its config says of the messages of loggers.
"""

import logging
from typing import Any


_LEVELS = {"error": logging.ERROR, "critical": logging.CRITICAL}


def wants(args: Any, level: int) -> bool:
    """
    Returns whether a message of a level is to be told in a run.

    Its `log_level` counts only where it asks for less than warnings. What transformers' own messages are set to by
    `TRANSFORMERS_VERBOSITY` says nothing about a run.

    Args:
        args ([`~transformers.TrainingArguments`]):
            The run's.
        level (`int`):
            As in `logging`.
    """
    return level >= _LEVELS.get(getattr(args, "log_level", ""), logging.NOTSET)
