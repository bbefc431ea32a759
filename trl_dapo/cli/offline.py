"""
What `trl-dapo reward` and `trl-dapo dpo` share: arguments, checks before anything is loaded, the built-in preferences.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from accelerate.logging import get_logger
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, get_peft_config, get_quantization_config

from trl_dapo.host.preference_rows import checked_preferences

from .arena_run import check_not_quantized, is_arena_run, settle_arena_run
from .arguments import Arguments, CommandParser
from .config_file import read_config_file, split_config_flag
from .data import load_splits
from .errors import UsageError, one_line, report
from .hub import check_dataset_name, check_model
from .preflight import asked_checkpoint


logger = get_logger(__name__)

TRAINING_ROWS = 8192
EVALUATION_ROWS = 256

# On the CPU; each gives way to what the user gave
SETTINGS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 128,
    "lr_scheduler_type": "constant",
    "logging_steps": 10.0,
    "save_strategy": "no",
}


@dataclass
class PreferenceScriptArguments(ScriptArguments):
    """
    What the scripts need besides the configs of model and training.

    Args:
        dry_run (`bool`, *optional*, defaults to `False`):
            Print the resolved config, and stop.

    Attributes:
        notes (`list[str]`): one line for each default that gave way to what the user gave.
    """

    dry_run: bool = field(default=False, metadata={"help": "Print the resolved config, and stop."})
    notes: list[str] = field(default_factory=list, init=False)


class PreferenceParser(CommandParser):
    """
    The parser of `trl-dapo reward` and `trl-dapo dpo`.

    Attributes:
        arena_settings (`dict[str, Any]`): fields of a run where neither a model nor a dataset is named.
    """

    arena_settings: dict[str, Any] = SETTINGS

    def _settle(self, values: dict[str, Any], given: set[str]) -> None:
        if is_arena_run(values):
            settle_arena_run(values, given, self.arena_settings)


def preference_parser(config: type, settings: dict[str, Any], prog: str | None) -> PreferenceParser:
    """Returns the parser for a config of training, with settings of its own for the built-in task."""
    parser = PreferenceParser((PreferenceScriptArguments, config, ModelConfig, DatasetMixtureConfig), prog=prog)
    parser.arena_settings = {**SETTINGS, **settings}
    return parser


def preflight(arguments: Arguments) -> None:
    """Raises [`UsageError`] for the first thing that cannot work, before a model is loaded."""
    script_args, training_args, model_args, dataset_args = arguments
    asked_checkpoint(training_args)
    if model_args.model_name_or_path is None:
        check_not_quantized(model_args)
        return
    check_model("model_name_or_path", model_args.model_name_or_path, model_args.model_revision)
    name = script_args.dataset_name
    if name is not None and not dataset_args.datasets:
        check_dataset_name(name)
        if script_args.dry_run and not Path(name).is_dir():
            # A dry run downloads nothing
            return
    data = load_splits(script_args, training_args, dataset_args)
    try:
        for split, rows in (("train", data.train), ("eval", data.evaluation)):
            if rows is not None:
                checked_preferences(rows, split, tokenized=True)
    except ValueError as error:
        raise UsageError(one_line(error)) from error


def trainer_arguments(arguments: Arguments, arena: Callable[[], tuple[Any, Any]]) -> dict[str, Any]:
    """
    Returns what the constructors of both trainers take: the built-in task or what is named.

    Args:
        arguments ([`Arguments`]):
            As parsed.
        arena (`Callable`):
            Gives the built-in model and its tokenizer.
    """
    script_args, training_args, model_args, dataset_args = arguments
    if model_args.model_name_or_path is None:
        from trl_dapo.arena import preference_dataset

        evaluation = None
        if training_args.eval_strategy != "no":
            evaluation = preference_dataset(EVALUATION_ROWS, split="held_out")
        model, tokenizer = arena()
        train = preference_dataset(TRAINING_ROWS)
    else:
        data = load_splits(script_args, training_args, dataset_args)
        model, tokenizer, train, evaluation = model_args.model_name_or_path, None, data.train, data.evaluation
        training_args.model_init_kwargs = {
            "revision": model_args.model_revision,
            "attn_implementation": model_args.attn_implementation,
            "dtype": model_args.dtype,
            **cast(dict, training_args.model_init_kwargs or {}),
        }
    return {
        "model": model,
        "args": training_args,
        "train_dataset": train,
        "eval_dataset": evaluation,
        "processing_class": tokenizer,
        "quantization_config": get_quantization_config(model_args),
        "peft_config": get_peft_config(model_args),
    }


def constructed(trainer: type, **kwargs: Any) -> Any:
    """Returns the trainer. What it refuses is the user's to mend, and leaves no folder behind."""
    output_dir = Path(str(kwargs["args"].output_dir))
    existed = output_dir.exists()
    try:
        return trainer(**kwargs)
    except (ValueError, NotImplementedError, ImportError, OSError) as error:
        logger.debug("The trainer was not constructed.", exc_info=True)
        if not existed:
            with suppress(OSError):
                output_dir.rmdir()
        raise UsageError(one_line(error)) from error


def train_and_save(trainer: Any, script_args: PreferenceScriptArguments) -> None:
    """Trains, resumed where the config asks for it, and saves the model to `output_dir`."""
    trainer.train(resume_from_checkpoint=asked_checkpoint(trainer.args))
    trainer.accelerator.print("Training completed.")
    trainer.save_model(trainer.args.output_dir)
    trainer.accelerator.print(f"Model saved to {trainer.args.output_dir}.")
    if trainer.args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
        trainer.accelerator.print(f"Model pushed to https://huggingface.co/{trainer.hub_model_id}.")
    # Finishes the trackers and leaves the process group
    trainer.accelerator.end_training()


def run_script(argv: list[str], parser: CommandParser, main: Callable[..., None]) -> int:
    """Parses, trains, and returns the exit code: 0, or 2 with one line on stderr. A crash travels."""
    argv = split_config_flag(argv)
    try:
        read_config_file(argv)
        unknown = parser.unknown_words(argv)[1]
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        main(*parser.parse(argv))
    except UsageError as error:
        return report(error)
    return 0
