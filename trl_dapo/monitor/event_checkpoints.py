"""
Checkpoints that are kept for what happened at their step: `finding-<rule>-<step>` in a run's folder.

The limit on a run's checkpoints (`save_total_limit`) looks at `checkpoint-<step>` alone, so these stay. Each is a
whole checkpoint, of the same files: a run resumes from it, and a rewind starts there.
"""

import re
import shutil
from pathlib import Path


_FOLDER = re.compile(r"finding-([a-z_]+)-(\d+)")


def event_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Returns the checkpoints that findings left in a run's folder, each with its step, the first step first."""
    if not run.is_dir():
        return []
    found = [
        (int(match[2]), path) for path in run.iterdir() if (match := _FOLDER.fullmatch(path.name)) and path.is_dir()
    ]
    return sorted(found)


def keep(checkpoint: Path, rule: str, step: int) -> Path:
    """
    Copies a checkpoint to where no limit removes it, and returns the copy.

    A copy, not links: a run that comes to this step again writes into the files of its own checkpoint.

    Args:
        checkpoint (`Path`):
            The checkpoint.
        rule (`str`):
            Name of the rule.
        step (`int`):
            Its step.

    Raises:
        `OSError`: If it cannot be kept, as on a full disk; nothing is left of it then.
    """
    kept = checkpoint.parent / f"finding-{rule}-{step}"
    part = kept.with_name(f"{kept.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        shutil.copytree(checkpoint, part)
        shutil.rmtree(kept, ignore_errors=True)
        part.replace(kept)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        # That of a whole folder has a list of all files, of which the first says it
        if isinstance(error, shutil.Error) and error.args[0]:
            raise OSError(str(error.args[0][0][2])) from error
        raise
    return kept


def room_for_checkpoint(run: Path, parameters: int, copies: int) -> str | None:
    """
    Returns why there is no room for checkpoints, or `None`.

    Args:
        run (`Path`):
            The run's folder.
        parameters (`int`):
            Bytes of the model. Weights and both moments of Adam are counted, where no checkpoint is there to compare
            with.
        copies (`int`):
            How many are to be written.
    """
    there = [path for path in (*run.glob("checkpoint-*"), *run.glob("finding-*")) if path.is_dir()]
    largest = max((_size(path) for path in there), default=3 * parameters)
    free = shutil.disk_usage(next(path for path in (run, *run.parents) if path.is_dir())).free
    if free >= copies * largest * 1.05:
        return None
    return f"{free / 1e9:.2f} GB are free in {run}, and {copies * largest / 1e9:.2f} GB are needed"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
