"""
Whether a folder can be written to. Knows neither torch nor transformers.
"""

import os
from pathlib import Path


def check_folder(field: str, name: str) -> None:
    """Raises `ValueError`, naming the field, if `name` is no folder and cannot become one; nothing is written."""
    if "\0" in name:
        raise ValueError(f"{field}={name!r} has a byte 0 in it. Name a folder.")
    folder = Path(name).expanduser().absolute()
    try:
        existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not existing.is_dir():
            what = "a broken link" if existing.is_symlink() and not existing.exists() else "a file"
            raise ValueError(f"{field}={name}: {existing} is {what}, not a folder. Name a folder.")
    except OSError as error:
        # A name that is too long, or a loop of links
        raise ValueError(f"{field}={name}: {error.strerror}. Name a folder.") from error
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{field}={name}: {existing} cannot be written to. Name another folder.")
