"""
What a run that was killed in its first checkpoint left: nothing to resume from, and nothing that another run wrote.

A loop that restarts such a run with `resume_from_checkpoint=True` is to come through: the run starts anew, the log
says so, and the folders are kept under another name, which neither resuming nor the host's removal of older
checkpoints looks at. A checkpoint that was finished once and damaged later is another matter, see
[`~host.checkpoints.choose`].
"""

from pathlib import Path

from .checkpoints import is_finished, numbered


_PREFIX = "torn-"


def only_unfinished(output_dir: Path) -> bool:
    """Returns whether a folder holds checkpoints, or what was set aside of them, and none that was ever finished."""
    folders = numbered(output_dir)
    if folders:
        return not any(map(is_finished, folders))
    return output_dir.is_dir() and any(output_dir.glob(f"{_PREFIX}checkpoint-*"))


def set_aside(output_dir: Path) -> list[str]:
    """Gives each checkpoint in a folder a name that no run reads or removes; returns lines that say so."""
    lines = [
        f"{folder.name} was not finished, and no other checkpoint is there: it is now {_renamed(folder).name}"
        for folder in numbered(output_dir)
    ]
    return [*lines, f"{output_dir} holds no finished checkpoint: the run starts anew"]


def _renamed(folder: Path) -> Path:
    name, copies = f"{_PREFIX}{folder.name}", 1
    while (folder.parent / name).exists():
        copies += 1
        name = f"{_PREFIX}{folder.name}-{copies}"
    return folder.rename(folder.parent / name)
