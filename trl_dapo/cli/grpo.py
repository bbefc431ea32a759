"""
The training script of GRPO: what `trl-dapo grpo` starts in each process, in the shape of TRL's own scripts.

It can be started without the command as well: `accelerate launch -m trl_dapo.cli.grpo --config run.yaml`.
"""

import sys

import trl
from trl import DatasetMixtureConfig, ModelConfig

from trl_dapo.cli import online
from trl_dapo.cli.arguments import Arguments, DAPOScriptArguments
from trl_dapo.cli.dry_run import print_config
from trl_dapo.cli.offline import run_script
from trl_dapo.cli.preflight import preflight
from trl_dapo.grpo.config import GRPOConfig
from trl_dapo.grpo.trainer import GRPOTrainer


__all__ = ["main", "make_parser", "preflight", "print_dry_run"]

SETTINGS = {"output_dir": "arena-GRPO"}


def main(
    script_args: DAPOScriptArguments,
    training_args: GRPOConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
) -> None:
    """Trains and saves. What the arguments get wrong is a [`UsageError`], raised before anything is trained."""
    online.train(GRPOTrainer, Arguments(script_args, training_args, model_args, dataset_args))


def make_parser(prog: str | None = None) -> online.OnlineParser:
    """Returns the parser of the script's arguments; `prog` is the name of the program in its help."""
    return online.online_parser(GRPOConfig, SETTINGS, prog)


def print_dry_run(arguments: Arguments) -> None:
    """Prints the run as it would be."""
    print_config(arguments, trl.GRPOConfig)


if __name__ == "__main__":
    sys.exit(run_script(sys.argv[1:], make_parser(), main))
