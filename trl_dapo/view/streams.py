"""
What else is written while a panel is on the screen goes above it: warnings of loggers hold the stream that they began
with, which a panel would otherwise be torn by.
"""

import logging
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TextIO


def _handlers() -> Iterator[logging.StreamHandler]:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    for logger in loggers:
        if isinstance(logger, logging.Logger):
            yield from (one for one in logger.handlers if isinstance(one, logging.StreamHandler))


@contextmanager
def handlers_moved(old: tuple[TextIO, ...]) -> Generator[None]:
    """
    Lets handlers that write to one of these streams write to what `sys.stderr` and `sys.stdout` are now.

    Handlers that write elsewhere, such as to a file, are left alone.
    """
    now = {id(stream): one for stream, one in zip(old, (sys.stdout, sys.stderr), strict=True) if stream is not one}
    moved = []
    for handler in _handlers():
        if id(handler.stream) in now:
            moved.append((handler, handler.stream))
            handler.setStream(now[id(handler.stream)])
    try:
        yield
    finally:
        for handler, stream in moved:
            handler.setStream(stream)
