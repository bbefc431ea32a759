"""
What can be checked before processes start and a model is loaded.
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from trl import ModelConfig

from trl_dapo.evaluation.scorers import SCORERS
from trl_dapo.grpo.config import GRPOConfig
from trl_dapo.host.checkpoints import choose, read_state
from trl_dapo.host.preference_rows import checked_preferences
from trl_dapo.host.unfinished import only_unfinished
from trl_dapo.reward_model.adapter import AdapterReward
from trl_dapo.reward_model.config import RewardConfig
from trl_dapo.reward_model.function import RewardModelFunction

from .arguments import Arguments
from .built_in_task import check_no_reference, check_not_quantized
from .chat_template import check_chat_template
from .data import Data, column_names, load_data, load_splits, own_refusal, reading
from .data_files import are_local
from .errors import UsageError, one_line
from .folders import check_folder
from .hub import check_dataset_name, check_model
from .problem_data import can_read_named, check_options, named
from .reward_names import (
    HOST_REWARDS,
    check_columns,
    check_reward_names,
    check_scorers,
    reward_functions,
    scoring_arguments,
)
from .starts import check_start


def check_online(arguments: Arguments) -> None:
    """
    Checks a run of `dapo`, `grpo` or `ppo`. No reward function of the user's is imported, and no model is loaded.

    Raises:
        [`UsageError`]: For the first mistake found.
    """
    script_args, training_args, model_args, dataset_args = arguments
    names = script_args.reward_funcs or []
    check_reward_names(names)
    check_scorers(names, scoring_arguments(script_args), needed=not script_args.dry_run)
    check_options(script_args, dataset_args, training_args)
    adapter = getattr(training_args, "reward_adapter", None)
    if not (script_args.reward_funcs or script_args.reward_model_name_or_path or adapter):
        also = ", reward_model_name_or_path or reward_adapter" if hasattr(training_args, "reward_adapter") else ""
        raise UsageError(
            "reward_funcs is missing: nothing scores the completions. Give reward_funcs (accuracy_reward, for "
            f"instance, or a dotted import path){also or ' or reward_model_name_or_path'}."
        )
    if adapter:
        check_reward_adapter(adapter, model_args)
    if script_args.reward_model_name_or_path:
        check_reward_model(script_args)
    check_output_dir(training_args)
    if not script_args.dry_run:
        check_start(training_args)
    whole_checkpoint(training_args)
    if model_args.model_name_or_path is None:
        check_no_reference(training_args, model_args)
        check_not_quantized(model_args)
        return
    _check_model(script_args, "model_name_or_path", model_args.model_name_or_path, model_args.model_revision)
    if _can_read_data(arguments):
        data = load_data(script_args, training_args, dataset_args)
        script_args.notes += data.notes
        known = [name for name in names if name in (*HOST_REWARDS, *SCORERS)]
        check_columns(reward_functions(known, training_args), column_names(data.train))
        if not script_args.dry_run:
            check_chat_template(data.train, model_args, training_args.trust_remote_code)


def check_offline(arguments: Arguments) -> None:
    """
    Checks a run of `reward` or `dpo`. No model is loaded.

    Raises:
        [`UsageError`]: For the first mistake found.
    """
    script_args, training_args, model_args, dataset_args = arguments
    check_output_dir(training_args)
    if not script_args.dry_run:
        check_start(training_args)
    asked_checkpoint(training_args)
    if model_args.model_name_or_path is None:
        check_not_quantized(model_args)
        return
    _check_model(script_args, "model_name_or_path", model_args.model_name_or_path, model_args.model_revision)
    if named(script_args, dataset_args):
        raise UsageError(
            f"dataset_name={script_args.dataset_name} has problems and answers, and this command learns from "
            "preferences. Use dapo, grpo or ppo, or another dataset."
        )
    if _can_read_data(arguments):
        data = load_splits(script_args, training_args, dataset_args)
        # A stream is read here for the first time
        with reading(script_args, dataset_args):
            _check_preferences(data, rewards=isinstance(training_args, RewardConfig))


def check_reward_model(script_args: Any) -> None:
    """Raises [`UsageError`] unless a reward model is named, as far as its folder says; no weights are read."""
    name = script_args.reward_model_name_or_path
    _check_model(script_args, "reward_model_name_or_path", name, "main")
    if Path(name).is_dir():
        try:
            RewardModelFunction(name)
        except ValueError as error:
            raise UsageError(f"reward_model_name_or_path={name}: {one_line(error)}") from error


def whole_checkpoint(args: GRPOConfig) -> str | bool | None:
    """Returns what [`asked_checkpoint`] returns, after checking that the checkpoint is whole and written by us."""
    asked = asked_checkpoint(args)
    if asked and not (asked is True and only_unfinished(Path(str(args.output_dir)))):
        try:
            read_state(choose(str(get_last_checkpoint(args.output_dir) if asked is True else asked))[0])
        except ValueError as error:
            raise UsageError(one_line(error)) from error
    return asked


def asked_checkpoint(args: TrainingArguments) -> str | bool | None:
    """Returns the checkpoint to resume from: a folder, `True` for the last one in `output_dir`, or `None`."""
    asked: Any = args.resume_from_checkpoint
    if isinstance(asked, str) and asked.lower() in ("true", "false"):
        # The command line gives text
        asked = asked.lower() == "true"
    if asked is True:
        folder = Path(str(args.output_dir))
        if not folder.is_dir() or not (get_last_checkpoint(str(folder)) or only_unfinished(folder)):
            raise UsageError(f"resume_from_checkpoint=True: there is no checkpoint in output_dir={args.output_dir}.")
    elif asked and not Path(asked).is_dir():
        raise UsageError(f"resume_from_checkpoint={asked}: there is no such folder.")
    return asked or None


def check_output_dir(args: TrainingArguments) -> None:
    """Raises [`UsageError`] if `output_dir` is no folder and cannot become one."""
    try:
        check_folder("output_dir", str(args.output_dir))
    except ValueError as error:
        raise UsageError(one_line(error)) from error


def check_reward_adapter(folder: str, model_args: ModelConfig) -> None:
    """Raises [`UsageError`] if a folder holds no reward adapter, or the policy will have none to stand beside."""
    try:
        AdapterReward(folder)
    except (ValueError, OSError, SafetensorError) as error:
        raise UsageError(
            one_line(error) if "reward_adapter" in str(error) else f"reward_adapter={folder}: {one_line(error)}"
        ) from error
    policy = model_args.model_name_or_path
    if not model_args.use_peft and not (policy and (Path(policy) / "adapter_config.json").is_file()):
        raise UsageError(
            f"reward_adapter={folder} stands beside the policy's adapter, and the policy has none. Add use_peft, or "
            "give the folder as reward_model_name_or_path instead."
        )


def _check_model(script_args: Any, field: str, name: str, revision: str) -> None:
    remark = check_model(field, name, revision, needed=not script_args.dry_run)
    if remark is not None:
        script_args.notes.append(remark)


def _check_preferences(data: Data, rewards: bool) -> None:
    try:
        for split, rows in (("train", data.train), ("eval", data.evaluation)):
            if rows is not None:
                checked_preferences(rows, split, tokenized=rewards, margins=rewards)
    except ValueError as error:
        raise own_refusal(error) from error


def _can_read_data(arguments: Arguments) -> bool:
    """Checks the dataset's name; returns whether its rows can be read now, since a dry run downloads nothing."""
    script_args, dataset_args = arguments.script_args, arguments.dataset_args
    name = script_args.dataset_name
    if dataset_args.datasets:
        readable = not script_args.dry_run or are_local(dataset_args)
    elif named(script_args, dataset_args):
        return can_read_named(script_args)
    else:
        check_dataset_name(str(name))
        readable = Path(str(name)).exists() or not script_args.dry_run
    if not readable:
        what = "datasets" if dataset_args.datasets else f"dataset_name={name}"
        script_args.notes.append(f"{what} was not read: a dry run downloads nothing")
    return readable
