"""
Questions that are there more than once: copies that are left out, and what is only counted.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from datasets import Dataset, IterableDataset

from .answers import MISSING, look_up
from .rows import Rows


BATCH = 10_000


def key_of(question: Any) -> str:
    """Returns text that is the same for the same question and no other."""
    return question if isinstance(question, str) else json.dumps(question, sort_keys=True)


def first_of_each(rows: Rows, prompt: str, copies: str | None) -> Rows:
    """
    Returns the first row of each question, in the order of the rows. A stream stays one, and forgets at its end.

    Args:
        rows (`Dataset` or `IterableDataset`):
            Rows with copies.
        prompt (`str`):
            Column of the question, by its dotted name: the same question is there once.
        copies (`str`, *optional*):
            Column that is the same in all copies, by its dotted name; read first, since it is short.
    """
    if isinstance(rows, IterableDataset):
        kept = IterableDataset.from_generator(
            _first, gen_kwargs={"rows": rows, "prompt": prompt}, features=rows.features
        )
        assert isinstance(kept, IterableDataset)
        return kept
    if copies is not None:
        rows = rows.select(_first_places(_short_keys(rows, copies)))
    return rows.select(_first_places(key_of(look_up(row, prompt)) for row in rows))


def contradicted(rows: Dataset, prompt: str, answer: str) -> int:
    """Returns how many questions are there with several answers."""
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(key_of(look_up(row, prompt)), set()).add(str(look_up(row, answer)))
    return sum(len(found) > 1 for found in answers.values())


def repeated(keys: Iterable[str]) -> int:
    """Returns how many rows repeat the question of an earlier one."""
    return sum(count - 1 for count in Counter(keys).values())


def shared(train: Iterable[str], evaluation: Iterable[str]) -> int:
    """Returns how many questions of an evaluation set, each counted once, are among those to train on."""
    return len(set(train) & set(evaluation))


def _first(rows: IterableDataset, prompt: str) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for row in rows:
        key = key_of(look_up(row, prompt))
        if key not in seen:
            seen.add(key)
            yield row


def _first_places(keys: Iterable[str | None]) -> list[int]:
    """Returns where each key is for the first time; a row without a key is a copy of none."""
    places, seen = [], set()
    for place, key in enumerate(keys):
        if key is None or key not in seen:
            seen.add(key)
            places.append(place)
    return places


def _short_keys(rows: Dataset, name: str) -> Iterator[str | None]:
    """Yields a column of short values, batch by batch in Arrow: a row as a Python object costs 50 times as much."""
    column = name.partition(".")[0]
    if column not in rows.column_names:
        yield from (None for _ in range(len(rows)))
        return
    for batch in rows.select_columns([column]).with_format("arrow").iter(BATCH):
        flat = _flat(batch)
        if name in flat.column_names:
            yield from (None if value is None else str(value) for value in flat[name].to_pylist())
        else:
            yield from (_text(look_up(row, name)) for row in batch.to_pylist())


def _flat(table: pa.Table) -> pa.Table:
    while any(pa.types.is_struct(one.type) for one in table.schema):
        table = table.flatten()
    return table


def _text(value: Any) -> str | None:
    return None if value is MISSING or value is None else str(value)
