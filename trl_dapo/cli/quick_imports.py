"""
Imports of libraries without the garbage collector, which would look again and again at a million objects that stay.
"""

import gc
import sys
from collections.abc import Generator
from contextlib import contextmanager


# One of the libraries: where it is loaded, so are the others
LOADED = "transformers"


@contextmanager
def collector_off() -> Generator[None]:
    """Turns the collector off while libraries are loaded for the first time, and lets it leave them alone later."""
    if LOADED in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
