"""
A run as a panel at the foot of a terminal, which changes in place.

A thread draws, so that training waits for nothing, and it draws only so often that drawing takes at most a 400th of
what the process works. What others write meanwhile appears above the panel.
"""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rich.box import ASCII, ROUNDED
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from .panel import PLAIN_SIGNS, Signs, panel
from .plain import plain
from .state import RunState
from .streams import handlers_moved


# Seconds between two drawings, and how many times what a drawing takes the process works in between
AT_LEAST, AT_MOST, TIMES = 0.25, 10.0, 400
MOST_WIDTH = 180


class TerminalScreen:
    """
    Draws a run on a terminal.

    Args:
        console ([`~rich.console.Console`]):
            The terminal.
        lock (`threading.RLock`):
            Held by whoever changes the state.
        failed (`Callable[[Exception], None]`):
            Told once where drawing has failed; nothing is drawn from then on.
        clock (`Callable[[], float]`, *optional*, defaults to `time.monotonic`):
            Seconds.
    """

    def __init__(
        self,
        console: Console,
        lock: Any,
        failed: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._lock, self._failed, self._clock = console, lock, failed, clock
        self._signs = Signs() if console.encoding.lower().startswith("utf") else PLAIN_SIGNS
        self._stack = ExitStack()
        self._live: Live | None = None
        self._changed, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, state: RunState) -> None:
        """Puts the panel up."""
        old = sys.stdout, sys.stderr
        self._live = Live(
            self.drawn(state),
            console=self._console,
            auto_refresh=False,
            # What is redirected into a file stays there
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
            vertical_overflow="crop",
        )
        self._live.start(refresh=True)
        self._stack.callback(self._live.stop)
        # A process that is killed leaves no terminal without a cursor behind
        self._console.show_cursor(True)
        self._stack.enter_context(handlers_moved(old))
        self._thread = threading.Thread(target=self._draw_on, args=(state,), name="live view", daemon=True)
        self._thread.start()

    def changed(self, state: RunState) -> None:
        """Lets the panel be drawn when it is time."""
        self._changed.set()

    def logged(self, state: RunState, entry: dict[str, Any]) -> None:
        """Lets the panel be drawn when it is time."""
        self._changed.set()

    def end(self, state: RunState) -> None:
        """Draws the last state, which stays, and gives the terminal back."""
        self._over.set()
        self._changed.set()
        with self._stack:
            if self._thread is not None:
                self._thread.join(timeout=2.0)
            if self._live is not None:
                self._live.update(self.drawn(state), refresh=True)

    def drawn(self, state: RunState) -> Panel:
        """Returns the panel."""
        width = min(self._console.width, MOST_WIDTH)
        with self._lock:
            # The borders take four cells and two lines; one line is left to what is typed
            lines = panel(state, width - 4, self._console.height - 3, self._signs)
            title = plain(state.title)
        box = ASCII if self._signs.ascii_only else ROUNDED
        shown = Text(title if not self._signs.ascii_only else title.encode("ascii", "replace").decode(), style="bold")
        return Panel(Group(*lines), title=shown, title_align="left", box=box, width=width, border_style="dim")

    def _draw_on(self, state: RunState) -> None:
        while not self._over.is_set():
            self._changed.wait(timeout=1.0)
            self._changed.clear()
            if self._over.is_set():
                return
            began = time.thread_time()
            try:
                with self._lock:
                    state.now = self._clock()
                if self._live is not None:
                    self._live.update(self.drawn(state), refresh=True)
            except Exception as error:
                self._failed(error)
                return
            self._rest(time.thread_time() - began)

    def _rest(self, took: float) -> None:
        """Waits until the process has worked so many times what a drawing took, however little of a core it gets."""
        until, work = time.monotonic() + AT_MOST, time.process_time() + TIMES * took
        while not self._over.wait(AT_LEAST) and time.monotonic() < until and time.process_time() < work:
            pass
