"""
Files that are there whole or not at all, also where the process dies or the disk is full.
"""

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, text: str, sync: bool = True) -> None:
    """
    Writes a file in place of what is there; its folder is made.

    Args:
        path (`Path`):
            The file.
        text (`str`):
            Its content.
        sync (`bool`, *optional*, defaults to `True`):
            Whether it is on the disk when this returns.

    Raises:
        `OSError`: If it cannot be written; what was there is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        # As on a full disk: half a file is of no use
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
