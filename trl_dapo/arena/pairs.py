"""
The arena's preferences: pairs of completions of one prompt, of which the right one is chosen.

Both completions of a pair draw their style by themselves, so that neither style nor length tells them apart.
"""

import random
from collections.abc import Sequence

from datasets import Dataset

from .task import LENGTHS, RING, Problem, Split, Style, arena_accuracy, demonstrate, draw_problems


STYLES: tuple[Style, ...] = ("direct", "step", "verbose")

# Of a rejected completion's steps; most of them then end on a wrong cell, and those that do not are drawn again
SLIP = 0.3


def preference_dataset(
    size: int,
    seed: int = 0,
    lengths: Sequence[int] = LENGTHS,
    styles: Sequence[Style] = STYLES,
    split: Split = "train",
) -> Dataset:
    """
    Preferences, a function of the arguments alone.

    Args:
        size (`int`):
            Number of rows. Prompts may repeat.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draw.
        lengths (`Sequence[int]`, *optional*, defaults to `(2, ..., 10)`):
            Numbers of moves; row `i` has `lengths[i % len(lengths)]`.
        styles (`Sequence[str]`, *optional*, defaults to `("direct", "step", "verbose")`):
            Styles of the completions, drawn uniformly.
        split (`str`, *optional*, defaults to `"train"`):
            `"train"` or `"held_out"`, which share no prompt.

    Returns:
        `datasets.Dataset` with the columns `prompt`, `chosen` and `rejected` (`str`).
    """
    # A string seed goes through SHA-512 and not through hash(), hence it does not hang on PYTHONHASHSEED
    rng = random.Random(f"preferences/{split}/{seed}")
    problems = draw_problems(size, seed, lengths, split)
    return Dataset.from_dict(
        {
            "prompt": [problem.prompt for problem in problems],
            "chosen": [demonstrate(problem, rng.choice(styles), rng) for problem in problems],
            "rejected": [_wrong(problem, rng.choice(styles), rng) for problem in problems],
        }
    )


def _wrong(problem: Problem, style: Style, rng: random.Random) -> str:
    """A completion that ends on a wrong cell: a wrong guess, or a walk with slips that were not repaired."""
    if style == "direct":
        return f"#{(problem.cells[-1] + rng.randrange(1, RING)) % RING}"
    while True:
        completion = demonstrate(problem, style, rng, slip=SLIP)
        if arena_accuracy([problem.prompt], [completion]) == [0.0]:
            return completion
