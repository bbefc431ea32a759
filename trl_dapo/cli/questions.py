"""
Data sets to evaluate on, each with its scorer, by the names that the user gives.
"""

import importlib.util
from typing import Any

from trl_dapo.arena import held_out_dataset
from trl_dapo.evaluation import scorers
from trl_dapo.problems import load_problems

from .reward_names import PACKAGES, reward_functions


ARENA, ARENA_QUESTIONS = "arena", 256
# Their rows are scored by what the task's own library says
SCORED_BY_TASK = ("reasoning-gym:", "countdown")


def default_scorer(data_set: str) -> str:
    """Returns the scorer that a data set has where none is asked for."""
    if data_set == ARENA:
        return "arena_accuracy"
    return "reasoning_gym" if data_set.startswith(SCORED_BY_TASK) else "dapo_math"


def scorer_of(name: str, **scoring: Any) -> Any:
    """
    Returns a scorer of this package, a reward function of TRL, or what a dotted path names.

    Raises:
        `ValueError`: If it is unknown.
        `ImportError`: If the library is not installed that it needs.
    """
    if "." not in name and name not in ("arena_accuracy", "accuracy_reward", "reasoning_accuracy_reward"):
        package, extra = PACKAGES.get(name, (None, None))
        if package is not None and importlib.util.find_spec(package) is None:
            raise ImportError(f"scorer: {name} needs a package: pip install 'trl-dapo[{extra}]'.")
        return scorers.get_scorer(name, **scoring)
    unused: Any = None  # the config, which the length penalty alone reads
    return reward_functions([name], unused)[0]


def questions(name: str, scorer: Any, *, size: int | None, seed: int = 0, **columns: Any) -> Any:
    """
    Returns the rows of a data set, whose prompts ask for the answer in the scorer's format.

    Args:
        name (`str`):
            A name of the catalogue, `"arena"`, a file or a folder.
        scorer (`Callable`):
            Who judges the answers.
        size (`int`, *optional*):
            Most rows.
        seed (`int`, *optional*, defaults to `0`):
            Which rows, if there are more.
        columns:
            Further arguments of [`~trl_dapo.problems.load_problems`], such as `split`.
    """
    if name == ARENA:
        rows = held_out_dataset(size or ARENA_QUESTIONS)
        return [{"solution": row["answer"], **row} for row in rows]
    answer_format = getattr(scorer, "answer_format", None)
    return load_problems(name, **columns, answer_format=answer_format, size=size, seed=seed)
