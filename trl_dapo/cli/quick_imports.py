"""
Imports of libraries, without what makes them slow or loud.
"""

import gc
import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager


# What it lacks on this machine, it says while it is loaded; the processes of the run say it where it matters
LOUD = "bitsandbytes"
# One of the libraries: where it is loaded, so are the others
LOADED = "transformers"


@contextmanager
def collector_off() -> Generator[None]:
    """
    Turns the garbage collector off while libraries are loaded for the first time, and lets it leave them alone later:
    it would look again and again at a million objects that stay.
    """
    if LOADED in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


@contextmanager
def loaded_quietly() -> Generator[None]:
    """Keeps what a library says about itself while it is loaded off the screen."""
    log = logging.getLogger(LOUD)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
