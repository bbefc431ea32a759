"""
What a run trips over only when it starts to train: optimizer, schedule, gradient checkpointing, missing packages.
"""

import inspect
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.utils import is_liger_kernel_available

from .errors import UsageError, one_line


# Taken off before the function is called
ALSO_OF_CHECKPOINT = {"preserve_rng_state"}
# The library leaves out what is given beside these
CONSTANT = ("constant", "constant_with_warmup")


def check_start(args: TrainingArguments) -> None:
    """Raises [`UsageError`] for settings that no optimizer, schedule or pass can be made of; loads no model."""
    if getattr(args, "use_liger_kernel", False) and not is_liger_kernel_available():
        raise UsageError("use_liger_kernel=True needs liger-kernel: pip install liger-kernel, or leave it out.")
    _check_checkpointing(args)
    _check_optimizer(args)
    _check_schedule(args)


def _check_checkpointing(args: TrainingArguments) -> None:
    taken = set(inspect.signature(checkpoint).parameters) - {"function", "args", "kwargs"} | ALSO_OF_CHECKPOINT
    given: Any = args.gradient_checkpointing_kwargs or {}
    unknown = [name for name in given if name not in taken]
    if unknown:
        raise UsageError(
            f"gradient_checkpointing_kwargs has {unknown[0]!r}, which torch does not know. It takes "
            f"{', '.join(sorted(taken))}."
        )


def _check_optimizer(args: TrainingArguments) -> None:
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except Exception as error:
        optim = f"optim={getattr(args.optim, 'value', args.optim)}"
        asked = f", optim_args={args.optim_args!r} (it is name=value, with commas)" if args.optim_args else ""
        raise UsageError(f"{optim}{asked}: {one_line(error)}") from error


def _check_schedule(args: TrainingArguments) -> None:
    schedule = args.lr_scheduler_type
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    given: Any = args.lr_scheduler_kwargs or {}
    name = getattr(schedule, "value", schedule)
    if given and name in CONSTANT:
        raise UsageError(f"lr_scheduler_kwargs={given!r} has no effect: lr_scheduler_type={name} takes none.")
    try:
        get_scheduler(
            schedule, optimizer, num_warmup_steps=0, num_training_steps=10, scheduler_specific_kwargs=dict(given)
        )
    except Exception as error:
        raise UsageError(f"lr_scheduler_type={name}, lr_scheduler_kwargs={given!r}: {one_line(error)}") from error
