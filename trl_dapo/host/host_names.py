"""
What the package uses of TRL, transformers and accelerate without a promise from them, and the tested releases.

Tables only, read by `compat`, which compares them with what is installed. A private name of the host that is used
anywhere in the package has an entry here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TestedRange:
    """
    Releases of one dependency that the package accepts.

    Args:
        specifier (`str`):
            The range, as `pyproject.toml` declares it. It ends before the next major release.
        lowest (`str`):
            Oldest release that the tests of trainers, checkpoints and adapters passed with.
        highest (`str`):
            Newest release that the tests pass with.
    """

    specifier: str
    lowest: str
    highest: str


# Ranges go on to the next major release. TRL has a new minor about every 12 days, and each of its stable trainers
# deprecates what it changes until 2.0; a range that ended at the newest tested minor would make pip take an older TRL
# than the one that is installed. What may change without notice is the names below, and these are compared with the
# installed release whenever a trainer is made. PEFT's range ends at its first major release, which is still to come.
TESTED = {
    "trl": TestedRange(">=1.12,<2", "1.12.0", "1.16.0"),
    "transformers": TestedRange(">=5.18,<6", "5.18.0", "5.24.0"),
    "accelerate": TestedRange(">=1.10.1,<2", "1.10.1", "1.15.0"),
    "datasets": TestedRange(">=4.7,<6", "4.7.0", "5.2.0"),
    "peft": TestedRange(">=0.21,<1", "0.21.0", "0.21.2"),
}


@dataclass(frozen=True)
class Arguments:
    """Arguments that a method must accept: by position, then by keyword."""

    positional: tuple[str, ...]
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True)
class Names:
    """
    What is used of one class.

    Args:
        overridden (`Mapping[str, tuple[str, ...]]`, *optional*):
            Methods that a subclass overrides, with their exact parameters in order.
        called (`Mapping[str, Arguments]`, *optional*):
            Methods that are called or replaced, with the arguments that they must accept.
        attributes (`tuple[str, ...]`, *optional*):
            Attributes that the class assigns on `self`.
        defined (`tuple[str, ...]`, *optional*):
            Class attributes and properties that a subclass sets anew.
    """

    overridden: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    called: Mapping[str, Arguments] = field(default_factory=dict)
    attributes: tuple[str, ...] = ()
    defined: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------ what TRL's trainers define

GRPO = Names(
    overridden={
        "__init__": (
            "self",
            "model",
            "reward_funcs",
            "args",
            "train_dataset",
            "eval_dataset",
            "processing_class",
            "reward_processing_classes",
            "callbacks",
            "optimizers",
            "quantization_config",
            "peft_config",
            "tools",
            "rollout_func",
            "environment_factory",
        ),
        "_generate": ("self", "prompts"),
        "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
        "_generate_and_score_completions": ("self", "inputs"),
        "_prepare_inputs": ("self", "generation_batch"),
        "_compute_loss": ("self", "model", "inputs"),
        "training_step": ("self", "model", "inputs", "num_items_in_batch"),
        "log": ("self", "logs", "start_time"),
        "_save_checkpoint": ("self", "model", "trial"),
        "_load_optimizer_and_scheduler": ("self", "checkpoint"),
    },
    called={
        # TRL 1.14 spells this one `(model, *args, batch_size, compute_aux_loss, **kwargs)`
        "_get_per_token_logps_and_entropies": Arguments(
            ("self", "model", "input_ids", "attention_mask", "logits_to_keep"),
            ("batch_size", "compute_entropy", "compute_aux_loss"),
        ),
        "get_train_dataloader": Arguments(("self",)),
    },
    attributes=(
        "_buffered_inputs",
        "_current_train_step_time",
        "_environment_pool",
        "_is_vlm",
        "_logs",
        "_metrics",
        "_multi_environment",
        "_pending_extra_logs",
        "_pending_metrics",
        "_step",
        "_tokenizer",
        "aux_loss_enabled",
        "beta",
        "environment_factories",
        "environments",
        "eos_token_ids",
        "generation_config",
        "generation_kwargs",
        "log_completions",
        "loss_type",
        "mask_truncated_completions",
        "max_completion_length",
        "num_generations",
        "num_generations_eval",
        "num_iterations",
        "pad_to_multiple_of",
        "reward_func_names",
        "reward_funcs",
        "reward_processing_classes",
        "reward_weights",
        "rollout_func",
        "shuffle_dataset",
        "tools",
        "use_vllm",
        "vllm_generation",
        "vllm_importance_sampling_correction",
    ),
    defined=("_name", "_paper", "_tag_names"),
)

REWARD = Names(
    overridden={
        "__init__": (
            "self",
            "model",
            "args",
            "data_collator",
            "train_dataset",
            "eval_dataset",
            "processing_class",
            "compute_metrics",
            "callbacks",
            "optimizers",
            "optimizer_cls_and_kwargs",
            "preprocess_logits_for_metrics",
            "quantization_config",
            "peft_config",
        ),
        "_prepare_dataset": ("self", "dataset", "processing_class", "args", "dataset_name"),
        "compute_loss": ("self", "model", "inputs", "return_outputs", "num_items_in_batch"),
        "log": ("self", "logs", "start_time"),
        "_save_checkpoint": ("self", "model", "trial"),
    },
    attributes=("_metrics",),
)

DPO = Names(
    overridden={
        "__init__": (
            "self",
            "model",
            "ref_model",
            "args",
            "data_collator",
            "train_dataset",
            "eval_dataset",
            "processing_class",
            "compute_metrics",
            "callbacks",
            "optimizers",
            "quantization_config",
            "peft_config",
        ),
        "_prepare_dataset": ("self", "dataset", "processing_class", "args", "dataset_name"),
        "_precompute_ref_logps": ("self", "dataset", "name", "batch_size"),
        "compute_loss": ("self", "model", "inputs", "return_outputs", "num_items_in_batch"),
        "_save_checkpoint": ("self", "model", "trial"),
    },
    attributes=("_metrics", "_precompute_model_hash", "precompute_ref_logps"),
)

# What an evaluation during training generates with
_GENERATION = ("generation_config", "generation_kwargs", "num_generations_eval", "use_vllm", "vllm_generation")

RLOO = Names(
    called={"_generate": Arguments(("self", "prompts"))},
    attributes=("_metrics", "_tokenizer", "eos_token_ids", *_GENERATION),
)

TRAINERS = {"GRPOTrainer": GRPO, "RewardTrainer": REWARD, "DPOTrainer": DPO, "RLOOTrainer": RLOO}

# Those that generate
ONLINE = ("GRPOTrainer", "RLOOTrainer")

# The first TRL release that has an attribute, where the oldest supported one has not. Before 1.14.2, GRPOTrainer knew
# one end token, the tokenizer's.
FIRST_RELEASE = {"eos_token_ids": "1.14.2", "_precompute_model_hash": "1.14.2"}

# Releases whose trainers of these names have no log-probabilities without Triton, which the CPU builds of torch lack.
# TRL's own fail there too, in the first step
NEEDS_TRITON = "==1.15.*"
WITH_TRITON = ("GRPOTrainer", "DPOTrainer", "RLOOTrainer")

# ------------------------------------------------------------------- what TRL's trainers inherit from transformers

# Of the methods that save and load, for every trainer
_CHECKPOINTS = {
    "train": ("self", "resume_from_checkpoint", "trial", "ignore_keys_for_eval"),
    "_run_epoch": (
        "self",
        "model",
        "epoch",
        "train_dataloader",
        "steps_in_epoch",
        "num_update_steps_per_epoch",
        "trial",
        "ignore_keys_for_eval",
        "start_time",
        "resume_from_checkpoint",
        "epochs_trained",
        "steps_trained_in_current_epoch",
    ),
    "_save": ("self", "output_dir", "state_dict"),
    "_save_rng_state": ("self", "output_dir"),
    "_load_from_checkpoint": ("self", "resume_from_checkpoint", "model"),
    "_load_best_model": ("self",),
}

INHERITED = {
    "GRPOTrainer": Names(
        overridden={
            **_CHECKPOINTS,
            "create_optimizer": ("self", "model"),
            "_get_dataloader": (
                "self",
                "dataset",
                "description",
                "batch_size",
                "sampler_fn",
                "is_training",
                "dataloader_key",
            ),
        },
        called={
            "_remove_unused_columns": Arguments(("self", "dataset", "description")),
            "_get_output_dir": Arguments(("self",), ("trial",)),
        },
        attributes=(
            "_globalstep_last_logged",
            "_tr_loss",
            "current_gradient_accumulation_steps",
            "is_deepspeed_enabled",
            "is_fsdp_enabled",
        ),
    ),
    "RewardTrainer": Names(
        overridden=_CHECKPOINTS,
        called={"_get_output_dir": Arguments(("self",), ("trial",))},
    ),
    "DPOTrainer": Names(overridden=_CHECKPOINTS, called={"_get_output_dir": Arguments(("self",), ("trial",))}),
    "RLOOTrainer": Names(called={"log": Arguments(("self", "logs"))}),
}

# ------------------------------------------------------------------------------ what is used of other classes

OTHER_CLASSES = {
    "accelerate.state.GradientState": Names(
        called={"_set_sync_gradients": Arguments(("self", "sync_gradients"))},
    ),
    # Called in place of GRPOTrainer's, which counts a step of its own
    "transformers.trainer.Trainer": Names(
        called={"training_step": Arguments(("self", "model", "inputs", "num_items_in_batch"))},
    ),
    "trl.trainer.base_trainer._BaseTrainer": Names(
        overridden={"create_model_card": ("self", "model_name", "dataset_name", "tags")},
    ),
    # Replaced while an adapter is saved: its card says nothing, and is written into that of a person
    "peft.peft_model.PeftModel": Names(called={"create_or_update_model_card": Arguments(("self", "output_dir"))}),
    "transformers.integrations.peft.PeftAdapterMixin": Names(attributes=("_hf_peft_config_loaded",)),
    "transformers.training_args.TrainingArguments": Names(
        attributes=("_n_gpu", "distributed_state"),
        defined=("_setup_devices",),
    ),
    "trl.generation.vllm_generation.VLLMGeneration": Names(
        overridden={"_init_vllm": ("self",), "_iter_named_params": ("self",), "sync_weights": ("self",)},
        attributes=("_llm_weights_sleeping", "enable_sleep_mode", "llm"),
    ),
    "trl.trainer.utils.RepeatSampler": Names(attributes=("generator", "num_samples", "shuffle")),
}

# Functions that a plan of memory replaces to count as on a GPU; they return nothing. Older releases have no
# such module, and no plan.
HEAD_MODULE = "trl.kernels.chunked_logprob"
HEAD_TILES = ("_forward_tile", "_backward_tile", "_addmm_fp32")
# Tokens of a tile
HEAD_TILE_ROWS = "TOKEN_CHUNK_SIZE"

# ----------------------------------------------------------------------- how values pass between the methods of GRPO

# The names that a method's `return` gives, in order
RETURNED = {
    "_generate": (
        "prompt_ids",
        "completion_ids",
        "tool_mask",
        "completions",
        "logprobs",
        "extra_fields",
        "images",
        "tool_images",
    ),
}

# How many values each caller unpacks, so a replacement has to return as many
UNPACKED = {"_generate": 8, "_get_per_token_logps_and_entropies": 3}

# What one scoring pass calls, in order and once each: a replayed batch passes through both
SCORING_CALLS = ("_generate", "_calculate_rewards")

# What `get_train_dataloader` passes to `_get_dataloader`, by keyword; `None` stands for any value
DATALOADER_KEYWORDS = {
    "dataset": None,
    "description": None,
    "sampler_fn": "self._get_train_sampler",
    "is_training": "True",
}

# What DPO's loss gathers from all processes as rows, in order; TRL keeps only their means
DPO_GATHERED = ("chosen_rewards", "rejected_rewards", "reward_accuracies", "margins", "chosen_logps", "rejected_logps")
