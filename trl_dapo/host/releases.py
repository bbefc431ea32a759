"""
Which releases of TRL, and of what TRL builds on, are accepted, and which of them are newer than any that was tested.

Reads versions alone and imports none of these libraries, so a release that cannot be imported is named too. Whether a
release still has what the package uses is for `compat` to say.
"""

import logging
import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from .host_names import TESTED


__all__ = ["check_releases", "explain_import", "newest_tested", "tell_untested", "untested", "untested_sentence"]

logger = logging.getLogger(__name__)


def check_releases() -> None:
    """
    Raise `ImportError` if an installed release is outside the range that this package declares.

    Raises:
        `ImportError`: Names each such release, its range, and the command that installs a supported one.
    """
    outside = {
        name: tested
        for name, tested in TESTED.items()
        if not SpecifierSet(tested.specifier).contains(version(name), prereleases=True)
    }
    if outside:
        found = " ".join(
            f"trl_dapo supports {name}{tested.specifier}, but {name} {version(name)} is installed."
            for name, tested in outside.items()
        )
        wanted = " ".join(repr(name + tested.specifier) for name, tested in outside.items())
        raise ImportError(f"{found} Install a supported release: `pip install {wanted}`.")


def untested() -> dict[str, str]:
    """
    Returns the installed releases that are newer than the newest tested minor, with their versions.

    A patch release of a tested minor counts as tested; its names are compared all the same.
    """
    return {
        name: version(name)
        for name, tested in TESTED.items()
        if Version(version(name)).release[:2] > Version(tested.highest).release[:2]
    }


def untested_sentence(newer: dict[str, str]) -> str:
    """Returns a sentence that names the releases that [`untested`] found, with the tested ones."""
    listed = ", ".join(f"{name} {release} (tested: {_tested(name)})" for name, release in newer.items())
    verb = "is" if len(newer) == 1 else "are"
    return f"{listed} {verb} newer than what trl_dapo was tested with."


def newest_tested(*names: str) -> str:
    """Returns the command that installs the newest tested releases, of all dependencies if none is named."""
    return f"`pip install {' '.join(repr(f'{name}=={TESTED[name].highest}') for name in names or TESTED)}`"


def tell_untested() -> None:
    """Warn of installed releases that are newer than the tested ones: once, and on the first process alone."""
    newer = untested()
    # The environment says which process this is before Accelerate knows
    if newer and os.environ.get("RANK", "0") == "0":
        _warn(
            f"{untested_sentence(newer)} Everything that trl_dapo uses of it was checked and is as expected, so the "
            "run goes on. If numbers matter, compare them with those of the tested releases, which "
            f"{newest_tested(*newer)} installs. See docs/compatibility.md."
        )


# One trainer after the other is checked in a process
@cache
def _warn(text: str) -> None:
    logger.warning(text)


def explain_import(error: ImportError) -> ImportError | None:
    """
    Returns an error that says which release is to blame if one of the libraries lacks a name that is imported.

    Args:
        error (`ImportError`):
            Raised while a module of this package was imported.

    Returns:
        `ImportError` or `None`: `None` if the error has another cause, such as a library that is not installed.
    """
    name = (error.name or "").partition(".")[0]
    if name not in TESTED:
        return None
    try:
        found = version(name)
        check_releases()
    except PackageNotFoundError:
        return None
    except ImportError as outside:
        return outside
    return ImportError(
        f"{name} {found} (tested: {_tested(name)}) lacks what trl_dapo imports: {error}. "
        f"Install the newest tested releases: {newest_tested()}.",
        name=error.name,
        path=error.path,
    )


def _tested(name: str) -> str:
    return f"{TESTED[name].lowest} to {TESTED[name].highest}"
