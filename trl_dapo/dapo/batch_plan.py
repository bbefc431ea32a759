"""
Batch arithmetic before a run starts: how many prompts, completions and updates a rollout has.

A config in, numbers and lines of text out. Nothing here changes the config or reads a dataset.
"""

import math
from dataclasses import dataclass

from ..grpo.batch_size import prompts_per_rollout
from ..host.required import required
from .config import DAPOConfig
from .sampling.refill import largest_round


@dataclass(frozen=True)
class BatchPlan:
    """
    The numbers of one rollout, over all processes.

    Attributes:
        prompts (`int`):
            Groups trained on.
        completions (`int`):
            Rows trained on: `prompts * num_generations`.
        update_rows (`int`):
            Rows of one optimizer update.
        updates (`float`):
            Optimizer updates until the next rollout.
        most_completions (`int`):
            Most rows that a rollout can generate: all refill rounds at full size.
    """

    prompts: int
    completions: int
    update_rows: int
    updates: float
    most_completions: int


def batch_plan(args: DAPOConfig) -> BatchPlan:
    """Returns the batch arithmetic of a config, for the number of processes that it was made for."""
    completions = required(args.generation_batch_size)
    prompts, rounds = prompts_per_rollout(args), 1 + args.max_refill_rounds
    processes = required(args.world_size)
    granule = processes // math.gcd(processes, required(args.num_generations))
    groups = largest_round(prompts, args.max_round_batches, granule) * rounds if args.dynamic_sampling else prompts
    return BatchPlan(
        prompts=prompts,
        completions=completions,
        update_rows=args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps,
        updates=args.updates_between_generations,
        most_completions=groups * required(args.num_generations),
    )


def describe(plan: BatchPlan, args: DAPOConfig) -> list[str]:
    """Returns the plan as lines of text, each with the arithmetic behind its number."""
    return [
        f"rollout      {plan.prompts} prompts x {args.num_generations} generations = {plan.completions} completions "
        f"of up to {args.max_completion_length} tokens",
        f"update       {args.per_device_train_batch_size} per device x {args.world_size} processes x "
        f"{args.gradient_accumulation_steps} accumulation steps = {plan.update_rows} completions",
        f"updates      {args.steps_per_generation} steps per generation x {args.num_iterations} iterations / "
        f"{args.gradient_accumulation_steps} accumulation steps = {plan.updates:g} per rollout",
        f"refills      at most {args.max_refill_rounds if args.dynamic_sampling else 0} rounds: at most "
        f"{plan.most_completions} completions per rollout",
    ]
