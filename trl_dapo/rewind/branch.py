"""
One future: what changes at a checkpoint, where it ends, and the folder that holds it.

A folder has `branch.json` (what was asked), `run.yaml` (the fields of its run), `run/` (where it saves), `output.txt`
(what it printed) and, once it has reached its end, `future.json`.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..host.whole_files import write_whole


BRANCH_FILE, FUTURE_FILE, CONFIG_FILE, OUTPUT_FILE, RUN_FOLDER = (
    "branch.json",
    "future.json",
    "run.yaml",
    "output.txt",
    "run",
)
AS_IT_WAS = "as it was"
LONGEST_NAME = 60


@dataclass(frozen=True)
class Branch:
    """
    A future of a run.

    Args:
        command (`str`):
            Training command of the run.
        values (`dict[str, Any]`):
            Fields of the branch's run, with what changes.
        changes (`dict[str, Any]`):
            Fields that were asked to change; none for the run as it was.
        moved (`tuple[str, ...]`):
            All fields that are otherwise than the run's, those that follow from the changes among them.
        checkpoint (`str`):
            Where it begins.
        base (`int`):
            Step of the checkpoint.
        end (`int`):
            Step after which it stops.
        saves_end (`bool`):
            Whether it saves a checkpoint there.
    """

    command: str
    values: dict[str, Any]
    changes: dict[str, Any]
    moved: tuple[str, ...]
    checkpoint: str
    base: int
    end: int
    saves_end: bool = False

    @property
    def name(self) -> str:
        """What the branch is called in tables."""
        return ", ".join(f"{name}={_shown(value)}" for name, value in self.changes.items()) or AS_IT_WAS

    @property
    def folder_name(self) -> str:
        """A name for its folder that says what it is, and that any file system takes."""
        text = self.name.replace(" ", "-").replace(",", "")
        safe = re.sub(r"[^A-Za-z0-9._=+-]", "_", text)[:LONGEST_NAME]
        if safe != text:
            safe += f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        return f"{self.base}-{safe}"

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a folder to be this branch's; where it ends may be moved."""
        values = asdict(self)
        return json.loads(json.dumps({key: values[key] for key in values if key not in ("end", "saves_end")}))


@dataclass(frozen=True)
class Future:
    """
    What a branch has measured.

    Args:
        base, end (`int`):
            Steps between which it ran.
        log (`list[dict[str, Any]]`):
            Entries of its log after `base`.
    """

    base: int
    end: int
    log: list[dict[str, Any]] = field(repr=False)

    def until(self, end: int) -> "Future":
        """Returns the part up to a step."""
        return Future(self.base, min(end, self.end), [entry for entry in self.log if entry["step"] <= end])


def write_branch(folder: Path, branch: Branch) -> None:
    """
    Writes what a branch is into its folder.

    Raises:
        `ValueError`: If the folder is another branch's.
    """
    held = _read(folder / BRANCH_FILE)
    if held is not None and read_branch(folder).identity != branch.identity:
        raise ValueError(
            f"{folder} holds another future than {branch.name!r} from step {branch.base}. Name another folder with "
            "--dir, or remove it."
        )
    write_whole(folder / BRANCH_FILE, json.dumps(asdict(branch), indent=1))


def read_branch(folder: Path) -> Branch:
    """Returns what [`write_branch`] wrote. Raises `ValueError` if there is no such file, or it cannot be read."""
    values = _read(folder / BRANCH_FILE) or {}
    try:
        return Branch(**{**values, "moved": tuple(values["moved"])})  # ty: ignore[invalid-argument-type]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{folder / BRANCH_FILE} cannot be read as a future of a run. Remove its folder.") from error


def write_future(folder: Path, future: Future) -> None:
    """Writes what a branch has measured, whole or not at all."""
    write_whole(folder / FUTURE_FILE, json.dumps(asdict(future)))


def read_future(folder: Path, end: int) -> Future | None:
    """Returns the future up to a step, or `None` where the branch has not come that far."""
    values = _read(folder / FUTURE_FILE)
    if values is None or values["end"] < end:
        return None
    return Future(**values).until(end)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}. Remove its folder.") from error


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
