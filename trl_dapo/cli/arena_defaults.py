"""
What each command fills in when neither a model nor a dataset is named: a short run on the arena, on a CPU.

A field that the user set is never changed.
"""

from collections.abc import Mapping, Set
from typing import Any

from trl_dapo.arena.settings import CPU_FIELDS, GENERATIONS, LEARNING_RATE, PROMPTS, ROLLOUT_FIELDS, UPDATES

from .errors import UsageError


ROLLOUTS = 6

ONLINE: dict[str, Any] = {
    **CPU_FIELDS,
    **ROLLOUT_FIELDS,
    "reward_funcs": ["arena_accuracy"],
    "per_device_eval_batch_size": PROMPTS * GENERATIONS,
    "learning_rate": LEARNING_RATE,
    "max_steps": ROLLOUTS * UPDATES,
    "logging_steps": float(UPDATES),
    "save_strategy": "no",
}
DAPO: dict[str, Any] = {
    **ONLINE,
    "output_dir": "arena-DAPO",
    "updates_per_rollout": UPDATES,
    # The paper warms up for 20 rollouts, longer than this whole run
    "warmup_steps": float(UPDATES),
}
# As in the demo
ABLATION: dict[str, Any] = {**DAPO, "adam_beta2": 0.99}
GRPO: dict[str, Any] = {
    **ONLINE,
    "output_dir": "arena-GRPO",
    "steps_per_generation": UPDATES,
    "lr_scheduler_type": "constant",
}
PPO: dict[str, Any] = {
    **GRPO,
    "output_dir": "arena-PPO",
    # The built-in model has no name from which a reference could be loaded; with LoRA, the base is the reference
    "use_peft": True,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_target_modules": ["all-linear"],
    "num_generations": 1,
    "num_iterations": 1,
    "learning_rate": 1e-3,
    "critic_learning_rate": 3e-3,
    "max_steps": 96,
}

OFFLINE: dict[str, Any] = {
    **CPU_FIELDS,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 128,
    "lr_scheduler_type": "constant",
    "logging_steps": 10.0,
    "save_strategy": "no",
    "max_length": 256,
}
REWARD: dict[str, Any] = {**OFFLINE, "output_dir": "arena-reward", "learning_rate": 1e-3, "max_steps": 300}
DPO: dict[str, Any] = {**OFFLINE, "output_dir": "arena-DPO", "learning_rate": 3e-4, "max_steps": 100}

# A default is also left out when the user set a field that says the same in another way
YIELDS_TO = {
    "updates_per_rollout": ("steps_per_generation", "generation_batch_size"),
    "steps_per_generation": ("generation_batch_size",),
    "max_steps": ("num_train_epochs",),
    "gradient_checkpointing": ("activation_checkpointing",),
    "reward_funcs": ("reward_model_name_or_path", "reward_adapter"),
    "bf16": ("fp16",),
    "save_strategy": ("save_steps",),
}


def is_arena_run(values: dict[str, Any]) -> bool:
    """
    Returns whether neither a model nor a dataset is named.

    Raises:
        [`UsageError`]: If only one of the two is named.
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


def fill_in(values: dict[str, Any], given: Set[str], defaults: Mapping[str, Any]) -> None:
    """Writes `defaults` into `values`, except where the user set the field or one that says the same."""
    for name, default in defaults.items():
        if not {name, *YIELDS_TO.get(name, ())} & given:
            values[name] = default


def _short(dataset: Any) -> str:
    return dataset if isinstance(dataset, str) else "mixture"
