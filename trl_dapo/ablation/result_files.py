"""
Finds files of a name below a folder that may hold anything.
"""

import os
from collections.abc import Iterator
from pathlib import Path


def files(folder: Path, name: str, left_out: list[str]) -> list[Path]:
    """
    Returns every file of a name below a folder, in path order.

    Links to folders are followed, each folder once, so that a loop of links ends.

    Args:
        folder (`Path`):
            The folder.
        name (`str`):
            Name of the files.
        left_out (`list[str]`):
            Gets a line for each folder that is not read, with the reason.
    """
    return sorted(_walked(folder, name, left_out), key=lambda one: one.parts)


def printable(path: Path) -> str:
    """Returns a path as one line that any file can hold."""
    name = path.as_posix()
    return name if name.isprintable() else ascii(name)[1:-1]


def _walked(folder: Path, wanted: str, left_out: list[str]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        place = printable(Path(error.filename).relative_to(folder))
        left_out.append(f"{place}: the folder cannot be read: {error.strerror}")

    seen: dict[tuple[int, int], Path] = {_identity(folder): folder}
    for place, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        if wanted in names:
            yield Path(place, wanted)
        # Links last, so that a folder is known by its own path wherever it is beside the link
        folders.sort(key=lambda name: (Path(place, name).is_symlink(), name))
        for name in list(folders):
            below = Path(place, name)
            known = seen.setdefault(_identity(below), below)
            if name == wanted:
                left_out.append(f"{printable(below.relative_to(folder))}: it is a folder")
            if known != below:
                folders.remove(name)
                here, there = printable(below.relative_to(folder)), printable(known.relative_to(folder))
                left_out.append(f"{here}: a link to a folder that is read as {there}")


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
