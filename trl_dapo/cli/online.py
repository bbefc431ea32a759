"""
What `trl-dapo grpo` and `trl-dapo ppo` share, and `trl-dapo dapo` in part: arguments, and what a trainer is built of.
"""

from typing import Any, cast

from accelerate.logging import get_logger
from trl import DatasetMixtureConfig, ModelConfig, get_peft_config, get_quantization_config

from .arena_run import SETTINGS, arena_run, check_arena_run, is_arena_run, settle_arena_run
from .arguments import Arguments, CommandParser, DAPOScriptArguments
from .check_batch import check_batch
from .data import column_names, load_data
from .offline import constructed
from .preflight import checkpoint
from .reward_names import check_columns, reward_functions


logger = get_logger(__name__)

# Fields of DAPO alone, and the size of a rollout in TRL's words
ARENA_SETTINGS: dict[str, Any] = {
    **{name: value for name, value in SETTINGS.items() if name not in ("updates_per_rollout", "warmup_steps")},
    "steps_per_generation": SETTINGS["updates_per_rollout"],
    "lr_scheduler_type": "constant",
}


class OnlineParser(CommandParser):
    """
    The parser of `trl-dapo grpo` and `trl-dapo ppo`.

    Attributes:
        arena_settings (`dict[str, Any]`): fields of a run where neither a model nor a dataset is named.
    """

    arena_settings: dict[str, Any] = ARENA_SETTINGS

    def _settle(self, values: dict[str, Any], given: set[str]) -> None:
        if isinstance(values["reward_funcs"], str):
            # A single name in a file
            values["reward_funcs"] = [values["reward_funcs"]]
        if is_arena_run(values):
            settle_arena_run(values, given, self.arena_settings)
        check_batch(values, self.processes)


def online_parser(config: type, settings: dict[str, Any], prog: str | None) -> OnlineParser:
    """Returns the parser for a config of training, with settings of its own for the built-in task."""
    parser = OnlineParser((DAPOScriptArguments, config, ModelConfig, DatasetMixtureConfig), prog=prog)
    parser.arena_settings = {**ARENA_SETTINGS, **settings}
    return parser


def trainer_arguments(arguments: Arguments) -> dict[str, Any]:
    """Returns what the constructors of online trainers take: the built-in task, or what is named."""
    script_args, training_args, model_args, dataset_args = arguments
    rewards: list = reward_functions(script_args.reward_funcs or [], training_args)
    if model_args.model_name_or_path is None:
        check_arena_run(training_args, model_args)
        arena = arena_run(training_args)
        model, tokenizer, train, evaluation = arena.model, arena.tokenizer, arena.train_dataset, arena.eval_dataset
    else:
        data = load_data(script_args, training_args, dataset_args)
        model, tokenizer, train, evaluation = model_args.model_name_or_path, None, data.train, data.evaluation
        training_args.model_init_kwargs = _model_init_kwargs(training_args, model_args)
    check_columns(rewards, column_names(train))
    if script_args.reward_model_name_or_path:
        rewards.insert(0, script_args.reward_model_name_or_path)
    return {
        "model": model,
        "reward_funcs": rewards,
        "train_dataset": train,
        "eval_dataset": evaluation,
        "processing_class": tokenizer,
        "quantization_config": get_quantization_config(model_args),
        "peft_config": get_peft_config(model_args),
    }


def train(trainer_class: type, arguments: Arguments) -> None:
    """Builds a trainer, trains, and saves to `output_dir`."""
    resume_from = checkpoint(arguments.training_args)
    trainer = constructed(trainer_class, args=arguments.training_args, **trainer_arguments(arguments))
    train_and_save(trainer, arguments.script_args, resume_from)


def train_and_save(trainer: Any, script_args: DAPOScriptArguments, resume_from: Any) -> None:
    """Trains, resumed where that is asked for, and saves the model to `output_dir`."""
    trainer.train(resume_from_checkpoint=resume_from)
    trainer.accelerator.print("Training completed.")
    trainer.save_model(trainer.args.output_dir)
    trainer.accelerator.print(f"Model saved to {trainer.args.output_dir}.")
    if trainer.args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
        trainer.accelerator.print(f"Model pushed to https://huggingface.co/{trainer.hub_model_id}.")
    # Finishes the trackers and leaves the process group
    trainer.accelerator.end_training()


def _model_init_kwargs(training_args: Any, model_args: ModelConfig) -> dict[str, Any]:
    return {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **cast(dict, training_args.model_init_kwargs or {}),
    }
