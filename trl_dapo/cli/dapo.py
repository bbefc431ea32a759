"""
The training script: what `trl-dapo dapo` starts in each process, in the shape of TRL's own scripts.

It can be started without the command as well: `accelerate launch -m trl_dapo.cli.dapo --config run.yaml`.
"""

import argparse
import sys

from accelerate.logging import get_logger
from trl import DatasetMixtureConfig, ModelConfig

from trl_dapo.cli.arguments import Arguments, DAPOParser, DAPOScriptArguments
from trl_dapo.cli.config_file import read_config_file, split_config_flag
from trl_dapo.cli.dry_run import print_dry_run
from trl_dapo.cli.errors import UsageError, report
from trl_dapo.cli.offline import constructed
from trl_dapo.cli.online import train_and_save, trainer_arguments
from trl_dapo.cli.preflight import checkpoint, preflight
from trl_dapo.dapo.config import DAPOConfig
from trl_dapo.dapo.trainer import DAPOTrainer


__all__ = ["main", "make_parser", "preflight", "print_dry_run", "run_script"]

logger = get_logger(__name__)


def main(
    script_args: DAPOScriptArguments,
    training_args: DAPOConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
) -> None:
    """Trains and saves. What the arguments get wrong is a [`UsageError`], raised before anything is trained."""
    for note in script_args.notes:
        logger.warning(note)
    resume_from = checkpoint(training_args)
    trainer = _build_trainer(script_args, training_args, model_args, dataset_args)
    train_and_save(trainer, script_args, resume_from)


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None) -> DAPOParser:
    """
    Returns the parser of the script's arguments.

    Args:
        subparsers (`argparse._SubParsersAction`, *optional*):
            Where to add it as the command `dapo`; made with `parser_class=DAPOParser`.
        prog (`str`, *optional*):
            Name of the program in its help.
    """
    kinds = (DAPOScriptArguments, DAPOConfig, ModelConfig, DatasetMixtureConfig)
    if subparsers is not None:
        return subparsers.add_parser("dapo", help="Train with DAPO", dataclass_types=kinds)
    return DAPOParser(kinds, prog=prog)


def run_script(argv: list[str]) -> int:
    """Parses, trains, and returns the exit code: 0, or 2 with one line on stderr. A crash travels."""
    argv = split_config_flag(argv)
    try:
        read_config_file(argv)
        parser = make_parser()
        unknown = parser.unknown_words(argv)[1]
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        main(*parser.parse(argv))
    except UsageError as error:
        return report(error)
    return 0


def _build_trainer(
    script_args: DAPOScriptArguments,
    training_args: DAPOConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
) -> DAPOTrainer:
    arguments = Arguments(script_args, training_args, model_args, dataset_args)
    return constructed(DAPOTrainer, args=training_args, **trainer_arguments(arguments))


if __name__ == "__main__":
    sys.exit(run_script(sys.argv[1:]))
