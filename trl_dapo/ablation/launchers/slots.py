"""
How runs at the same time share a machine: its GPUs and its cores.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Sequence


VISIBLE, THREADS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"


def visible_gpus() -> list[str]:
    """Returns the names that `CUDA_VISIBLE_DEVICES` has for the GPUs which this process may use."""
    chosen = os.environ.get(VISIBLE)
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(found))] if listed.returncode == 0 else []


def threads_per_run(jobs_at_once: int) -> int:
    """Returns the cores that this process may use, divided by the number of runs; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs_at_once)


class Gpus:
    """
    The GPUs of a machine, and how many runs use each.

    Args:
        names (`Sequence[str]`):
            Their names in `CUDA_VISIBLE_DEVICES`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._runs: Counter[str] = Counter()

    def has_room(self, gpus: int) -> bool:
        """Whether a run can be given so many for itself; 0 asks for one that it may share. More than there are is for
        `take` to refuse."""
        return gpus <= self._free() or gpus > len(self.names)

    def take(self, gpus: int) -> tuple[str, ...]:
        """
        Returns the GPUs of a run: `gpus` that no other uses, or for 0 the one that the fewest use.

        Raises:
            `ValueError`: If there are not so many.
        """
        if gpus > len(self.names):
            raise ValueError(f"it needs {gpus} GPUs, and this machine lends it {len(self.names)}")
        by_load = sorted(self.names, key=lambda name: self._runs[name])
        taken = tuple(by_load[: max(gpus, 1)])
        self._runs.update(taken)
        return taken

    def give_back(self, taken: Sequence[str]) -> None:
        """Ends the use of GPUs by a run."""
        self._runs.subtract(taken)

    def _free(self) -> int:
        return sum(not self._runs[name] for name in self.names)
