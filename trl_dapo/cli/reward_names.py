"""
Finds reward functions by the names that the user gives, and checks that the dataset has the columns they need.
"""

import importlib
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from typing import Any

from trl_dapo.dapo.config import DAPOConfig
from trl_dapo.dapo.overlong import default_soft_punish_cache, length_penalty_function
from trl_dapo.evaluation.scorers import SCORERS, Scorer, get_scorer
from trl_dapo.grpo.config import GRPOConfig
from trl_dapo.host.required import required

from .errors import UsageError, one_line


HOST_REWARDS = ("accuracy_reward", "reasoning_accuracy_reward", "think_format_reward")
LENGTH_PENALTY = "get_soft_overlong_punishment"
LENGTH_PENALTY_NAMES = frozenset({LENGTH_PENALTY})
KNOWN = (*HOST_REWARDS, LENGTH_PENALTY, "arena_accuracy", *SCORERS)

# What a scorer imports when it is used, and the extra that installs it
PACKAGES = {"math_verify": ("math_verify", "math"), "reasoning_gym": ("reasoning_gym", "gym")}

# Arguments that the trainer passes to every reward function, beside the dataset's columns
ALWAYS_PASSED = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}

RewardFunction = Callable[..., Any]


def check_reward_names(names: Sequence[str]) -> None:
    """Raises [`UsageError`] for an unknown name. The user's modules are looked up, not imported."""
    for name in names:
        if name in KNOWN:
            continue
        if "." not in name:
            raise UsageError(
                f"reward_funcs: unknown reward function {name!r}. Choose among {', '.join(KNOWN)}, or give a dotted "
                "import path such as my_lib.rewards.my_reward."
            )
        _look_in_working_directory()
        module = name.rpartition(".")[0]
        if not (all(part.isidentifier() for part in name.split(".")) and _is_there(module)):
            raise UsageError(
                f"reward_funcs: {name!r} cannot be imported: there is no module {module!r} on the path or in "
                f"{os.getcwd()}."
            )


def reward_functions(names: Sequence[str], args: GRPOConfig, **scoring: Any) -> list[RewardFunction]:
    """
    Returns the functions that the names stand for, and imports the user's modules for them.

    Args:
        names (`Sequence[str]`):
            Names of this package's and of TRL's, or dotted import paths.
        args ([`GRPOConfig`]):
            Gives the widths of the length penalty.
        scoring:
            Arguments of every scorer, [`get_scorer`].
    """
    check_reward_names(names)
    return [_scorer(name, scoring) if name in SCORERS else _function(name, args) for name in names]


def scoring_arguments(script_args: Any) -> dict[str, Any]:
    """Returns the arguments of the scorers; an `unparseable_reward` of NaN is no reward."""
    reward = script_args.unparseable_reward
    given = {} if reward is None else {"unparseable_reward": None if math.isnan(reward) else reward}
    return {"time_limit": script_args.scorer_time_limit, **given}


def check_scorers(names: Sequence[str], scoring: dict[str, Any], needed: bool) -> None:
    """Raises [`UsageError`] for arguments that a scorer refuses, and for a package that is not there if `needed`."""
    for name in names:
        if name in SCORERS:
            _scorer(name, scoring)
            package, extra = PACKAGES.get(name, (None, None))
            if needed and package is not None and importlib.util.find_spec(package) is None:
                raise UsageError(f"reward_funcs: {name} needs a package: pip install 'trl-dapo[{extra}]'.")


def check_columns(functions: Sequence[RewardFunction], columns: Sequence[str]) -> None:
    """Raises [`UsageError`] if a reward function needs a column that the dataset does not have."""
    for function in functions:
        needed = [*_required(function), *(function.columns if isinstance(function, Scorer) else ())]
        missing = [name for name in needed if name not in ALWAYS_PASSED and name not in columns]
        if missing:
            raise UsageError(
                f"reward_funcs: {_name(function)} needs the column {missing[0]!r}, and the dataset has the columns "
                f"{', '.join(columns)}. Add or rename the column, or choose another reward function."
            )


def _scorer(name: str, scoring: dict[str, Any]) -> RewardFunction:
    try:
        return get_scorer(name, **scoring)
    except ValueError as error:
        raise UsageError(one_line(error).replace("time_limit=", "scorer_time_limit=")) from error


def _function(name: str, args: GRPOConfig) -> RewardFunction:
    if name in HOST_REWARDS:
        return getattr(importlib.import_module("trl.rewards"), name)
    if name == LENGTH_PENALTY:
        # TRL's script fixes the widths at 1280 and 256: at another `max_completion_length`, the penalty hits no
        # completion or most of them. These follow the config, and at 1280 they are TRL's: 256 is a fifth.
        longest = required(args.max_completion_length)
        width = args.soft_punish_cache if isinstance(args, DAPOConfig) else default_soft_punish_cache(longest)
        return length_penalty_function(longest, required(width))
    if name == "arena_accuracy":
        return importlib.import_module("trl_dapo.arena").arena_accuracy
    module, _, attribute = name.rpartition(".")
    function = getattr(importlib.import_module(module), attribute, None)
    if not callable(function):
        raise UsageError(f"reward_funcs: {name!r}: the module {module!r} has no function {attribute!r}.")
    return function


def _required(function: RewardFunction) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        # A function in C may not tell
        return []
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [one.name for one in parameters if one.kind in by_name and one.default is inspect.Parameter.empty]


def _name(function: RewardFunction) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _look_in_working_directory() -> None:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def _is_there(module: str) -> bool:
    """Returns whether a module can be found. `importlib.util.find_spec` would import the packages that it is in."""
    first, *rest = module.split(".")
    if module in sys.modules:
        return True
    try:
        spec = importlib.util.find_spec(first)
    except ValueError:
        # Imported, and without a spec: `__main__`
        return not rest
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return False
        # By its last name alone: of a package without `__init__.py`, the full name would look up the imported parent
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
    return spec is not None
