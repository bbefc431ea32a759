"""
The files of a dataset that lie on this machine: which they are, and which line of which one cannot be read.

The library that loads them says mostly "an error occurred", and leaves out a file of 0 bytes beside others in silence.
"""

import codecs
import glob
import gzip
import json
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from trl import DatasetMixtureConfig, ScriptArguments

from .errors import UsageError, one_line


JSON, LINES, PARQUET = (".json", ".jsonl", ".ndjson"), (".csv", ".tsv", ".txt"), ".parquet"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CHUNK = 2**22
GENERIC = "An error occurred while generating the dataset"


def local_files(script_args: ScriptArguments, dataset_args: DatasetMixtureConfig) -> list[Path]:
    """Returns the files of the dataset, or of the mixture, that are on this machine, in order."""
    if not dataset_args.datasets:
        return _in_folder(Path(str(script_args.dataset_name)))
    found: list[Path] = []
    for entry in dataset_args.datasets:
        found += _in_folder(Path(entry.path) if entry.data_dir is None else Path(entry.path) / entry.data_dir)
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
    for file in files:
        # The library leaves such files out, or loads them and fails at the row
        if flaw := _unnoticed(file, file.stat().st_size, file.stat().st_mtime_ns):
            raise UsageError(f"{named} cannot be loaded: {file}{flaw}")
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        found = next((f"{file}{flaw}" for file in files if (flaw := _flaw(file))), None)
        raise UsageError(f"{named} cannot be loaded: {found or _cause(error)}") from error


def _in_folder(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and _kind(path)]
    # Hidden files and folders are not part of a dataset, nor are those with two underscores
    return [path for path in files if not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)]


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


def _kind(path: Path) -> str | None:
    """Returns the suffix that says how a file is read, that before `.gz` where it is compressed."""
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    return suffix if suffix in (*JSON, *LINES, PARQUET) else None


@lru_cache(maxsize=4096)
def _unnoticed(path: Path, size: int, changed_ns: int) -> str | None:
    """Returns a flaw of which the library says nothing; reads a file of JSON once, at the speed of the disk."""
    if size == 0:
        return " is empty (0 bytes). Write it again, or remove it."
    if path.suffix not in JSON:
        return None
    decoder, blank = codecs.getincrementaldecoder("utf-8")(), True
    with path.open("rb") as file:
        try:
            for chunk in iter(partial(file.read, CHUNK), b""):
                blank = not decoder.decode(chunk).strip() and blank
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return _flaw(path)
    return _flaw(path) if blank else None


def _flaw(path: Path) -> str | None:
    """Returns what is wrong with a file, to stand behind its name, or `None`."""
    kind = _kind(path)
    if kind == PARQUET:
        return _parquet_flaw(path)
    try:
        return _text_flaw(path, as_json=kind in JSON)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return f": {one_line(error)}"
    except OSError as error:
        return f": {error.strerror}"


def _parquet_flaw(path: Path) -> str | None:
    content = path.read_bytes()
    if content[:4] != b"PAR1":
        return " is not a Parquet file."
    return None if content[-4:] == b"PAR1" else " is cut short: a Parquet file ends with PAR1."


def _text_flaw(path: Path, as_json: bool) -> str | None:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        first = next((line for line in file if line.strip()), b"")
        whole = as_json and first.lstrip(BYTE_ORDER_MARK + b" \t").startswith(b"[")
        file.seek(0)
        rows = 0
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                return f", line {number}: byte 0x{line[error.start]:02x} is not UTF-8. Save the file in UTF-8."
            if "\0" in text:
                return f", line {number}: it has a byte 0, so this is not a text file."
            rows += bool(text.strip())
            if as_json and not whole and text.strip() and (flaw := _row_flaw(text)):
                return f", line {number}: {flaw}"
        if rows == 0:
            return " has no rows."
        file.seek(0)
        return _array_flaw(file.read()) if whole else None


def _row_flaw(text: str) -> str | None:
    try:
        row = json.loads(text)
    except ValueError as error:
        return f"not valid JSON: {one_line(error)}"
    return None if isinstance(row, dict) else f"a row must be a JSON object, and this is a {type(row).__name__}."


def _array_flaw(content: bytes) -> str | None:
    try:
        rows = json.loads(content)
    except json.JSONDecodeError as error:
        # An array of one line each, as in JSON Lines
        return f", line {error.lineno}: not valid JSON: {one_line(error)}"
    wrong = next((index for index, row in enumerate(rows) if not isinstance(row, dict)), None)
    return (
        None if wrong is None else f", row {wrong}: a row must be a JSON object, not a {type(rows[wrong]).__name__}."
    )


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None and one_line(error) in (GENERIC, type(error).__name__):
        error = error.__cause__
    return one_line(error)
