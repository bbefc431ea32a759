"""
The base of an adapter on the built-in model: written beside the run, so that the adapter can be loaded again.
"""

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers.generation import GenerationMixin

from trl_dapo import arena

from .arena_defaults import is_arena_run
from .arguments import Arguments


FOLDER = "base"


def keep_base(trainer: Any, arguments: Arguments) -> None:
    """
    Saves the built-in model into `output_dir/base` where a policy is an adapter on it, and names it in the adapter.

    An adapter's folder names its base, and the built-in model is none that a name leads to.
    """
    policy = trainer.model
    if not (_is_built_in(arguments) and isinstance(policy, PeftModel)):
        return
    # A reward model has another head
    if not isinstance(policy.get_base_model(), GenerationMixin):
        return
    folder = Path(str(trainer.args.output_dir)) / FOLDER
    if trainer.accelerator.is_main_process:
        for part in arena.load_warm_start():
            part.save_pretrained(folder)
    for config in policy.peft_config.values():
        config.base_model_name_or_path = str(folder)


def _is_built_in(arguments: Arguments) -> bool:
    script_args, _, model_args, dataset_args = arguments
    named = {"model_name_or_path": model_args.model_name_or_path, "dataset_name": script_args.dataset_name}
    return is_arena_run({**named, "datasets": dataset_args.datasets})
