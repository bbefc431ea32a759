"""
The arena's datasets of problems. Training and held-out datasets share no prompt, whatever their seeds.
"""

from collections.abc import Sequence

from datasets import Dataset

from .task import LENGTHS, Problem, draw_problems


def train_dataset(size: int, seed: int = 0, lengths: Sequence[int] = LENGTHS) -> Dataset:
    """
    Training problems. The same arguments always give the same rows.

    Args:
        size (`int`):
            Number of rows. Prompts may repeat: there are only 90 of length 2, of which 77 are training prompts.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draw.
        lengths (`Sequence[int]`, *optional*, defaults to `(2, ..., 10)`):
            Numbers of moves. Row `i` has `lengths[i % len(lengths)]`.

    Returns:
        `datasets.Dataset` with the columns `prompt` (`str`), `answer` (`str`, one digit) and `length` (`int`, moves).
    """
    return _dataset(draw_problems(size, seed, lengths, "train"))


def held_out_dataset(size: int, seed: int = 0, lengths: Sequence[int] = LENGTHS) -> Dataset:
    """
    Problems that [`train_dataset`] never returns. Arguments and columns are the same.
    """
    return _dataset(draw_problems(size, seed, lengths, "held_out"))


def _dataset(problems: list[Problem]) -> Dataset:
    return Dataset.from_dict(
        {
            "prompt": [problem.prompt for problem in problems],
            "answer": [problem.answer for problem in problems],
            "length": [len(problem.moves) for problem in problems],
        }
    )
