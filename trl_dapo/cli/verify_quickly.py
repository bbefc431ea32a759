"""
The certificate without a model: config, data, reward functions, and a tokenizer that is on this machine.
"""

from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from trl_dapo.problems.catalogue import GYM
from trl_dapo.problems.gym import is_installed
from trl_dapo.verification.certificate import context_of, examine
from trl_dapo.verification.end_token_check import end_tokens
from trl_dapo.verification.findings import Report
from trl_dapo.verification.probe import Limits
from trl_dapo.verification.setup import ONLINE, Sample, Setup, sample_rows

from .arguments import Arguments
from .commands import Command
from .data_files import are_local
from .errors import UsageError, one_line
from .problem_data import named
from .reward_names import reward_functions


NOT_HERE = "the data set is not on this machine"


def quick_report(command: Command, arguments: Arguments, limits: Limits, listener: Any) -> Report:
    """Returns the findings that need no model; nothing is downloaded."""
    # The command logs what it finds in the rows through accelerate, which needs it
    PartialState(cpu=True)
    notes = list(arguments.script_args.notes)
    setup = _setup(command, arguments, _kwargs(command, arguments))
    try:
        _ = setup.metric_columns
    except ValueError as error:
        # Of a name that no reward function has, which the trainer would refuse
        raise UsageError(one_line(error)) from error
    return examine(None, setup, limits, listener, notes)


def _kwargs(command: Command, arguments: Arguments) -> dict[str, Any]:
    """Returns what the trainer would be made with; the reward functions alone where rows are not on this machine."""
    script_args, _, model_args, dataset_args = arguments
    name = script_args.dataset_name
    if dataset_args.datasets:
        local = are_local(dataset_args)
    elif named(script_args, dataset_args):
        local = name.startswith(GYM) and is_installed()
    else:
        local = Path(str(name)).exists()
    if model_args.model_name_or_path is not None and not local:
        if command.name not in ONLINE:
            return {}
        return {"reward_funcs": reward_functions(script_args.reward_funcs or [], arguments.training_args)}
    return command.load("trainer_arguments")(arguments)


def _setup(command: Command, arguments: Arguments, kwargs: dict[str, Any]) -> Setup:
    model, functions = kwargs.get("model"), kwargs.get("reward_funcs", [])
    tokenizer = kwargs.get("processing_class")
    no_tokenizer = ""
    if tokenizer is None:
        tokenizer, model, no_tokenizer = _named(arguments.model_args)
    args = arguments.training_args
    return Setup(
        command.name,
        args,
        sample_rows(kwargs["train_dataset"]) if "train_dataset" in kwargs else Sample([], 0, NOT_HERE),
        functions,
        [_name(one) for one in functions],
        list(getattr(args, "reward_weights", None) or [1.0] * len(functions)),
        tokenizer,
        no_tokenizer,
        ends=None if tokenizer is None else end_tokens(tokenizer, model),
        context=None if model is None else context_of(model.config),
    )


class _Configs:
    """A model's configs, without its weights."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        self.config = AutoConfig.from_pretrained(name, **kwargs)
        try:
            self.generation_config = GenerationConfig.from_pretrained(name, **kwargs)
        except OSError:
            self.generation_config = GenerationConfig.from_model_config(self.config)


def _named(model_args: Any) -> tuple[Any, Any, str]:
    """Returns tokenizer and configs of a named model that are on this machine, or why they are not."""
    name, given = model_args.model_name_or_path, {"revision": model_args.model_revision, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **given)
    except (OSError, ValueError) as error:
        return None, None, f"the tokenizer of {name} is not on this machine: {type(error).__name__}"
    try:
        return tokenizer, _Configs(name, **given), ""
    except (OSError, ValueError):
        return tokenizer, None, ""


def _name(function: Any) -> str:
    return getattr(function, "__name__", str(function).split("/")[-1])
