"""
What only the commands that learn from preferences need, `reward` and `dpo`: script and trainer arguments.
"""

from dataclasses import dataclass, field
from typing import Any

from trl_dapo import arena

from . import built_in_task
from .arguments import Arguments
from .data import load_splits
from .monitor_arguments import MonitoredScriptArguments
from .source import named_source, trainer_arguments


@dataclass
class OfflineScriptArguments(MonitoredScriptArguments):
    """
    What the script needs besides the configs of model and training.

    Args:
        dry_run (`bool`, *optional*, defaults to `False`):
            Print the resolved config, and stop.

    Attributes:
        notes (`list[str]`): one line for each default that gave way to a field that the user set.
    """

    dry_run: bool = field(default=False, metadata={"help": "Print the resolved config, and stop."})
    notes: list[str] = field(default_factory=list, init=False)


def reward_arguments(arguments: Arguments) -> dict[str, Any]:
    """Returns the keyword arguments of a [`RewardTrainer`], for the built-in task or for what the arguments name."""
    if arguments.model_args.model_name_or_path is not None:
        return _named_arguments(arguments)
    training_args = arguments.training_args
    start = arena.load_reward_start(training_args.seed)
    return trainer_arguments(arguments, built_in_task.pairs(training_args, start))


def dpo_arguments(arguments: Arguments) -> dict[str, Any]:
    """Returns the keyword arguments of a [`DPOTrainer`], for the built-in task or for what the arguments name."""
    _, training_args, model_args, _ = arguments
    if model_args.model_name_or_path is not None:
        return _named_arguments(arguments)
    kwargs = trainer_arguments(arguments, built_in_task.pairs(training_args, arena.load_warm_start()))
    if not (training_args.reference_free or model_args.use_peft):
        # TRL loads a reference by the model's name, and the built-in model has none that can be loaded
        kwargs["ref_model"] = arena.load_warm_start()[0]
    return kwargs


def _named_arguments(arguments: Arguments) -> dict[str, Any]:
    script_args, training_args, _, dataset_args = arguments
    source = named_source(arguments, load_splits(script_args, training_args, dataset_args))
    return trainer_arguments(arguments, source)
