"""
What can be checked before processes are started and a model is loaded.
"""

from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from trl_dapo.grpo.config import GRPOConfig
from trl_dapo.host.checkpoints import choose, read_state
from trl_dapo.host.unfinished import only_unfinished

from .arena_run import check_arena_run
from .arguments import Arguments
from .data import column_names, load_data
from .errors import UsageError, one_line
from .hub import check_dataset_name, check_model
from .reward_names import HOST_REWARDS, check_columns, check_reward_names, reward_functions


def preflight(arguments: Arguments) -> None:
    """Raises [`UsageError`] for the first thing that cannot work. User code is not imported, no model loaded."""
    script_args, training_args, model_args, _ = arguments
    check_reward_names(script_args.reward_funcs or [])
    if not script_args.reward_funcs and not script_args.reward_model_name_or_path:
        raise UsageError(
            "reward_funcs is missing: nothing scores the completions. Give reward_funcs (accuracy_reward, for "
            "instance, or a dotted import path) or reward_model_name_or_path."
        )
    if script_args.reward_model_name_or_path:
        check_model("reward_model_name_or_path", script_args.reward_model_name_or_path, "main")
    checkpoint(training_args)
    if model_args.model_name_or_path is None:
        check_arena_run(training_args, model_args)
    else:
        check_model("model_name_or_path", model_args.model_name_or_path, model_args.model_revision)
        _check_data(arguments)


def checkpoint(args: GRPOConfig) -> Any:
    """Returns the checkpoint to resume from: a folder, `True` for the last one in `output_dir`, or `None`."""
    asked = asked_checkpoint(args)
    if asked and not (asked is True and only_unfinished(Path(str(args.output_dir)))):
        try:
            read_state(choose(str(get_last_checkpoint(args.output_dir) if asked is True else asked))[0])
        except ValueError as error:
            raise UsageError(one_line(error)) from error
    return asked


def asked_checkpoint(args: TrainingArguments) -> Any:
    """Returns what [`checkpoint`] returns, whichever trainer wrote it."""
    asked: Any = args.resume_from_checkpoint
    if isinstance(asked, str) and asked.lower() in ("true", "false"):
        # The command line gives words
        asked = asked.lower() == "true"
    if asked is True:
        folder = Path(str(args.output_dir))
        if not folder.is_dir() or not (get_last_checkpoint(str(folder)) or only_unfinished(folder)):
            raise UsageError(f"resume_from_checkpoint=True: there is no checkpoint in output_dir={args.output_dir}.")
    elif asked and not Path(asked).is_dir():
        raise UsageError(f"resume_from_checkpoint={asked}: there is no such folder.")
    return asked or None


def _check_data(arguments: Arguments) -> None:
    script_args, training_args, _, dataset_args = arguments
    name = script_args.dataset_name
    if name is not None and not dataset_args.datasets:
        check_dataset_name(name)
        if script_args.dry_run and not Path(name).is_dir():
            # A dry run downloads nothing
            return
    data = load_data(script_args, training_args, dataset_args)
    hosts = [name for name in script_args.reward_funcs or [] if name in HOST_REWARDS]
    check_columns(reward_functions(hosts, training_args), column_names(data.train))
