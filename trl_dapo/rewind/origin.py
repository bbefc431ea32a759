"""
The run that is rewound: its log, and the checkpoints that a branch can begin at.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..host.checkpoints import STATE_FILE, damage, numbered
from ..monitor.event_checkpoints import event_checkpoints


TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True)
class Origin:
    """
    A run on the disk.

    Args:
        folder (`Path`):
            Its `output_dir`.
        log (`list[dict[str, Any]]`):
            Entries of its log, as far as any checkpoint or the folder itself has them.
        checkpoints (`dict[int, Path]`):
            Whole checkpoints by step, lowest first.
        damages (`dict[str, str]`):
            Why the others are not whole, by name.
    """

    folder: Path
    log: list[dict[str, Any]] = field(repr=False)
    checkpoints: dict[int, Path]
    damages: dict[str, str]

    @property
    def last(self) -> int:
        """Last step that the log covers."""
        return max((int(entry["step"]) for entry in self.log), default=0)

    def at_or_before(self, step: int) -> tuple[int, Path]:
        """
        Returns the newest whole checkpoint at or before a step.

        Raises:
            `ValueError`: If there is none.
        """
        found = [one for one in self.checkpoints if one <= step]
        if found:
            return found[-1], self.checkpoints[found[-1]]
        why = "".join(f" {name} is not whole ({text})." for name, text in self.damages.items())
        if not self.checkpoints:
            raise ValueError(
                f"{self.folder} has no whole checkpoint, so there is no place to rewind to.{why} Train with "
                "save_strategy=steps and save_steps, or with save_on_finding."
            )
        raise ValueError(
            f"--to {step} is before the first whole checkpoint of {self.folder}, of step {min(self.checkpoints)}."
            f"{why} Give --to {min(self.checkpoints)} or later."
        )


def read_origin(folder: Path, online: bool) -> Origin:
    """
    Returns the run in a folder.

    Args:
        folder (`Path`):
            Its `output_dir`.
        online (`bool`):
            Whether its trainer generates, so that checkpoints have the state file of this package.

    Raises:
        `ValueError`: If there is no such folder, or the log in it is cut off.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder. Name the output_dir of a run.")
    checkpoints: dict[int, Path] = {}
    damages: dict[str, str] = {}
    found = {path: int(path.name.rsplit("-", 1)[-1]) for path in numbered(folder)}
    found |= {path: step for step, path in event_checkpoints(folder)}
    for path, step in sorted(found.items(), key=lambda one: one[1]):
        wrong = damage(path, online)
        if wrong is None:
            checkpoints.setdefault(step, path)
        else:
            damages[path.name] = wrong
    return Origin(folder, _log(folder, list(checkpoints.values())), dict(sorted(checkpoints.items())), damages)


def processes_of(checkpoint: Path, online: bool) -> int:
    """Returns how many processes wrote a checkpoint; 0 where it was saved with `save_only_model`."""
    if online:
        return int(json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))["processes"])
    if not (checkpoint / "optimizer.pt").is_file() and not any(path.is_dir() for path in checkpoint.iterdir()):
        return 0
    return max(1, len(list(checkpoint.glob("rng_state_*.pth"))))


def is_inside_rollout(checkpoint: Path) -> bool:
    """Returns whether a checkpoint of an online trainer was saved between two updates of one rollout."""
    path = checkpoint / STATE_FILE
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8"))["parts"]["rollout"]["inside"])


def _log(folder: Path, checkpoints: list[Path]) -> list[dict[str, Any]]:
    """Returns the longest log of those that the run has left."""
    logs = [read_log(path / TRAINER_STATE) for path in checkpoints[-1:]]
    if (folder / TRAINER_STATE).is_file():
        logs.append(read_log(folder / TRAINER_STATE))
    return max(logs, key=lambda log: max((entry["step"] for entry in log), default=0), default=[])


def read_log(path: Path) -> list[dict[str, Any]]:
    """
    Returns the log of a `trainer_state.json`.

    Raises:
        `ValueError`: If the file cannot be read or is cut off in the middle, or has no such log.
    """
    try:
        log = json.loads(path.read_text(encoding="utf-8"))["log_history"]
        if not all(isinstance(entry["step"], int) for entry in log):
            raise TypeError("an entry without a step")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read: {' '.join(str(error).split())}. If the run was killed while it wrote, remove the "
            "file: the checkpoints hold the log as well."
        ) from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} has no log_history with steps, so it is no trainer's state.") from error
    return log
