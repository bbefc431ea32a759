"""
Whether a dataset has enough prompts for one generation batch. The sizes of a rollout are in `dapo/batch_plan.py`.
"""

from itertools import islice
from typing import Any

from datasets import Dataset, IterableDataset

from ..host.required import required
from .config import GRPOConfig


def check_dataset(dataset: Any, args: GRPOConfig) -> None:
    """
    Raises `ValueError` if a dataset cannot fill one batch with different prompts: TRL would train for 0 steps.

    It reads the first batch of an iterable dataset.
    """
    needed = prompts_per_rollout(args)
    if isinstance(dataset, Dataset):
        found = len(dataset)
    elif isinstance(dataset, IterableDataset):
        found = sum(1 for _ in islice(dataset, needed))
    else:
        return
    if found < needed:
        raise ValueError(too_few_prompts(found, args))


def too_few_prompts(found: int, args: GRPOConfig) -> str:
    """Returns the error message for a dataset whose `found` prompts cannot fill a batch."""
    sizes = ", ".join(f"`{name}`" for name in args.batch_size_fields[:-1])
    return (
        f"`train_dataset` has {found} prompts, and a generation batch needs {prompts_per_rollout(args)} different "
        f"ones: generation_batch_size={args.generation_batch_size} / num_generations={args.num_generations}. Add "
        f"prompts, or lower {sizes} or `{args.batch_size_fields[-1]}`."
    )


def prompts_per_rollout(args: GRPOConfig) -> int:
    """Returns how many different prompts a generation batch needs, over all processes."""
    return required(args.generation_batch_size) // required(args.num_generations)
