"""
Checks the prompts of the trainers that generate, row by row, before any is generated from.
"""

from collections.abc import Mapping
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset, IterableDataset

from .messages import flaw_of_template_arguments, flaw_of_text, null_keys


logger = get_logger(__name__)

PROMPT = "prompt"
_CHECKED = (PROMPT, "tools", "chat_template_kwargs")


def checked_prompts(dataset: Any, name: str) -> Any:
    """Returns a dataset after [`check_prompts`]; the rows of a stream are checked when they are read."""
    check_prompts(dataset, name)
    if isinstance(dataset, Mapping):
        return {key: checked_prompts(one, f"{name}[{key!r}]") for key, one in dataset.items()}
    if not isinstance(dataset, IterableDataset):
        return dataset

    def checked(row: dict[str, Any], index: int) -> dict[str, Any]:
        check_prompt(row, index, name)
        return row

    return dataset.map(checked, with_indices=True, features=dataset.features)


def check_prompts(dataset: Any, name: str) -> None:
    """
    Checks the prompts of a dataset, or of several by name; of a stream, the first row.

    Args:
        dataset (`Dataset`, `IterableDataset`, `dict` of them or `None`):
            Rows with a column `prompt`. Where there is none, an environment makes the prompts up.
        name (`str`):
            What the error calls it, e.g. `"train"`.

    Raises:
        `ValueError`: For a prompt that is neither text nor messages, a message without a role or content, or tools
            that are no function schemas. The message names row and field.
    """
    if isinstance(dataset, Mapping):
        for key, one in dataset.items():
            check_prompts(one, f"{name}[{key!r}]")
    elif isinstance(dataset, IterableDataset):
        for row in dataset.take(1):
            check_prompt(row, 0, name)
    elif isinstance(dataset, Dataset) and PROMPT in dataset.column_names:
        nulls: set[str] = set()
        rows = 0
        for index, row in enumerate(dataset.select_columns([one for one in _CHECKED if one in dataset.column_names])):
            check_prompt(row, index, name)
            found = null_keys(row[PROMPT]) | null_keys(row.get("tools"))
            nulls |= found
            rows += bool(found)
        warn_of_nulls(rows, len(dataset), nulls, name)


def check_prompt(row: Mapping[str, Any], index: int, name: str) -> None:
    """Raises `ValueError` for a row without a prompt that can be rendered; a row that has no such column passes."""
    if PROMPT not in row:
        return
    if flaw := flaw_of_text(PROMPT, row[PROMPT]) or flaw_of_template_arguments(row):
        raise ValueError(f"Row {index} of the {name} dataset: {flaw}")


def warn_of_nulls(rows: int, of: int, keys: set[str], name: str) -> None:
    """Logs one line where rows have keys that are null."""
    if rows:
        logger.warning(
            f"The {name} dataset: {rows} of {of} rows have keys that are null ({', '.join(sorted(keys))}). Arrow "
            "fills in the keys that only other rows have, and a chat template can render them as 'None'. Give tools "
            "as JSON text, and messages the same keys."
        )
