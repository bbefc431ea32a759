"""
What a launcher is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..jobs import Job


# Long enough for a checkpoint that a run writes when it is told to end
GRACE = 300.0


class LauncherError(ValueError):
    """A launcher cannot be used here, and the message says why and what helps."""


@dataclass(frozen=True)
class Ending:
    """
    How a started run ended. Whether it is finished, its folder says.

    Args:
        code (`int`, *optional*):
            Exit code of the command; 128 + n for signal n, as shells have it. `None` if it was not run.
        reason (`str`, *optional*):
            Why it was not run, or what its launcher says about its end.
        is_elsewhere (`bool`):
            Whether it was not run because another runner is at work on it.
    """

    code: int | None = None
    reason: str | None = None
    is_elsewhere: bool = False


class Run(Protocol):
    """A run that was started."""

    @property
    def has_begun(self) -> bool:
        """Whether its command runs, rather than waits for its turn."""

    @property
    def note(self) -> str | None:
        """What the user should know of it while it lasts, such as what it waits for."""

    def poll(self) -> Ending | None:
        """Returns how it ended, `None` while it has not. Never blocks."""

    def stop(self, number: int) -> None:
        """Sends a signal to all its processes; those still there after the launcher's grace period are killed."""


class Launcher(Protocol):
    """
    Starts runs.

    Args:
        pause (`float`):
            Seconds between two looks at the runs.
        grace (`float`):
            Seconds that a run has to end when it is told to.
    """

    pause: float
    grace: float

    def has_room(self, job: Job) -> bool:
        """Whether the run can be started now. Launchers with a queue of their own always have room."""

    def start(self, job: Job, is_finished: Callable[[Job], bool]) -> Run:
        """Starts a run, unless it is finished by the time that its folder is locked. What goes wrong is its ending."""
