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
    """Folders by their own paths first, then what links add to them."""
    seen: dict[tuple[int, int], Path] = {}
    links = [folder]
    while links:
        root = min(links)
        links.remove(root)
        if known := seen.get(_identity(root)):
            here, there = (printable(one.relative_to(folder)) for one in (root, known))
            left_out.append(f"{here}: a link to a folder that is read as {there}")
            continue
        # Such a link may lead to the whole disk
        if root != folder and folder.resolve().is_relative_to(root.resolve()):
            left_out.append(f"{printable(root.relative_to(folder))}: a link to a folder above")
            continue
        yield from _own(root, folder, wanted, left_out, seen, links)


def _own(
    root: Path, folder: Path, wanted: str, left_out: list[str], seen: dict[tuple[int, int], Path], links: list[Path]
) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        place = printable(Path(error.filename).relative_to(folder))
        left_out.append(f"{place}: the folder cannot be read: {error.strerror}")

    for place, folders, names in os.walk(root, onerror=unreadable):
        seen[_identity(Path(place))] = Path(place)
        links += [below for name in folders if (below := Path(place, name)).is_symlink()]
        if wanted in names:
            yield Path(place, wanted)
        folders[:] = [name for name in folders if _identity(Path(place, name)) not in seen]
        if wanted in folders:
            left_out.append(f"{printable(Path(place, wanted).relative_to(folder))}: it is a folder")


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
