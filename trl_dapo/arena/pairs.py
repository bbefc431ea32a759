"""
The arena's preferences: pairs of completions of one prompt. The right one is chosen, a wrong one is rejected.

The style of each completion is drawn independently, so neither style nor length tells the two apart.
"""

import random
from collections.abc import Sequence

from datasets import Dataset

from .task import LENGTHS, RING, Problem, Split, Style, arena_accuracy, demonstrate, draw_problems


STYLES: tuple[Style, ...] = ("direct", "step", "verbose")

# Probability that a step of a rejected completion is wrong. Most then end on a wrong cell; the others are redrawn
SLIP = 0.3


def preference_dataset(
    size: int,
    seed: int = 0,
    lengths: Sequence[int] = LENGTHS,
    styles: Sequence[Style] = STYLES,
    split: Split = "train",
) -> Dataset:
    """
    Preferences. The same arguments always give the same rows.

    Args:
        size (`int`):
            Number of rows. Prompts may repeat.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draw.
        lengths (`Sequence[int]`, *optional*, defaults to `(2, ..., 10)`):
            Numbers of moves. Row `i` has `lengths[i % len(lengths)]`.
        styles (`Sequence[str]`, *optional*, defaults to `("direct", "step", "verbose")`):
            Styles of the completions, drawn uniformly.
        split (`str`, *optional*, defaults to `"train"`):
            `"train"` or `"held_out"`, which share no prompt.

    Returns:
        `datasets.Dataset` with the columns `prompt`, `chosen` and `rejected` (`str`).
    """
    # `Random` hashes a string seed with SHA-512, not with hash(), so PYTHONHASHSEED does not matter
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
    """A completion that ends on a wrong cell: a wrong guess, or a walk with an uncorrected slip."""
    if style == "direct":
        return f"#{(problem.cells[-1] + rng.randrange(1, RING)) % RING}"
    while True:
        completion = demonstrate(problem, style, rng, slip=SLIP)
        if arena_accuracy([problem.prompt], [completion]) == [0.0]:
            return completion
