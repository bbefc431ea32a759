"""
The most memory that this process has held, on Linux, where it can be reset.
"""

from contextlib import suppress
from pathlib import Path


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
KIB = 1024


class Resident:
    """The process's resident memory. Elsewhere than on Linux, all of it is 0."""

    def reset(self) -> None:
        """Forgets the peak so far; where that is not allowed, the peak is that of the whole run."""
        with suppress(OSError):
            # The kernel's word for: the peak is what is resident now
            CLEAR.write_text("5")

    def peak(self) -> int:
        """Returns the most bytes since the last reset."""
        return _field("VmHWM")

    def now(self) -> int:
        """Returns the bytes that are resident."""
        return _field("VmRSS")


def _field(name: str) -> int:
    with suppress(OSError, ValueError, IndexError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * KIB
    return 0
