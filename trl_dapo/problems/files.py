"""
Files of rows on this machine: which are there, how each is read, and which line of which one cannot be read.

The library that loads them says mostly "an error occurred", and leaves out a file of 0 bytes beside others in silence.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any


JSON, LINES, PARQUET = (".json", ".jsonl", ".ndjson"), (".csv", ".tsv", ".txt"), ".parquet"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CHUNK = 2**22
# Of files with columns; those of text can have .gz behind
FILE_ENDINGS = (*JSON, ".csv", ".tsv", PARQUET)
GENERIC = "An error occurred while generating the dataset"


class ProblemError(ValueError):
    """A mistake in a data set or in its name, that the user can fix: one line."""


def one_line(error: BaseException) -> str:
    """Returns the error's text without line breaks, or the name of its class if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def files_in(folder: Path) -> list[Path]:
    """Returns the files of rows in a folder, in order; none if it is no folder."""
    if not folder.is_dir():
        return []
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and kind(path)]
    # Hidden files and folders are not part of a dataset, nor are those with two underscores
    return [path for path in files if not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)]


def loader(path: Path) -> tuple[str, dict[str, Any]] | None:
    """Returns the builder that reads a file, with its arguments; `None` for a kind of file that has no columns."""
    suffix = kind(path)
    if suffix in JSON:
        return "json", {}
    if suffix in (".csv", ".tsv"):
        return "csv", {"sep": "\t"} if suffix == ".tsv" else {}
    return ("parquet", {}) if suffix == PARQUET else None


def unnoticed(files: Sequence[Path]) -> str | None:
    """Returns the first file that the library leaves out, or loads and fails at a row of, with its flaw."""
    stats = ((file, file.stat()) for file in files)
    return next(
        (f"{file}{flaw}" for file, stat in stats if (flaw := _unnoticed(file, stat.st_size, stat.st_mtime_ns))), None
    )


def cause(error: BaseException, files: Sequence[Path]) -> str:
    """Returns why rows could not be read: the first file that has a flaw, with it, or what the library says."""
    found = next((f"{file}{flaw}" for file in files if (flaw := _flaw(file))), None)
    return found or _cause(error)


def kind(path: Path) -> str | None:
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
    suffix = kind(path)
    if suffix == PARQUET:
        return _parquet_flaw(path)
    try:
        return _text_flaw(path, as_json=suffix in JSON)
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
