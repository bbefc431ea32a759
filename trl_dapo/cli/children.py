"""
What was launched ends with the launcher: a signal that would end this process alone ends its children first.
"""

import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil


# Long enough for a checkpoint that a training process writes when it is told to end
GRACE = 300.0
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Ended(BaseException):
    """A signal to end has arrived. Not an `Exception`: nothing on the way may take it for an error of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def ended_with_us() -> Generator[None]:
    """
    Ends all processes that this one has started if a signal or Ctrl-C ends the block; raises [`Ended`] for a signal.

    A signal that is ignored, as SIGHUP under `nohup`, stays ignored.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    caught = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    except Ended as ended:
        end_children(ended.number)
        raise
    except KeyboardInterrupt:
        end_children(signal.SIGINT)
        raise
    finally:
        for number in caught:
            signal.signal(number, before[number])


def end_children(number: int, grace: float = GRACE) -> None:
    """Sends a signal to all processes below this one; kills those still there after `grace` seconds, or at once when
    another signal arrives."""
    running = psutil.Process().children(recursive=True)
    for process in running:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    try:
        running = psutil.wait_procs(running, timeout=grace)[1]
    finally:
        for process in running:
            with suppress(psutil.NoSuchProcess):
                process.kill()
