"""
Where a run is shown: a terminal, a notebook, or a stream of lines.
"""

import sys
from collections.abc import Callable
from typing import Any, Literal, Protocol

from rich.console import Console

from .lines import LineScreen
from .notebook import NotebookScreen
from .state import RunState
from .terminal import TerminalScreen


Show = Literal["auto", "terminal", "lines", "notebook"]
SHOW = ("auto", "terminal", "lines", "notebook")


class Screen(Protocol):
    """Where a run is shown."""

    def begin(self, state: RunState) -> None:
        """Called once, before the first step."""

    def changed(self, state: RunState) -> None:
        """Called whenever something has changed."""

    def logged(self, state: RunState, entry: dict[str, Any]) -> None:
        """Called after a log that has something to show."""

    def end(self, state: RunState) -> None:
        """Called once, also where the run has failed."""


def make_screen(
    show: Show, args: Any, lock: Any, failed: Callable[[Exception], None], clock: Callable[[], float]
) -> Screen:
    """
    Returns where a run is shown.

    Args:
        show (`str`):
            One of `SHOW`; `"auto"` for what is there.
        args ([`~transformers.TrainingArguments`]):
            Its `disable_tqdm` means lines.
        lock, failed, clock:
            As for [`TerminalScreen`].
    """
    kind = ("lines" if args.disable_tqdm else where()) if show == "auto" else show
    if kind == "terminal":
        # The stream of now: `sys.stdout` is another one while the panel is up
        console = Console(file=sys.stdout, force_terminal=True if show == "terminal" else None)
        return TerminalScreen(console, lock, failed, clock)
    if kind == "notebook":
        return NotebookScreen(clock)
    return LineScreen(sys.stdout)


def where() -> str:
    """Returns what a run can be shown on: `"notebook"`, `"terminal"` or `"lines"`."""
    if "IPython" in sys.modules:
        from IPython import get_ipython

        shell = get_ipython()
        if shell is not None and type(shell).__name__ not in ("TerminalInteractiveShell", "NoneType"):
            return "notebook"
    console = Console(file=sys.stdout)
    return "terminal" if console.is_terminal and not console.is_dumb_terminal else "lines"
