"""
The arena as the commands use it: what it cannot do, and its models and datasets.
"""

from typing import Any

from trl import ModelConfig

from trl_dapo import arena
from trl_dapo.arena.settings import TRAINING_PROMPTS
from trl_dapo.grpo.config import GRPOConfig

from .errors import UsageError
from .source import Source


TRAINING_PAIRS = 8192
EVALUATION_PROMPTS = 128
EVALUATION_PAIRS = 256


def check_no_reference(args: GRPOConfig, model_args: ModelConfig) -> None:
    """Raises [`UsageError`] if a reference model is needed: it is loaded by name, and the built-in model has none."""
    if args.beta != 0.0 and not model_args.use_peft:
        raise UsageError(
            f"beta={args.beta} needs a reference model, which is loaded by name, and the built-in model has none. "
            "Set beta to 0, add --use_peft, or give model_name_or_path and dataset_name."
        )


def check_not_quantized(model_args: ModelConfig) -> None:
    """Raises [`UsageError`] if the built-in model would have to be quantized."""
    for name in ("load_in_4bit", "load_in_8bit"):
        if getattr(model_args, name):
            raise UsageError(
                f"{name}=True has no effect on the built-in model, which is not loaded from a checkpoint. Leave it "
                "out, or give model_name_or_path and dataset_name."
            )


def problems(training_args: Any) -> Source:
    """Returns the warm start and problems to solve; evaluation uses held-out ones."""
    model, tokenizer = arena.load_warm_start()
    evaluation = arena.held_out_dataset(EVALUATION_PROMPTS) if training_args.eval_strategy != "no" else None
    return Source(model, tokenizer, arena.train_dataset(TRAINING_PROMPTS), evaluation)


def pairs(training_args: Any, start: tuple[Any, Any]) -> Source:
    """Returns a model with its tokenizer, `start`, and the arena's preferences; evaluation uses held-out ones."""
    evaluation = None
    if training_args.eval_strategy != "no":
        evaluation = arena.preference_dataset(EVALUATION_PAIRS, split="held_out")
    return Source(*start, arena.preference_dataset(TRAINING_PAIRS), evaluation)
