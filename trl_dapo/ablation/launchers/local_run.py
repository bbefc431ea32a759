"""
A run on this machine, from the wait for its folder to its end.
"""

from collections.abc import Callable

from .launcher import Ending
from .process import LockedError, Process


class LocalRun:
    """
    A run on this machine.

    Args:
        begin (`Callable[[], Process]`, *optional*):
            Starts its process.
        release (`Callable[[], None]`):
            Called once when it has ended.
        ending ([`Ending`], *optional*):
            How it ended, for one that cannot be started.
    """

    def __init__(
        self, begin: Callable[[], Process] | None, release: Callable[[], None], ending: Ending | None = None
    ) -> None:
        self._begin, self._release = begin, release
        self._process: Process | None = None
        self._ending: Ending | None = None
        self.note: str | None = None
        if ending is not None or begin is None:
            self._end(ending or Ending())
        else:
            self._try(begin)

    @property
    def has_begun(self) -> bool:
        """Whether its command runs; not while it waits for a copy to end."""
        return self._process is not None

    def poll(self) -> Ending | None:
        """Returns how it ended, `None` while it has not."""
        if self._ending is None and self._process is None and self._begin is not None:
            self._try(self._begin)
        if self._ending is None and self._process is not None and (code := self._process.poll()) is not None:
            self._end(Ending(code if self._process.was_started else None))
        return self._ending

    def stop(self, number: int) -> None:
        """Sends a signal to its processes."""
        if self._process is not None:
            self._process.stop(number)
        elif self._ending is None:
            self._end(Ending())

    def _try(self, begin: Callable[[], Process]) -> None:
        try:
            self._process = begin()
            self.note = None
        except LockedError as error:
            if error.owner is None or not error.owner.is_gone:
                self._end(Ending(reason=str(error), is_elsewhere=True))
            else:
                self.note = f"waits for what process {error.owner.pid}, which is gone, has left running"
        except OSError as error:
            self._end(
                Ending(reason=f"cannot be started: {error.filename or ''}: {error.strerror}".replace(": :", ":"))
            )

    def _end(self, ending: Ending) -> None:
        self._ending = ending
        self._release()
