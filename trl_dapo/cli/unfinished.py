"""
What a save that fails leaves behind: nothing. A full disk cuts files short, and a folder of them looks like a model.
"""

import errno
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from trl_dapo.host.checkpoints import is_finished, numbered

from .errors import UsageError, one_line


# `trainer_state.json` is written last
LAST_OF_CHECKPOINT = "trainer_state.json"
CARD = "README.md"
CHECKPOINT = re.compile(r"checkpoint-\d+")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ROOM_TEXTS = ("No space left on device", "Disk quota exceeded", "File too large", "PytorchStreamWriter failed")


@contextmanager
def none_left(output_dir: Path, part: str) -> Generator[None]:
    """
    Removes, if the block fails, what it has written in part; no room on the disk becomes a [`UsageError`].

    Args:
        output_dir (`Path`):
            Where the block saves: checkpoints that it began and did not finish are removed.
        part (`str`):
            `"checkpoints"`, or `"model"` where the block writes into `output_dir` itself: then the files that it wrote
            there are removed too.
    """
    before = _stamps(output_dir)
    begun = {path.name for path in _unfinished(output_dir)}
    try:
        yield
    except BaseException as error:
        for folder in _unfinished(output_dir):
            if folder.name not in begun:
                shutil.rmtree(folder, ignore_errors=True)
        for path, stamp in _stamps(output_dir).items():
            # Beside checkpoints lie logs, and the card that the first of them brings
            of_save = part == "model" or (path.name == CARD and not list(output_dir.glob("checkpoint-*")))
            if of_save and before.get(path) != stamp:
                with suppress(OSError):
                    path.unlink()
        if _is_no_room(error):
            raise UsageError(
                f"output_dir={output_dir}: there is no room for what is saved there ({one_line(error)}). What was "
                f"written of it is removed; make room, or name another folder.{_way_on(output_dir)}"
            ) from error
        raise


def _stamps(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Returns what tells an overwritten file from an old one, for each file outside checkpoints."""
    found = {}
    for path in folder.rglob("*") if folder.is_dir() else ():
        first = path.relative_to(folder).parts[0]
        if not CHECKPOINT.fullmatch(first) and path.is_file():
            stat = path.stat()
            found[path] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return found


def _unfinished(output_dir: Path) -> list[Path]:
    folders = output_dir.iterdir() if output_dir.is_dir() else ()
    return [
        path
        for path in folders
        if CHECKPOINT.fullmatch(path.name) and path.is_dir() and not (path / LAST_OF_CHECKPOINT).is_file()
    ]


def _is_no_room(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    known = isinstance(error, (SafetensorError, RuntimeError))
    return known and any(text in str(error) for text in NO_ROOM_TEXTS)


def _way_on(output_dir: Path) -> str:
    found = next(filter(is_finished, numbered(output_dir)), None)
    return "" if found is None else f" To go on from {found.name}, set resume_from_checkpoint={found}."
