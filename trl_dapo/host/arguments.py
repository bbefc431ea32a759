"""
What trainers are constructed with: the types of their arguments, and which of these were given.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin


# A reward function gets the columns of the dataset and the completions as keyword arguments, and returns one number
# per completion, or None for no reward. It may be asynchronous
RewardFunction = Callable[..., Sequence[float | None] | Awaitable[Sequence[float | None]]]
# A reward model by its name or folder, one that is loaded, or a function
RewardFunc = str | PreTrainedModel | RewardFunction

TrainData = Dataset | IterableDataset
EvalData = Dataset | IterableDataset | DatasetDict | IterableDatasetDict | dict[str, Dataset | IterableDataset]
ProcessingClass = PreTrainedTokenizerBase | ProcessorMixin
Optimizers = tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None]
NO_OPTIMIZERS: Optimizers = (None, None)
# It gets prompts and the trainer
RolloutFunction = Callable[[list[Any], Any], dict[str, Any]]


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Returns `model`, and those arguments that were given: a host that lacks one of the others is not asked for it.

    Args:
        arguments (`Mapping[str, Any]`):
            Arguments by name. Their defaults are `None`, and [`NO_OPTIMIZERS`] for the optimizers.
    """
    left_out = {name for name, value in arguments.items() if value is None and name != "model"}
    if arguments.get("optimizers") == NO_OPTIMIZERS:
        left_out.add("optimizers")
    return {name: value for name, value in arguments.items() if name not in left_out}
