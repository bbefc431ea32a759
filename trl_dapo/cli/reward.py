"""
The training script of reward models: what `trl-dapo reward` starts in each process, in the shape of TRL's own scripts.

It can be started without the command as well: `accelerate launch -m trl_dapo.cli.reward --config run.yaml`.
"""

import sys

from trl import DatasetMixtureConfig, ModelConfig
from trl import RewardConfig as HostConfig

from trl_dapo.arena import load_reward_start
from trl_dapo.cli import offline as preferences
from trl_dapo.cli.arguments import Arguments
from trl_dapo.cli.dry_run import print_config
from trl_dapo.cli.offline import PreferenceParser, PreferenceScriptArguments, preflight
from trl_dapo.reward_model.config import RewardConfig
from trl_dapo.reward_model.trainer import RewardTrainer


__all__ = ["main", "make_parser", "preflight", "print_dry_run"]

SETTINGS = {"output_dir": "arena-reward", "learning_rate": 1e-3, "max_steps": 300, "max_length": 256}


def main(
    script_args: PreferenceScriptArguments,
    training_args: RewardConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
) -> None:
    """Trains and saves. What the arguments get wrong is a [`UsageError`], raised before anything is trained."""
    arguments = Arguments(script_args, training_args, model_args, dataset_args)
    kwargs = preferences.trainer_arguments(arguments, lambda: load_reward_start(training_args.seed))
    preferences.train_and_save(preferences.constructed(RewardTrainer, **kwargs), script_args)


def make_parser(prog: str | None = None) -> PreferenceParser:
    """Returns the parser of the script's arguments; `prog` is the name of the program in its help."""
    return preferences.preference_parser(RewardConfig, SETTINGS, prog)


def print_dry_run(arguments: Arguments) -> None:
    """Prints the run as it would be."""
    print_config(arguments, HostConfig)


if __name__ == "__main__":
    sys.exit(preferences.run_script(sys.argv[1:], make_parser(), main))
