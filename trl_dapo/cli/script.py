"""
The training script of every command, in the shape of TRL's own: parse, construct the trainer, train, save.

It runs in each process that `accelerate launch` starts.
"""

import argparse
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments

from trl_dapo.planning.measured import watch

from .arguments import Arguments, CommandParser
from .built_in_base import keep_base
from .command_file import Given, given_values
from .command_start import note_start
from .commands import Command
from .config_file import read_config_file, split_config_flag, without_config
from .errors import UsageError, one_line, report
from .monitor_arguments import add_monitors
from .plan_before import check_memory
from .unfinished import none_left


logger = get_logger(__name__)


def make_parser(
    command: Command, subparsers: argparse._SubParsersAction | None = None, prog: str | None = None
) -> CommandParser:
    """
    Returns the parser of a command's arguments.

    Args:
        command ([`Command`]):
            Row of the table.
        subparsers (`argparse._SubParsersAction`, *optional*):
            Where to add it; made with `parser_class` set to the command's parser.
        prog (`str`, *optional*):
            Name of the program in its help.
    """
    kinds = (command.load("script_arguments"), command.load("config"), ModelConfig, DatasetMixtureConfig)
    options: dict[str, Any] = {
        "dataclass_types": kinds,
        "arena_defaults": command.load("arena_defaults"),
        "command": command.name,
        "usage": f"{prog or command.name} [--config FILE] [--OPTION VALUE ...]",
        "description": f"{command.summary[0].upper()}{command.summary[1:]}.",
    }
    if subparsers is not None:
        return subparsers.add_parser(command.name, help=command.summary, **options)
    return command.load("parser")(prog=prog, **options)


def run_script(command: Command, argv: list[str]) -> int:
    """Parses and trains. Returns 0, or 2 after one line on stderr for what the user can fix; a crash is raised."""
    try:
        main(command, *parse_words(command, argv))
    except UsageError as error:
        return report(error)
    return 0


def parse_words(command: Command, argv: list[str]) -> Arguments:
    """
    Returns the arguments of a script.

    Raises:
        [`UsageError`]: If a word is none of the command's, or the file cannot be read.
    """
    argv = split_config_flag(argv)
    env = read_config_file(argv).get("env", {})
    parser = make_parser(command)
    unknown = parser.unknown_words(argv)[1]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments = parser.parse(argv)
    arguments.script_args.given = Given(given_values(parser, without_config(argv)), env)
    return arguments


def main(
    command: Command,
    script_args: Any,
    training_args: Any,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
) -> None:
    """
    Trains and saves.

    Raises:
        [`UsageError`]: If an argument is wrong, before anything is trained.
    """
    for note in script_args.notes:
        logger.warning(note)
    resume_from = command.load("checkpoint")(training_args)
    arguments = Arguments(script_args, training_args, model_args, dataset_args)
    check_memory(command.name, arguments)
    trainer = build_trainer(command, arguments)
    note_start(command.name, trainer, script_args, resume_from)
    keep_base(trainer, arguments)
    watch(trainer)
    add_monitors(trainer, script_args)
    train_and_save(trainer, script_args, resume_from)


def build_trainer(command: Command, arguments: Arguments) -> Any:
    """Returns the trainer. If it refuses its arguments, that is a [`UsageError`], and no new folder is left behind."""
    return construct(command, arguments, command.load("trainer_arguments")(arguments))


def construct(command: Command, arguments: Arguments, kwargs: dict[str, Any]) -> Any:
    """Returns the trainer with these keyword arguments, as [`build_trainer`] does."""
    output_dir = Path(str(arguments.training_args.output_dir))
    existed = output_dir.exists()
    try:
        trainer = command.load("trainer")(**kwargs)
        if command.complete is not None:
            command.load("complete")(trainer, arguments)
    except Exception as error:
        logger.debug("The trainer was not constructed.", exc_info=True)
        if not existed:
            with suppress(OSError):
                output_dir.rmdir()
        raise UsageError(_refused(error)) from error
    if arguments.script_args.ignore_bias_buffers:
        trainer.model._ddp_params_and_buffers_to_ignore = [
            name for name, buffer in trainer.model.named_buffers() if buffer.dtype == torch.bool
        ]
    return trainer


def _refused(error: Exception) -> str:
    if isinstance(error, (UsageError, ValueError, TypeError, NotImplementedError, ImportError, OSError)):
        return one_line(error)
    # A library that does not say what it minds. The settings are the user's, so they are the place to look
    return (
        f"the trainer cannot be made of these settings: {type(error).__name__}: {one_line(error)} "
        "(ACCELERATE_LOG_LEVEL=DEBUG shows where)"
    )


def train_and_save(trainer: Any, script_args: ScriptArguments, resume_from: str | bool | None) -> None:
    """Trains, from a checkpoint if one is given, and saves the model to `output_dir`."""
    output_dir = Path(trainer.args.output_dir)
    with none_left(output_dir, "checkpoints"):
        _train(trainer, resume_from)
    trainer.accelerator.print("Training completed.")
    with none_left(output_dir, "model"):
        trainer.save_model(trainer.args.output_dir)
        # The log, for `trl-dapo diagnose` and `rewind`
        trainer.save_state()
    trainer.accelerator.print(f"Model saved to {trainer.args.output_dir}.")
    if trainer.args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
        trainer.accelerator.print(f"Model pushed to https://huggingface.co/{trainer.hub_model_id}.")
    # Finishes the trackers and leaves the process group
    trainer.accelerator.end_training()


def _train(trainer: Any, resume_from: str | bool | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=resume_from)
    except KeyError as error:
        if "metric_for_best_model" not in str(error):
            raise
        # What an evaluation measures is known once there has been one
        raise UsageError(one_line(error).strip('"')) from error
