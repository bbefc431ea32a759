"""
The training script: what `trl-dapo dapo` starts in each process, in the shape of TRL's own scripts.

It can be started without the command as well: `accelerate launch -m trl_dapo.cli.dapo --config run.yaml`.
"""

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import cast

from accelerate.logging import get_logger
from trl import DatasetMixtureConfig, ModelConfig, get_peft_config, get_quantization_config

from trl_dapo.cli.arena_run import arena_run, check_arena_run
from trl_dapo.cli.arguments import DAPOParser, DAPOScriptArguments
from trl_dapo.cli.config_file import read_config_file, split_config_flag
from trl_dapo.cli.data import column_names, load_data
from trl_dapo.cli.dry_run import print_dry_run
from trl_dapo.cli.errors import UsageError, one_line, report
from trl_dapo.cli.preflight import checkpoint, preflight
from trl_dapo.cli.rewards import check_columns, reward_functions
from trl_dapo.config import DAPOConfig
from trl_dapo.trainer import DAPOTrainer


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
    trainer.train(resume_from_checkpoint=resume_from)
    trainer.accelerator.print("Training completed.")
    trainer.save_model(training_args.output_dir)
    trainer.accelerator.print(f"Model saved to {training_args.output_dir}.")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
        trainer.accelerator.print(f"Model pushed to https://huggingface.co/{trainer.hub_model_id}.")
    # Finishes the trackers and leaves the process group
    trainer.accelerator.end_training()


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
    rewards: list = reward_functions(script_args.reward_funcs or [], training_args)
    if model_args.model_name_or_path is None:
        check_arena_run(training_args, model_args)
        arena = arena_run(training_args)
        model, tokenizer, train, evaluation = arena.model, arena.tokenizer, arena.train_dataset, arena.eval_dataset
    else:
        data = load_data(script_args, training_args, dataset_args)
        model, tokenizer, train, evaluation = model_args.model_name_or_path, None, data.train, data.evaluation
        training_args.model_init_kwargs = _model_init_kwargs(training_args, model_args)
    check_columns(rewards, column_names(train))
    if script_args.reward_model_name_or_path:
        rewards.insert(0, script_args.reward_model_name_or_path)
    return _construct(
        training_args,
        model=model,
        reward_funcs=rewards,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )


def _model_init_kwargs(training_args: DAPOConfig, model_args: ModelConfig) -> dict:
    return {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **cast(dict, training_args.model_init_kwargs or {}),
    }


def _construct(args: DAPOConfig, **kwargs) -> DAPOTrainer:
    """Returns the trainer. What it refuses is the user's to mend, and leaves no folder behind."""
    output_dir = Path(str(args.output_dir))
    existed = output_dir.exists()
    try:
        return DAPOTrainer(args=args, **kwargs)
    except (ValueError, NotImplementedError, ImportError, OSError) as error:
        logger.debug("The trainer was not constructed.", exc_info=True)
        if not existed:
            with suppress(OSError):
                output_dir.rmdir()
        raise UsageError(one_line(error)) from error


if __name__ == "__main__":
    sys.exit(run_script(sys.argv[1:]))
