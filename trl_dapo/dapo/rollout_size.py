"""
How many optimizer updates a rollout serves, and what is counted in them.
"""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .config import DAPOConfig


PAPER_WARMUP_ROLLOUTS = 20  # §4.1
# The paper's 16 would make a rollout four times as large. With 1, the importance ratio is always 1 and clip-higher has
# no effect
DEFAULT_UPDATES_PER_ROLLOUT = 4


def settle_updates_per_rollout(config: "DAPOConfig") -> None:
    """
    Sets `steps_per_generation` from `updates_per_rollout`, unless another size of the rollout is given.

    The host fills in the field that the user left out, so this comes before its own construction.
    """
    asked = config.updates_per_rollout
    if asked is not None and asked < 1:
        raise ValueError(f"`updates_per_rollout` must be at least 1, got {asked}.")
    chosen = "steps_per_generation" if config.steps_per_generation is not None else "generation_batch_size"
    if getattr(config, chosen) is None:
        config.updates_per_rollout = DEFAULT_UPDATES_PER_ROLLOUT if asked is None else asked
        config.steps_per_generation = config.updates_per_rollout * config.gradient_accumulation_steps
    elif asked is not None:
        raise ValueError(
            f"`updates_per_rollout` ({asked}) and `{chosen}` ({getattr(config, chosen)}) both set the size of a "
            "rollout. Leave one of them out."
        )


def paper_warmup_steps(config: "DAPOConfig", rollouts: int = PAPER_WARMUP_ROLLOUTS) -> int:
    """Returns the paper's warm-up (§4.1) in optimizer updates."""
    return int(rollouts * max(1.0, config.updates_between_generations))
