"""
Where the rows of a data set come from: the Hub, reasoning-gym, a file or a folder.
"""

import csv
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, load_dataset

from .answers import column_of
from .catalogue import CATALOGUE, GYM, Part, ProblemSet, is_problem_set, nearest_name
from .files import FILE_ENDINGS, ProblemError, cause, files_in, kind, loader, unnoticed
from .gym import gym_rows
from .repeats import first_of_each
from .rows import ANSWER_COLUMNS, ENTRY, Rows


@dataclass(frozen=True)
class Source:
    """Raw rows: of which split, which columns are known to hold what, and what is worth saying of them."""

    rows: Rows
    split: str
    prompt: str | None = None
    answer: str | None = None
    id: str | None = None
    may_be_empty: bool = False
    notes: tuple[str, ...] = ()


def is_named(name: str) -> bool:
    """Returns whether a name is one of the catalogue's. A file or folder of that name comes first."""
    return is_problem_set(name) and not Path(name).exists()


def splits_of(name: str) -> tuple[str, ...]:
    """Returns the splits of a data set with a name."""
    return ("train", "test") if name.startswith(GYM) else tuple(CATALOGUE[name].splits)


def checked_split(name: str, split: str, field: str = "split") -> str:
    """Returns a split; raises [`ProblemError`], naming the field, if a data set with a name does not have it."""
    splits = splits_of(name)
    if split not in splits:
        only_test = " It is there to evaluate on." if splits == ("test",) else ""
        raise ProblemError(f"{field}={split}: {name} has no such split; it has {', '.join(splits)}.{only_test}")
    return split


def source(name: str, split: str | None, size: int | None, seed: int, streaming: bool, answer: str | None) -> Source:
    """Returns the raw rows of a name, as [`load_problems`] reads it; `size` and `seed` are reasoning-gym's here."""
    if name.startswith(GYM):
        split = checked_split(name, split or "test")
        rows: Rows = gym_rows(name, split, size, seed)
        return Source(rows.to_iterable_dataset() if streaming else rows, split, "question", "answer", None, True)
    if is_named(name):
        return _of_catalogue(name, CATALOGUE[name], split, streaming)
    return _of_any(name, split, streaming, answer)


def file_rows(path: Path, streaming: bool, answer: str | None = None) -> Any:
    """
    Returns the splits of one file: `train` alone. An answer in a CSV file stays the text that it is there.

    Raises:
        [`ProblemError`]: If this kind of file has no columns.
    """
    found = loader(path)
    if found is None:
        raise ProblemError(f"{path} is no file of rows: its name ends in none of {', '.join(FILE_ENDINGS)}.")
    builder, options = found
    if builder == "csv":
        header = _header(path, options.get("sep", ","))
        known = [answer] if answer else ANSWER_COLUMNS
        options = {**options, "converters": {one: str for one in header if one in map(_outer(header), known)}}
    load: Any = load_dataset
    return load(builder, data_files={"train": str(path)}, streaming=streaming, **options)


def hub_rows(hub: str, config: str | None, split: str, streaming: bool) -> Rows:
    """Returns a split of a data set on the Hub."""
    rows = load_dataset(hub, name=config, split=split, streaming=streaming)
    assert isinstance(rows, Dataset | IterableDataset)
    return rows


def _of_catalogue(name: str, one: ProblemSet, split: str | None, streaming: bool) -> Source:
    split = checked_split(name, split or _to_evaluate(one.splits))
    part = one.splits[split]
    try:
        rows = _cut(hub_rows(one.hub, one.config, part.split, streaming), part)
    except Exception as error:
        raise ProblemError(
            f"{name} cannot be loaded: it is {one.place} on the Hub: {cause(error, [])}. Connect to the network, or "
            "give a file with its rows."
        ) from error
    notes: tuple[str, ...] = ()
    if name == "countdown":
        rows = rows.map(_countdown)
    if one.copies is not None:
        whole, rows = rows, first_of_each(rows, one.prompt, one.copies)
        if isinstance(whole, Dataset) and isinstance(rows, Dataset):
            notes = (f"{name}: {len(rows)} different problems in {len(whole)} rows; each is taken once",)
    return Source(rows, split, one.prompt, one.answer, one.id, False, notes)


def _of_any(name: str, split: str | None, streaming: bool, answer: str | None) -> Source:
    path = Path(name)
    files = [path] if path.is_file() else files_in(path)
    if flaw := unnoticed(files):
        raise ProblemError(f"{name} cannot be loaded: {flaw}")
    try:
        splits: Any = file_rows(path, streaming, answer) if path.is_file() else _folder_or_hub(name, streaming)
    except ProblemError:
        raise
    except Exception as error:
        raise ProblemError(
            f"{name} cannot be loaded: {cause(error, files).rstrip('.')}.{did_you_mean(name)}"
        ) from error
    split = split or _to_evaluate(splits)
    if split not in splits:
        raise ProblemError(f"split={split}: {name} has no such split; it has {', '.join(splits)}.")
    return Source(splits[split], split)


def did_you_mean(name: str) -> str:
    """Returns a hint to stand behind a message about a name that nothing has, or ""."""
    near = None if Path(name).exists() else nearest_name(name)
    return "" if near is None else f" Did you mean {near}?"


def _folder_or_hub(name: str, streaming: bool) -> Any:
    # Of something else that looks like a path, the library says that it is no dataset on the Hub
    path = Path(name)
    if not path.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1 or kind(path) is not None):
        raise FileNotFoundError("there is no such file or folder")
    return load_dataset(name, streaming=streaming)


def _to_evaluate(splits: Mapping[str, Any]) -> str:
    return "test" if "test" in splits else next(iter(splits))


def _cut(rows: Rows, part: Part) -> Rows:
    if part.start == 0 and part.stop is None:
        return rows
    if isinstance(rows, IterableDataset):
        rows = rows.skip(part.start)
        return rows if part.stop is None else rows.take(part.stop - part.start)
    stop = len(rows) if part.stop is None else min(part.stop, len(rows))
    return rows.select(range(min(part.start, stop), stop))


def _countdown(row: Mapping[str, Any]) -> dict[str, str]:
    """Returns the question of a row, and the entry by which reasoning-gym scores it."""
    numbers = ", ".join(map(str, row["nums"]))
    question = (
        f"Using all of the numbers {numbers}, write an arithmetic expression whose value is {row['target']}. Use +, "
        "-, * and / and brackets, and each number exactly once. The answer is the expression alone, without an equals "
        "sign."
    )
    metadata = {"source_dataset": "countdown", "numbers": list(row["nums"]), "target": row["target"]}
    return {"question": question, ENTRY: json.dumps({"question": question, "answer": None, "metadata": metadata})}


def _header(path: Path, separator: str) -> list[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        return next(csv.reader(file, delimiter=separator), [])


def _outer(columns: list[str]) -> Any:
    return lambda name: column_of(columns, name)
