"""
How far a run is: a small file that the run writes and whoever started it reads.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from ..host.whole_files import write_whole


PROGRESS = "progress.json"


@dataclass(frozen=True)
class Progress:
    """
    How far a run is.

    Args:
        fraction (`float`):
            Share of the budget that is spent, from 0 to 1.
        step (`int`):
            Optimizer steps.
        completions (`int`):
            Completions generated.
        accuracy (`float`, *optional*):
            Share of right completions in the last rollout.
    """

    fraction: float
    step: int
    completions: int
    accuracy: float | None = None


def write_progress(folder: Path, progress: Progress) -> None:
    """Writes the file, whole or not at all."""
    # Many times a minute, and worth nothing after a crash
    write_whole(folder / PROGRESS, json.dumps(asdict(progress)), sync=False)


def read_progress(folder: Path) -> Progress | None:
    """Returns what the file says, `None` where there is none or it is no such file."""
    try:
        found = Progress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    numbers = [found.fraction, 0.0 if found.accuracy is None else found.accuracy]
    is_whole = all(type(count) is int for count in (found.step, found.completions))
    is_number = all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
    return found if is_whole and is_number else None
