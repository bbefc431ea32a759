"""
The training script of DPO: what `trl-dapo dpo` starts in each process, in the shape of TRL's own scripts.

It can be started without the command as well: `accelerate launch -m trl_dapo.cli.dpo --config run.yaml`.
"""

import sys

import torch
from trl import DatasetMixtureConfig, ModelConfig
from trl import DPOConfig as HostConfig

from trl_dapo.arena import load_warm_start
from trl_dapo.cli import offline as preferences
from trl_dapo.cli.arguments import Arguments
from trl_dapo.cli.dry_run import print_config
from trl_dapo.cli.offline import PreferenceParser, PreferenceScriptArguments, preflight
from trl_dapo.dpo.config import DPOConfig
from trl_dapo.dpo.trainer import DPOTrainer


__all__ = ["main", "make_parser", "preflight", "print_dry_run"]

SETTINGS = {"output_dir": "arena-DPO", "learning_rate": 3e-4, "max_steps": 100, "max_length": 256}


def main(
    script_args: PreferenceScriptArguments,
    training_args: DPOConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
) -> None:
    """Trains and saves. What the arguments get wrong is a [`UsageError`], raised before anything is trained."""
    arguments = Arguments(script_args, training_args, model_args, dataset_args)
    kwargs = preferences.trainer_arguments(arguments, load_warm_start)
    if model_args.model_name_or_path is None and not (training_args.reference_free or model_args.use_peft):
        # TRL loads a reference by the model's name, and the built-in model has none that can be loaded
        kwargs["ref_model"] = load_warm_start()[0]
    trainer = preferences.constructed(DPOTrainer, **kwargs)
    if script_args.ignore_bias_buffers:
        trainer.model._ddp_params_and_buffers_to_ignore = [
            name for name, buffer in trainer.model.named_buffers() if buffer.dtype == torch.bool
        ]
    preferences.train_and_save(trainer, script_args)


def make_parser(prog: str | None = None) -> PreferenceParser:
    """Returns the parser of the script's arguments; `prog` is the name of the program in its help."""
    return preferences.preference_parser(DPOConfig, SETTINGS, prog)


def print_dry_run(arguments: Arguments) -> None:
    """Prints the run as it would be."""
    print_config(arguments, HostConfig)


if __name__ == "__main__":
    sys.exit(preferences.run_script(sys.argv[1:], make_parser(), main))
