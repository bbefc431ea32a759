"""
What the runs of an ablation may spend, and the fields that make a run end there and log each of its rollouts.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trl_dapo.arena import REGIMES

from .errors import UsageError
from .starts import CONSTANT


DEFAULT_REGIME = "default"
# Of the built-in task in its default regime, as in the demo: completions of a run, and the steps in which DAPO
# generates about as many
ARENA_BUDGETS = {"samples": 16384, "steps": 512, "seconds": 30.0}
SAVES = 8  # checkpoints of a run, of which the last is kept
# Without a budget of steps or completions, the budget of seconds ends the run
ENDLESS = 10**9


@dataclass(frozen=True)
class Rollout:
    """
    A rollout of a row.

    Args:
        completions (`int`):
            Completions that are trained on; at least as many are generated.
        steps (`int`):
            Optimizer steps until the next one.
    """

    completions: int
    steps: int

    @classmethod
    def of(cls, args: Any) -> "Rollout":
        """Returns that of a config."""
        return cls(args.generation_batch_size, max(1, math.ceil(args.updates_between_generations)))


def matches_of(options: argparse.Namespace) -> list[str]:
    """Returns what rows spend equally."""
    return list(dict.fromkeys(options.match or ["samples"]))


def budgets_of(
    options: argparse.Namespace, values: Mapping[str, Any], args: Any, regime: str | None
) -> dict[str, float]:
    """
    Returns what each run may spend, by what is matched.

    Args:
        options (`argparse.Namespace`):
            Of the command.
        values (`dict[str, Any]`):
            Fields that all rows share.
        args ([`DAPOConfig`]):
            The config of the first row.
        regime (`str`, *optional*):
            The built-in task's regime.

    Raises:
        [`UsageError`]: If a budget is missing.
    """
    steps = max(0, int(values.get("max_steps") or 0))
    if steps or regime is None:
        rollouts = steps / max(1.0, args.updates_between_generations)
        defaults = {"steps": steps, "samples": rollouts * args.generation_batch_size}
    else:
        defaults = {"steps": ARENA_BUDGETS["steps"], "samples": REGIMES[regime].completions}
        if regime == DEFAULT_REGIME:
            defaults["samples"] = ARENA_BUDGETS["samples"]
    if regime is not None:
        defaults["seconds"] = ARENA_BUDGETS["seconds"]
    budgets: dict[str, float] = {}
    for match in matches_of(options):
        value = getattr(options, match) or defaults.get(match)
        if not value:
            raise UsageError(
                f"--{match} is missing: --match {match} needs a budget. Give it, or max_steps in the base."
            )
        budgets[match] = float(value)
    return budgets


def check_schedule(row: str, args: Any, matches: Sequence[str]) -> None:
    """Raises [`UsageError`] if the learning rate of a row would depend on how many steps its budget allows."""
    schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if schedule not in CONSTANT and list(matches) != ["steps"]:
        raise UsageError(
            f"row {row!r}: lr_scheduler_type={schedule} decays over the steps of a run, and with --match "
            f"{' '.join(matches)} rows have different numbers of steps. Use constant_with_warmup, or --match steps."
        )


def most_steps(budgets: Mapping[str, float], rollouts: Sequence[Rollout]) -> int:
    """Returns the steps within which a run of any row has spent all budgets."""
    most = [ENDLESS] if "seconds" in budgets else []
    if "samples" in budgets:
        # Each rollout generates at least one batch
        most += [math.ceil(budgets["samples"] / one.completions) * one.steps for one in rollouts]
    if "steps" in budgets:
        most.append(math.ceil(budgets["steps"]))
    return max(most)


def running_fields(values: Mapping[str, Any], max_steps: int, rollout: Rollout) -> dict[str, Any]:
    """Returns the fields that make a row's runs end with their budgets, log each rollout and go on after a kill."""
    defaults: dict[str, Any] = {
        "logging_steps": float(rollout.steps),
        "report_to": "none",
        "disable_tqdm": True,
        "eval_strategy": "no",
        "save_total_limit": 1,
    }
    if "save_steps" not in values and values.get("save_strategy", "steps") == "steps":
        defaults["save_strategy"] = "steps"
        defaults["save_steps"] = float(max(1, math.ceil(min(max_steps, ENDLESS // 1000) / SAVES)))
    return {**{name: value for name, value in defaults.items() if name not in values}, "max_steps": max_steps}
