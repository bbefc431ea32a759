"""
Loads the dataset of a run as TRL's script does, and checks it before a model is loaded.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset, IterableDataset, load_dataset
from trl import DatasetMixtureConfig, ScriptArguments, get_dataset

from trl_dapo.grpo.batch_size import check_dataset
from trl_dapo.host.prompt_rows import check_prompts
from trl_dapo.problems.repeats import key_of, shared
from trl_dapo.problems.rows import columns_of
from trl_dapo.problems.sources import file_rows

from .data_files import local_files, readable
from .errors import UsageError, one_line
from .mixture import check_mixture
from .problem_data import load_named, named, shaped


logger = get_logger(__name__)

Rows = Dataset | IterableDataset


@dataclass(frozen=True)
class Data:
    """Rows to train on, rows to evaluate on if the config asks for it, and lines that are worth saying of them."""

    train: Any
    evaluation: Any
    notes: tuple[str, ...] = ()


def load_data(script_args: ScriptArguments, training_args: Any, dataset_args: DatasetMixtureConfig) -> Data:
    """Returns the splits that the arguments name; raises [`UsageError`] if they are missing or have no prompts."""
    if named(script_args, dataset_args):
        data = _load_named(script_args, training_args)
    else:
        data = load_splits(script_args, training_args, dataset_args)
    # A stream is read here for the first time
    with reading(script_args, dataset_args):
        if not named(script_args, dataset_args):
            data = _shaped(script_args, data)
        _check_prompts("dataset_train_split", script_args.dataset_train_split, data.train)
        if data.evaluation is not None:
            _check_prompts("dataset_test_split", script_args.dataset_test_split, data.evaluation)
        try:
            check_dataset(data.train, training_args)
            check_prompts(data.train, "train")
            check_prompts(data.evaluation, "eval")
        except ValueError as error:
            raise own_refusal(error) from error
        return replace(data, notes=(*data.notes, *_leak(data)))


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
    _check_length(train, training_args)
    evaluation = None
    if training_args.eval_strategy != "no":
        evaluation = _split(dataset, "dataset_test_split", script_args.dataset_test_split)
    return Data(train, evaluation)


def column_names(rows: Rows) -> Sequence[str]:
    """Returns the names of the columns, of a stream's first row if the stream has none."""
    return columns_of(rows)


def say(notes: Sequence[str]) -> None:
    """Logs what is worth saying of the data, once per machine."""
    for note in notes:
        logger.warning(note)


def _load(script_args: ScriptArguments, dataset_args: DatasetMixtureConfig) -> Any:
    check_mixture(dataset_args)
    with reading(script_args, dataset_args):
        if dataset_args.datasets:
            return get_dataset(dataset_args)
        if Path(str(script_args.dataset_name)).is_file():
            answer = getattr(script_args, "answer_column", None)
            return file_rows(Path(str(script_args.dataset_name)), script_args.dataset_streaming, answer)
        return load_dataset(
            str(script_args.dataset_name), name=script_args.dataset_config, streaming=script_args.dataset_streaming
        )


def _load_named(script_args: Any, training_args: Any) -> Data:
    train = load_named(script_args, script_args.dataset_train_split)
    _check_length(train.rows, training_args)
    if training_args.eval_strategy == "no":
        return Data(train.rows, None, train.notes)
    evaluation = load_named(script_args, script_args.dataset_test_split)
    return Data(train.rows, evaluation.rows, (*train.notes, *evaluation.notes))


def _shaped(script_args: Any, data: Data) -> Data:
    train = shaped(script_args, data.train, script_args.dataset_train_split)
    if data.evaluation is None:
        return Data(train.rows, None, train.notes)
    evaluation = shaped(script_args, data.evaluation, script_args.dataset_test_split)
    return Data(train.rows, evaluation.rows, (*train.notes, *evaluation.notes))


def _leak(data: Data) -> list[str]:
    """Returns a line if questions of the evaluation set are trained on; streams are not read for it."""
    if not (isinstance(data.train, Dataset) and isinstance(data.evaluation, Dataset)):
        return []
    train, evaluation = ([key_of(row["prompt"]) for row in rows] for rows in (data.train, data.evaluation))
    if not (both := shared(train, evaluation)):
        return []
    return [
        f"{both} of {len(set(evaluation))} questions to evaluate on are also trained on: the evaluation is not of "
        "unseen problems"
    ]


def _check_length(train: Rows, training_args: Any) -> None:
    if isinstance(train, IterableDataset) and training_args.max_steps <= 0:
        raise UsageError(
            f"max_steps={training_args.max_steps}: a streamed dataset has no length. Set max_steps to the number of "
            "optimizer steps."
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
            "column that holds the prompts, or name it with prompt_column."
        )
