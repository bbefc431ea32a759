"""
The dataset of a run: loaded as TRL's script loads it, and checked before a model is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetsError
from trl import DatasetMixtureConfig, get_dataset

from trl_dapo.config import DAPOConfig
from trl_dapo.planning import check_dataset

from .arguments import DAPOScriptArguments
from .errors import UsageError, one_line


Rows = Dataset | IterableDataset


@dataclass(frozen=True)
class Data:
    """Rows to train on, and rows to evaluate on where the config asks for evaluation."""

    train: Any
    evaluation: Any


def load_data(script_args: DAPOScriptArguments, training_args: DAPOConfig, dataset_args: DatasetMixtureConfig) -> Data:
    """Returns the splits that the arguments name, each with prompts, or raises [`UsageError`]."""
    dataset = _load(script_args, dataset_args)
    train = _split(dataset, "dataset_train_split", script_args.dataset_train_split)
    evaluation = None
    if training_args.eval_strategy != "no":
        evaluation = _split(dataset, "dataset_test_split", script_args.dataset_test_split)
    _check_rows(train, training_args)
    return Data(train, evaluation)


def column_names(rows: Rows) -> Sequence[str]:
    """Returns the names of the columns; those of a stream that does not tell are its first row's."""
    return rows.column_names or list(next(iter(rows), {}))


def _load(script_args: DAPOScriptArguments, dataset_args: DatasetMixtureConfig) -> Any:
    named = "datasets" if dataset_args.datasets else f"dataset_name={script_args.dataset_name}"
    try:
        if dataset_args.datasets:
            return get_dataset(dataset_args)
        return load_dataset(
            str(script_args.dataset_name), name=script_args.dataset_config, streaming=script_args.dataset_streaming
        )
    except (OSError, ValueError, TypeError, RuntimeError, DatasetsError) as error:
        raise UsageError(f"{named} cannot be loaded: {one_line(error)}") from error


def _split(dataset: Any, field: str, name: str) -> Rows:
    if name not in dataset:
        fix = "set `test_split_size`, or " if field == "dataset_test_split" else ""
        raise UsageError(
            f"{field}={name}: the dataset has no such split; it has {', '.join(dataset)}. To mend it, {fix}name one "
            "of these."
        )
    columns = column_names(dataset[name])
    if "prompt" not in columns:
        raise UsageError(
            f"{field}={name}: the dataset has no column `prompt`; it has {', '.join(columns) or 'none'}. Rename the "
            "column that holds the prompts."
        )
    return dataset[name]


def _check_rows(train: Rows, training_args: DAPOConfig) -> None:
    if isinstance(train, IterableDataset) and training_args.max_steps <= 0:
        raise UsageError(
            f"max_steps={training_args.max_steps}: a streamed dataset has no length. Set max_steps to the number of "
            "optimizer steps."
        )
    try:
        check_dataset(train, training_args)
    except ValueError as error:
        raise UsageError(one_line(error)) from error
