"""
Checks that TRL's trainers can learn from a dataset of preferences: its rows before tokenization, token ids after it.

Rows that pass are not changed. Knows neither tokenizers nor trainers.
"""

import math
from typing import Any

import torch
from datasets import Dataset, IterableDataset


TEXT_COLUMNS = ("chosen", "rejected")
TOKEN_COLUMNS = ("chosen_ids", "rejected_ids")


def checked_preferences(
    dataset: Dataset | IterableDataset, name: str, tokenized: bool = False
) -> Dataset | IterableDataset:
    """
    Returns the dataset of preferences after checking its rows; the rows of a stream are checked when they are read.

    An empty text is allowed: it is a completion that ends at once, because the host adds an EOS token. An empty list,
    of messages or of tokens, is not.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows with `chosen` and `rejected`, as text or messages.
        name (`str`):
            What the error calls it, e.g. `"train"`.
        tokenized (`bool`, *optional*, defaults to `False`):
            Whether `chosen_ids` and `rejected_ids` are accepted instead.

    Raises:
        `ValueError`: If it has no rows, lacks a column, or has a row without a completion, with text and messages
            mixed, or with a `margin` that is not finite.
    """
    first = first_row(dataset, name)
    columns = TOKEN_COLUMNS if tokenized and set(TOKEN_COLUMNS) <= set(first) else TEXT_COLUMNS
    missing = [column for column in columns if column not in first]
    if missing:
        also = f", or {list(TOKEN_COLUMNS)} if it is tokenized" if tokenized else ""
        raise ValueError(
            f"The {name} dataset has no column {missing[0]!r}; its columns are {sorted(first)}. A dataset of "
            f"preferences has {list(TEXT_COLUMNS)} (and usually 'prompt'){also}. Rename its columns."
        )

    def checked(row: dict[str, Any], index: int) -> dict[str, Any]:
        if found := _flaw(row, columns):
            raise ValueError(f"Row {index} of the {name} dataset: {found}")
        return row

    if isinstance(dataset, IterableDataset):
        return dataset.map(checked, with_indices=True)
    relevant = [column for column in ("prompt", *columns, "margin") if column in first]
    for index, row in enumerate(dataset.select_columns(relevant)):
        checked(row, index)
    return dataset


def first_row(dataset: Dataset | IterableDataset, name: str) -> dict[str, Any]:
    """Returns the first row of a dataset; raises `ValueError` if it has none."""
    first = next(iter(dataset), None)
    if first is None:
        raise ValueError(f"The {name} dataset has no rows. Pass one with at least one pair.")
    return first


def check_token_ids(input_ids: torch.Tensor, vocab_size: int) -> None:
    """Raises `ValueError` if a model with `vocab_size` embeddings has none for an id. Any shape, but not empty."""
    highest = int(input_ids.max())
    if highest >= vocab_size:
        raise ValueError(
            f"`processing_class` gave the token id {highest}, and the model has {vocab_size} embeddings. Pass the "
            "tokenizer of the model, or resize its embeddings."
        )


def _flaw(row: dict[str, Any], columns: tuple[str, ...]) -> str | None:
    for column in columns:
        value = row[column]
        if not isinstance(value, (str, list)):
            return f"{column!r} is {value!r}, and must be text or a list of messages. Fill it or remove the row."
        if value == []:
            return f"{column!r} is an empty list, so there is no completion to learn from. Remove the row."
    formats = ("prompt", *columns) if columns == TEXT_COLUMNS else ()
    kinds = {type(row[column]).__name__ for column in formats if column in row}
    if len(kinds) > 1:
        return f"'prompt' and completions mix text and messages ({sorted(kinds)}). Use one format."
    margin = row.get("margin", 0.0)
    if margin is None or not math.isfinite(margin):
        return f"'margin' is {margin!r}, and must be a finite number. Fill it or remove the row."
    return None
