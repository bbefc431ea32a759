"""
Checks that TRL's trainers can learn from a dataset of preferences: its rows before tokenization, token ids after it.

Rows that pass are not changed. What can be learnt from, but is hardly meant, is counted in one line of the log. Knows
neither tokenizers nor trainers.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset, IterableDataset

from .messages import flaw_of_template_arguments, flaw_of_text, null_keys
from .prompt_rows import warn_of_nulls


logger = get_logger(__name__)

TEXT_COLUMNS = ("chosen", "rejected")
TOKEN_COLUMNS = ("chosen_ids", "rejected_ids")
# Their former names, which the host still takes
LEGACY_TOKEN_COLUMNS = ("chosen_input_ids", "rejected_input_ids")
_READ_TOO = ("prompt", "tools", "chat_template_kwargs")


@dataclass
class Oddities:
    """How many rows can be learnt from, but are hardly meant."""

    rows: int = 0
    identical: int = 0
    repeated: int = 0
    with_nulls: int = 0
    null_keys: set[str] = field(default_factory=set)

    def add(self, row: dict[str, Any], columns: tuple[str, ...]) -> None:
        """Counts a row."""
        chosen, rejected = (row[column] for column in columns)
        self.rows += 1
        self.identical += chosen == rejected
        self.repeated += _repeats_prompt(row.get("prompt"), chosen, rejected)
        nulls = null_keys([row.get("prompt"), chosen, rejected, row.get("tools")])
        self.with_nulls += bool(nulls)
        self.null_keys |= nulls

    def report(self, name: str) -> None:
        """Logs one line per kind; raises `ValueError` if no pair can teach anything."""
        if self.identical == self.rows:
            raise ValueError(
                f"The {name} dataset: chosen and rejected are identical in all {self.rows} pairs, so there is nothing "
                "to learn. Check how its columns were made."
            )
        if self.identical:
            _warn(
                f"The {name} dataset: chosen and rejected are identical in {self.identical} of {self.rows} pairs, "
                "which teach nothing. Remove them."
            )
        if self.repeated:
            _warn(
                f"The {name} dataset: {self.repeated} of {self.rows} pairs repeat the prompt at the start of a "
                "completion, and the model would read it twice. Remove it there, or leave out the column 'prompt'."
            )
        warn_of_nulls(self.with_nulls, self.rows, self.null_keys, name)


def checked_preferences(
    dataset: Dataset | IterableDataset, name: str, tokenized: bool = False, margins: bool = False
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
            Whether `chosen_ids` and `rejected_ids`, or their former names, are accepted instead.
        margins (`bool`, *optional*, defaults to `False`):
            Whether the column `margin` is read.

    Raises:
        `ValueError`: If it has no rows, lacks a column, has only identical pairs, or has a row without a completion,
            with text and messages mixed, with a message that has no role or content, with tools that are no function
            schemas, or with a `margin` that is not finite.
    """
    first = first_row(dataset, name)
    columns = _columns(first, name, tokenized)
    read = [*columns, *(_READ_TOO if columns == TEXT_COLUMNS else ()), *(["margin"] if margins else [])]

    def checked(row: dict[str, Any], index: int) -> dict[str, Any]:
        if found := _flaw({key: row[key] for key in read if key in row}, columns):
            raise ValueError(f"Row {index} of the {name} dataset: {found}")
        return row

    if isinstance(dataset, IterableDataset):
        return dataset.map(checked, with_indices=True)
    oddities = Oddities()
    for index, row in enumerate(dataset.select_columns([column for column in read if column in first])):
        oddities.add(checked(row, index), columns)
    oddities.report(name)
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


def report_lengths(before: Any, after: Any, name: str, max_length: int | None) -> None:
    """
    Logs how many pairs the host drops or cuts because of `max_length`; nothing of streams.

    Args:
        before (`Dataset`):
            What the host was given.
        after (`Dataset`):
            What it has tokenized, with `chosen_ids`, `rejected_ids` and, where completions are apart, `prompt_ids`.
        name (`str`):
            What the log calls it.
        max_length (`int`, *optional*):
            Longest row in tokens.

    Raises:
        `ValueError`: If no pair is left.
    """
    if max_length is None or not isinstance(before, Dataset) or not isinstance(after, Dataset):
        return
    dropped = len(before) - len(after)
    if dropped == len(before):
        raise ValueError(
            f"max_length={max_length} leaves none of the {len(before)} pairs of the {name} dataset: all are longer. "
            "Raise `max_length`."
        )
    if dropped:
        _warn(
            f"max_length={max_length} drops {dropped} of {len(before)} pairs of the {name} dataset. Raise "
            "`max_length` to train on them."
        )
    ids = [column for column in ("prompt_ids", *TOKEN_COLUMNS) if column in after.column_names]
    if ids != ["prompt_ids", *TOKEN_COLUMNS]:
        return
    lengths = (len(row["prompt_ids"]) + max(map(len, (row[one] for one in TOKEN_COLUMNS))) for row in after)
    cut = sum(length > max_length for length in lengths)
    if cut:
        _warn(
            f"max_length={max_length} cuts {cut} of {len(after)} pairs of the {name} dataset. Raise `max_length` to "
            "train on whole completions."
        )


def _columns(first: dict[str, Any], name: str, tokenized: bool) -> tuple[str, ...]:
    for columns in (TOKEN_COLUMNS, LEGACY_TOKEN_COLUMNS) if tokenized else ():
        if set(columns) <= set(first):
            return columns
    missing = [column for column in TEXT_COLUMNS if column not in first]
    if missing:
        also = f", or {list(TOKEN_COLUMNS)} if it is tokenized" if tokenized else ""
        raise ValueError(
            f"The {name} dataset has no column {missing[0]!r}; its columns are {sorted(first)}. A dataset of "
            f"preferences has {list(TEXT_COLUMNS)} (and usually 'prompt'){also}. Rename its columns."
        )
    return TEXT_COLUMNS


def _flaw(row: dict[str, Any], columns: tuple[str, ...]) -> str | None:
    texts = ("prompt", *columns) if columns == TEXT_COLUMNS else ()
    for column in columns:
        value = row[column]
        if not isinstance(value, (str, list)):
            return f"{column!r} is {value!r}, and must be text or a list of messages. Fill it or remove the row."
        if value == []:
            return f"{column!r} is an empty list, so there is no completion to learn from. Remove the row."
        if columns != TEXT_COLUMNS and not all(isinstance(token, int) for token in value):
            return f"{column!r} is {value!r}, and must be a list of token ids."
    kinds = {type(row[column]).__name__ for column in texts if column in row}
    if len(kinds) > 1:
        return f"'prompt' and completions mix text and messages ({sorted(kinds)}). Use one format."
    flaws = (flaw_of_text(column, row[column]) for column in texts if column in row)
    if found := next(filter(None, flaws), None) or flaw_of_template_arguments(row):
        return found
    margin = row.get("margin", 0.0)
    if margin is None or not math.isfinite(margin):
        return f"'margin' is {margin!r}, and must be a finite number. Fill it or remove the row."
    return None


def _repeats_prompt(prompt: Any, *completions: Any) -> bool:
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        return False
    return any(type(one) is type(prompt) and one[: len(prompt)] == prompt for one in completions)


def _warn(text: str) -> None:
    try:
        logger.warning(text)
    except RuntimeError:
        # Accelerate's logger asks which process this is, and a dry run has made none
        logger.logger.warning(text)
