"""
Problems that reasoning-gym makes up: `reasoning-gym:<task>`, with the task's settings behind a question mark.
"""

import importlib.util
import json
from dataclasses import dataclass, fields
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qsl

from datasets import Dataset, NamedSplit

from .catalogue import GYM
from .files import ProblemError


SIZES = {"train": 5_000, "test": 500}
# An item is drawn with the seed plus its place, so that seeds that lie close give the same items
TEST_SEED = 1_000_000_007
_OURS = ("size", "seed")


@dataclass(frozen=True)
class Task:
    """A task of reasoning-gym's with its settings; `size` and `seed` are `None` where the name does not say."""

    name: str
    size: int | None
    seed: int | None
    settings: tuple[tuple[str, Any], ...]


def read_task(name: str) -> Task:
    """
    Returns the task that a name asks for, e.g. `reasoning-gym:chain_sum?min_terms=2&size=1000`.

    Raises:
        `ValueError`: If it cannot be read, or `size` or `seed` is no whole number.
    """
    task, _, query = name.removeprefix(GYM).partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise ProblemError(f"{name}: the settings behind `?` are written as name=value&name=value.") from error
    settings = {key: _value(text) for key, text in pairs}
    for key in _OURS:
        check_whole(f"{name}: {key}", settings.get(key), least=1 if key == "size" else 0)
    ours = {key: settings.pop(key, None) for key in _OURS}
    return Task(task, ours["size"], ours["seed"], tuple(settings.items()))


def check_task(name: str) -> None:
    """
    Makes one problem of a task.

    Raises:
        `ImportError`: If reasoning-gym is not installed.
        `ValueError`: If there is no such task, or it does not take the settings.
    """
    task = read_task(name)
    _made(name, task, size=1, seed=task.seed or 0)[0]


def is_installed() -> bool:
    """Returns whether reasoning-gym can be imported."""
    return importlib.util.find_spec("reasoning_gym") is not None


def gym_rows(name: str, split: str, size: int | None, seed: int) -> Dataset:
    """
    Returns rows of question, answer and entry; those of `test` are drawn with other seeds than those of `train`.

    Args:
        name (`str`):
            `reasoning-gym:<task>`, with settings or without.
        split (`str`):
            `"train"` or `"test"`.
        size (`int`, *optional*):
            Most problems to make, of those that the name asks for, else of 5000 or 500 by default.
        seed (`int`):
            Where the name has none.
    """
    task = read_task(name)
    asked = {"size": size or task.size or SIZES[split], "seed": seed if task.seed is None else task.seed}
    if size is not None and task.size is not None:
        asked["size"] = min(size, task.size)
    if split == "test":
        asked["seed"] += TEST_SEED
    check_task(name)
    # The release is part of the cache's key: another one may draw other problems
    release = version("reasoning-gym")
    made = {"name": name, "task": task, **asked, "release": release}
    rows = Dataset.from_generator(_drawn, gen_kwargs=made, split=NamedSplit(split))
    assert isinstance(rows, Dataset)
    return rows


def _drawn(name: str, task: Task, size: int, seed: int, release: str) -> Any:
    for entry in _made(name, task, size, seed):
        yield {
            "question": entry["question"],
            # Some tasks have many right answers, and name none
            "answer": "" if entry["answer"] is None else str(entry["answer"]),
            "entry": json.dumps(entry, ensure_ascii=False),
        }


def _made(name: str, task: Task, size: int, seed: int) -> Any:
    if not is_installed():
        raise ImportError(f"{name} needs reasoning-gym, which is not installed: pip install 'trl-dapo[gym]'.")
    factory = import_module("reasoning_gym.factory")
    if task.name not in factory.DATASETS:
        near = get_close_matches(task.name, factory.DATASETS, n=1)
        hint = f"Did you mean {GYM}{near[0]}?" if near else "Its gallery lists the tasks."
        raise ProblemError(f"{name}: reasoning-gym has no task {task.name!r}. {hint}")
    settings: Any = factory.DATASETS[task.name][1]
    known = [one.name for one in fields(settings) if one.name not in _OURS]
    unknown = next((key for key, _ in task.settings if key not in known), None)
    if unknown is not None:
        raise ProblemError(
            f"{name}: the task {task.name} has no setting {unknown!r}. It has {', '.join(known)}, and size and seed."
        )
    try:
        return factory.create_dataset(task.name, size=size, seed=seed, **dict(task.settings))
    except Exception as error:
        # The task checks its settings with assertions, or trips over them
        raise ProblemError(f"{name}: the task does not take these settings: {error}") from error


def check_whole(what: str, value: Any, least: int) -> None:
    """Raises `ValueError` unless a value is `None` or a whole number of at least `least`."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ProblemError(f"{what}={value!r} must be a whole number of at least {least}.")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False}.get(text, text)
