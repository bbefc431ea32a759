"""
The files of a run's dataset that lie on this machine, and one line for what cannot be read of it.
"""

import glob
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trl import DatasetMixtureConfig, ScriptArguments

from trl_dapo.problems.files import ProblemError, cause, files_in, unnoticed

from .errors import UsageError, one_line


def local_files(script_args: ScriptArguments, dataset_args: DatasetMixtureConfig) -> list[Path]:
    """Returns the files of the dataset, or of the mixture, that are on this machine, in order."""
    if not dataset_args.datasets:
        named = Path(str(script_args.dataset_name))
        return [named] if named.is_file() else files_in(named)
    found: list[Path] = []
    for entry in dataset_args.datasets:
        found += files_in(Path(entry.path) if entry.data_dir is None else Path(entry.path) / entry.data_dir)
        found += [file for pattern in _words(entry.data_files) for file in _matching(pattern, entry.data_dir)]
    return found


def are_local(dataset_args: DatasetMixtureConfig) -> bool:
    """Returns whether every dataset of a mixture is a folder, or a kind of file whose files are named."""
    return all(
        Path(entry.path).is_dir() or (entry.data_files is not None and not _remote(entry.data_files))
        for entry in dataset_args.datasets
    )


@contextmanager
def readable(named: str, files: Sequence[Path]) -> Generator[None]:
    """
    Turns any failure to load a dataset into a [`UsageError`] with file, line and cause.

    Args:
        named (`str`):
            The field that names the dataset, with its value.
        files (`Sequence[Path]`):
            Its files on this machine.
    """
    if flaw := unnoticed(files):
        raise UsageError(f"{named} cannot be loaded: {flaw}")
    try:
        yield
    except UsageError:
        raise
    except ProblemError as error:
        raise UsageError(one_line(error)) from error
    except Exception as error:
        raise UsageError(f"{named} cannot be loaded: {cause(error, files)}") from error


def _matching(pattern: str, data_dir: str | None) -> list[Path]:
    found = sorted(glob.glob(pattern if data_dir is None else str(Path(data_dir) / pattern), recursive=True))
    return [Path(path) for path in found if Path(path).is_file()]


def _words(data_files: Any) -> list[str]:
    if isinstance(data_files, dict):
        return [word for value in data_files.values() for word in _words(value)]
    if isinstance(data_files, list):
        return [word for value in data_files for word in _words(value)]
    return [] if data_files is None else [str(data_files)]


def _remote(data_files: Any) -> bool:
    return any("://" in word for word in _words(data_files))
