"""Copies of the installed TRL that claim to be another release, with or without a change in their source."""

import re
import shutil
from importlib.metadata import version
from pathlib import Path

import trl


INSTALLED = version("trl")


def doctored_trl(folder: Path, release: str, file: str = "", pattern: str = "", replacement: str = "") -> Path:
    """
    Copies TRL into `folder`, to be put first on `PYTHONPATH`, and returns the folder.

    Args:
        folder (`Path`):
            Where to; made if it is not there.
        release (`str`):
            What the copy's metadata says.
        file, pattern, replacement (`str`, *optional*):
            What is replaced, once or more, in a file of the package.
    """
    package = Path(trl.__file__).parent
    shutil.copytree(package, folder / "trl", ignore=shutil.ignore_patterns("skills", "templates"))
    metadata = f"trl-{INSTALLED}.dist-info"
    shutil.copytree(package.parent / metadata, folder / metadata.replace(INSTALLED, release))
    _replace(folder / metadata.replace(INSTALLED, release) / "METADATA", r"(?m)^Version: .*$", f"Version: {release}")
    if file:
        _replace(folder / "trl" / file, pattern, replacement)
    return folder


def _replace(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text())
    assert count > 0, f"{path} has no {pattern}"
    path.write_text(text)
