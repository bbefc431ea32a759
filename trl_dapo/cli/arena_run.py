"""
What runs where neither a model nor a dataset is named: the arena, with settings for a CPU.

Each setting gives way to what the user gave.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from trl import ModelConfig

from trl_dapo.grpo.config import GRPOConfig

from .errors import UsageError


PROMPTS = 16
GENERATIONS = 8
UPDATES = 8
ROLLOUTS = 6
TRAINING_ROWS = 4096
EVALUATION_ROWS = 128

SETTINGS: dict[str, Any] = {
    "output_dir": "arena-DAPO",
    "reward_funcs": ["arena_accuracy"],
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "num_generations": GENERATIONS,
    "per_device_train_batch_size": PROMPTS * GENERATIONS // UPDATES,
    "per_device_eval_batch_size": PROMPTS * GENERATIONS,
    "updates_per_rollout": UPDATES,
    "max_completion_length": 40,
    "learning_rate": 2e-4,
    # The paper's 20 rollouts are more than the whole run
    "warmup_steps": float(UPDATES),
    "max_steps": ROLLOUTS * UPDATES,
    "logging_steps": float(UPDATES),
    "save_strategy": "no",
}

# Fields that say the same in another way
STANDS_BACK_FOR = {
    "updates_per_rollout": ("steps_per_generation", "generation_batch_size"),
    "steps_per_generation": ("generation_batch_size",),
    "max_steps": ("num_train_epochs",),
    "gradient_checkpointing": ("activation_checkpointing",),
    "reward_funcs": ("reward_model_name_or_path",),
    "bf16": ("fp16",),
}


@dataclass(frozen=True)
class ArenaRun:
    """Model, tokenizer and datasets of a run on the arena."""

    model: Any
    tokenizer: Any
    train_dataset: Any
    eval_dataset: Any


def is_arena_run(values: dict[str, Any]) -> bool:
    """
    Returns whether neither a model nor a dataset is named.

    Raises:
        [`UsageError`]: Where only one of them is.
    """
    model = values["model_name_or_path"]
    dataset = values["datasets"] or values["dataset_name"]
    if model and not dataset:
        raise UsageError(
            f"dataset_name is missing: model_name_or_path={model} is given without a dataset. Give dataset_name (or "
            "`datasets` in a YAML file), or leave out both for the built-in task."
        )
    if dataset and not model:
        raise UsageError(
            f"model_name_or_path is missing: the dataset {_short(dataset)} is given without a model. Give "
            "model_name_or_path, or leave out both for the built-in task."
        )
    return not model


def settle_arena_run(values: dict[str, Any], given: Set[str], settings: dict[str, Any] = SETTINGS) -> None:
    """Gives `values` the arena's settings where the user gave none of his own."""
    for name, setting in settings.items():
        if not {name, *STANDS_BACK_FOR.get(name, ())} & given:
            values[name] = setting


def check_arena_run(args: GRPOConfig, model_args: ModelConfig) -> None:
    """Raises [`UsageError`] for what needs a model that can be loaded by its name."""
    if args.beta != 0.0 and not model_args.use_peft:
        raise UsageError(
            f"beta={args.beta} needs a reference model, which is loaded by name, and the built-in model has none. "
            "Set beta to 0, add --use_peft, or give model_name_or_path and dataset_name."
        )
    check_not_quantized(model_args)


def check_not_quantized(model_args: ModelConfig) -> None:
    """Raises [`UsageError`] where the built-in model would be quantized."""
    for name in ("load_in_4bit", "load_in_8bit"):
        if getattr(model_args, name):
            raise UsageError(
                f"{name}=True has no effect on the built-in model, which is not loaded from a checkpoint. Leave it "
                "out, or give model_name_or_path and dataset_name."
            )


def arena_run(args: GRPOConfig) -> ArenaRun:
    """Returns the warm start and the arena's datasets; prompts of evaluation are never trained on."""
    from trl_dapo.arena import held_out_dataset, load_warm_start, train_dataset

    model, tokenizer = load_warm_start()
    evaluation = held_out_dataset(EVALUATION_ROWS) if args.eval_strategy != "no" else None
    return ArenaRun(model, tokenizer, train_dataset(TRAINING_ROWS), evaluation)


def _short(dataset: Any) -> str:
    return dataset if isinstance(dataset, str) else "mixture"
