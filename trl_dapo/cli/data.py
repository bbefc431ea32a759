"""
Loads the dataset of a run as TRL's script does, and checks it before a model is loaded.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, IterableDataset, load_dataset
from trl import DatasetMixtureConfig, ScriptArguments, get_dataset

from trl_dapo.grpo.batch_size import check_dataset
from trl_dapo.host.prompt_rows import check_prompts

from .data_files import local_files, readable
from .errors import UsageError, one_line
from .mixture import check_mixture


Rows = Dataset | IterableDataset


@dataclass(frozen=True)
class Data:
    """Rows to train on, and rows to evaluate on if the config asks for evaluation."""

    train: Any
    evaluation: Any


def load_data(script_args: ScriptArguments, training_args: Any, dataset_args: DatasetMixtureConfig) -> Data:
    """Returns the splits that the arguments name; raises [`UsageError`] if they are missing or have no prompts."""
    data = load_splits(script_args, training_args, dataset_args)
    # A stream is read here for the first time
    with reading(script_args, dataset_args):
        _check_prompts("dataset_train_split", script_args.dataset_train_split, data.train)
        if data.evaluation is not None:
            _check_prompts("dataset_test_split", script_args.dataset_test_split, data.evaluation)
        try:
            check_dataset(data.train, training_args)
            check_prompts(data.train, "train")
            check_prompts(data.evaluation, "eval")
        except ValueError as error:
            raise own_refusal(error) from error
    return data


def own_refusal(error: ValueError) -> Exception:
    """Returns a [`UsageError`] for an error of this package's, and the error itself where a library's class of
    `ValueError` tells that a file cannot be read."""
    return UsageError(one_line(error)) if type(error) is ValueError else error


def reading(script_args: ScriptArguments, dataset_args: DatasetMixtureConfig) -> AbstractContextManager[None]:
    """Returns a context in which a failure to read the dataset is a [`UsageError`] that names file and line."""
    named = "datasets" if dataset_args.datasets else f"dataset_name={script_args.dataset_name}"
    return readable(named, local_files(script_args, dataset_args))


def load_splits(script_args: ScriptArguments, training_args: Any, dataset_args: DatasetMixtureConfig) -> Data:
    """Returns the splits that the arguments name, whatever their columns; raises [`UsageError`] if one is missing."""
    dataset = _load(script_args, dataset_args)
    train = _split(dataset, "dataset_train_split", script_args.dataset_train_split)
    evaluation = None
    if training_args.eval_strategy != "no":
        evaluation = _split(dataset, "dataset_test_split", script_args.dataset_test_split)
    if isinstance(train, IterableDataset) and training_args.max_steps <= 0:
        raise UsageError(
            f"max_steps={training_args.max_steps}: a streamed dataset has no length. Set max_steps to the number of "
            "optimizer steps."
        )
    return Data(train, evaluation)


def column_names(rows: Rows) -> Sequence[str]:
    """Returns the names of the columns, of a stream's first row if the stream has none."""
    return rows.column_names or list(next(iter(rows), {}))


def _load(script_args: ScriptArguments, dataset_args: DatasetMixtureConfig) -> Any:
    check_mixture(dataset_args)
    with reading(script_args, dataset_args):
        if dataset_args.datasets:
            return get_dataset(dataset_args)
        return load_dataset(
            str(script_args.dataset_name), name=script_args.dataset_config, streaming=script_args.dataset_streaming
        )


def _split(dataset: Any, field: str, name: str) -> Rows:
    if name not in dataset:
        fix = "set `test_split_size`, or " if field == "dataset_test_split" else ""
        raise UsageError(
            f"{field}={name}: the dataset has no such split; it has {', '.join(dataset)}. To fix it, {fix}name one "
            "of these."
        )
    return dataset[name]


def _check_prompts(field: str, name: str, rows: Rows) -> None:
    columns = column_names(rows)
    if "prompt" not in columns:
        raise UsageError(
            f"{field}={name}: the dataset has no column `prompt`; it has {', '.join(columns) or 'none'}. Rename the "
            "column that holds the prompts."
        )
