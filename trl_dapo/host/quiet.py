"""
What transformers and TRL print of a run by themselves, off for a while: another shows it.
"""

import contextlib
import inspect
import io
import sys
import warnings
from collections.abc import Generator
from typing import Any

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from transformers import TrainerCallback
from transformers.utils import logging as host_logging

from .swapped import swapped


# Callbacks that do nothing but show a run; those that derive from them included
SHOWING = {"PrinterCallback", "ProgressCallback", "NotebookProgressCallback", "RichProgressCallback"}
TABLE = "print_prompt_completions_sample"


@contextlib.contextmanager
def quiet(trainer: Any) -> Generator[None]:
    """
    Takes away what shows a trainer's run until it is left: progress bars, logs and the table of completions.

    Everything that is written to files or to a tracker stays.
    """
    handler = trainer.callback_handler
    kept = list(handler.callbacks)
    for callback in kept:
        if _shows(callback):
            trainer.remove_callback(callback)
    gone = [one for one in kept if one not in handler.callbacks]
    try:
        with _no_bars(), _no_table(trainer):
            yield
    finally:
        # At their old places, where they are not there again
        for place, callback in enumerate(kept):
            if callback in gone and callback not in handler.callbacks:
                handler.callbacks.insert(min(place, len(handler.callbacks)), callback)


def _shows(callback: TrainerCallback) -> bool:
    return any(cls.__name__ in SHOWING for cls in type(callback).__mro__)


@contextlib.contextmanager
def _no_bars() -> Generator[None]:
    """Those of files that are written and loaded, which are redrawn by a return to the start of their line."""
    had_bars, hub_had_none = host_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    host_logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # where the environment forbids the hub's bars
                host_logging.enable_progress_bar()
            if hub_had_none:
                disable_progress_bars()


@contextlib.contextmanager
def _no_table(trainer: Any) -> Generator[None]:
    modules = [sys.modules.get(cls.__module__) for cls in type(trainer).__mro__]
    found = [one for one in modules if one is not None and one.__name__.startswith("trl.") and hasattr(one, TABLE)]
    with contextlib.ExitStack() as stack:
        for module in found:
            stack.enter_context(swapped(module, **{TABLE: _unprinted(getattr(module, TABLE))}))
        yield


def _unprinted(host: Any) -> Any:
    def unprinted(*args: Any, **kwargs: Any) -> None:
        if inspect.signature(host).bind(*args, **kwargs).arguments.get("num_samples") is None:
            return
        # It draws which rows to print from Python's random numbers, and the run must have the same as without a view
        with contextlib.redirect_stdout(io.StringIO()):
            host(*args, **kwargs)

    return unprinted
