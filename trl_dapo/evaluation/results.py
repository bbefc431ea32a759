"""
The files of an evaluation: one folder for one model and one set of settings.

`results.json` holds settings and scores, `samples/<data set>.jsonl` a line for each completion, and
`questions/<data set>.jsonl` one for each question. Samples are written batch by batch and read again when an
evaluation goes on, so a killed one loses the batch that it was in. Results of other settings are never overwritten.
"""

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trl_dapo import __version__

from ..host.whole_files import write_whole
from .samples import DataSetScore, Sample


SCHEMA = 1
RESULTS, SAMPLES, QUESTIONS, UNSCORED, LOCK = "results.json", "samples", "questions", "unscored", ".lock"
LONGEST_NAME = 100
_FIELDS = {own.name for own in fields(Sample)}

Key = tuple[str, int]  # question and sample


def file_name(data_set: str) -> str:
    """Returns the name of a data set's files: its own, or one that no file system minds and no other data set has."""
    plain = re.sub(r"[^A-Za-z0-9_.+-]+", "_", data_set).strip(".")[:LONGEST_NAME]
    return plain if plain == data_set else f"{plain}-{hashlib.sha256(data_set.encode()).hexdigest()[:8]}"


class ResultsFolder:
    """
    A folder of results, held by one evaluation at a time.

    Args:
        folder (`Path`):
            The folder; made if it is not there.
        settings (`dict[str, Any]`):
            Everything that the results depend on, as JSON has it.
        writes (`bool`, *optional*, defaults to `True`):
            Whether this process writes to it. One that does not is only told what is there.

    Raises:
        `ValueError`: If it holds results of other settings, is in use, or cannot be written to.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], writes: bool = True) -> None:
        self.folder, self._writes = folder, writes
        self.settings = json.loads(json.dumps(settings))
        earlier = read_results(folder)
        if earlier is not None:
            _check_same(folder, earlier.get("settings", {}), self.settings)
        if writes:
            self._take(earlier is None)

    def _take(self, is_empty: bool) -> None:
        folder = self.folder
        try:
            for part in (SAMPLES, QUESTIONS):
                (folder / part).mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / LOCK, timeout=0)
            self._lock.acquire()
        except Timeout as error:
            raise ValueError(f"output_dir={folder}: another evaluation is writing there. Name another.") from error
        except OSError as error:
            raise ValueError(f"output_dir={folder} cannot be written to: {error.strerror}. Name another.") from error
        if is_empty:
            self._write_results({}, complete=False)

    def close(self) -> None:
        """Lets others use the folder."""
        if self._writes:
            self._lock.release()

    def samples_file(self, data_set: str) -> Path:
        """Returns the file of a data set's completions."""
        return self.folder / SAMPLES / f"{file_name(data_set)}.jsonl"

    def read(self, data_set: str) -> dict[Key, Sample]:
        """
        Returns the samples that are there, without a last line that was cut short.

        Raises:
            `ValueError`: If another line is no sample.
        """
        return {(one.question_id, one.sample): one for one in read_samples(self.samples_file(data_set))}

    def append(self, data_set: str, samples: Iterable[Sample]) -> None:
        """Writes samples behind those that are there; they are on the disk when it returns."""
        if self._writes:
            _append_lines(self.samples_file(data_set), map(asdict, samples))

    def keep(self, data_set: str, samples: Sequence[Sample]) -> None:
        """Writes the samples of a data set anew, in place of what is there."""
        if self._writes:
            write_whole(self.samples_file(data_set), _lines(map(asdict, samples)))

    def finish(self, scores: dict[str, DataSetScore]) -> None:
        """Writes the scores."""
        if not self._writes:
            return
        for name, score in scores.items():
            write_whole(self.folder / QUESTIONS / f"{file_name(name)}.jsonl", _lines(map(asdict, score.questions)))
        self._write_results({name: summary(score) for name, score in scores.items()}, complete=True)

    def _write_results(self, data_sets: dict[str, Any], complete: bool) -> None:
        content = {"schema": SCHEMA, "trl_dapo": __version__, "complete": complete, "settings": self.settings}
        content["data_sets"] = data_sets
        write_whole(self.folder / RESULTS, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


class Unscored:
    """
    Completions that a scorer failed on, kept until they are scored.

    Args:
        folder (`Path`):
            Folder of the results.
        data_set (`str`):
            Name of the data set.
        process (`int`, *optional*, defaults to `0`):
            Which process this is: each has a file of its own.
    """

    def __init__(self, folder: Path, data_set: str, process: int = 0) -> None:
        self._stem = file_name(data_set)
        self._file = folder / UNSCORED / f"{self._stem}.{process}.jsonl"

    def read(self) -> dict[Key, dict[str, Any]]:
        """Returns those of all processes by question and sample."""
        files = self._file.parent.glob(f"{glob.escape(self._stem)}.*.jsonl")
        rows = [json.loads(line) for file in sorted(files) for line in _whole_lines(file)]
        return {(row["question_id"], row["sample"]): row for row in rows}

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Writes completions; each has a `question_id` and a `sample`."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        _append_lines(self._file, rows)

    def drop(self) -> None:
        """Removes them all."""
        with suppress(OSError):
            for file in self._file.parent.glob(f"{glob.escape(self._stem)}.*.jsonl"):
                file.unlink(missing_ok=True)
            self._file.parent.rmdir()


def summary(score: DataSetScore) -> dict[str, Any]:
    """Returns the scores of a data set as `results.json` has them."""
    metrics = {
        name: {
            "value": one.value,
            "interval": None if one.interval is None else list(one.interval),
            **({} if one.reason is None else {"no_interval": one.reason}),
        }
        for name, one in score.metrics.items()
    }
    samples = sum(question.samples for question in score.questions)
    return {"questions": len(score.questions), "samples": samples, "metrics": metrics}


def read_results(folder: Path) -> dict[str, Any] | None:
    """
    Returns the content of `results.json`, `None` where there is none.

    Raises:
        `ValueError`: If it cannot be read, or is that of another program.
    """
    path = folder / RESULTS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"output_dir={folder}: {RESULTS} cannot be read. Name another folder.") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or "settings" not in content:
        raise ValueError(f"output_dir={folder}: {RESULTS} is not of this evaluation's schema. Name another folder.")
    return content


def read_samples(path: Path) -> list[Sample]:
    """
    Returns the samples of a file, without a last line that was cut short.

    Raises:
        `ValueError`: If another line is no sample.
    """
    found = []
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            values = json.loads(line)
            found.append(Sample(**{name: values[name] for name in _FIELDS}))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number}, is no sample. Remove the file to evaluate anew.") from error
    return found


def _check_same(folder: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    name = next((name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)), None)
    if name is None:
        return
    was, now = theirs.get(name), ours.get(name)
    if isinstance(was, dict) and isinstance(now, dict):
        changed = [key for key in now if key in was and was[key] != now[key]]
        was, now = (f"other {changed[0]}", "these") if changed else (", ".join(was), ", ".join(now))
    raise ValueError(f"output_dir={folder} holds results of {name}={was}, not {now}. Name another folder.")


def _whole_lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    # Whatever is behind the last line break was being written when the process died
    return content[: content.rfind(b"\n") + 1].decode("utf-8").splitlines() if content else []


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    # ASCII alone: a completion may hold half of a surrogate pair, and separators that `splitlines` breaks at
    return "".join(json.dumps(row) + "\n" for row in rows)


def _append_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(_lines(rows))
        file.flush()
        os.fsync(file.fileno())
