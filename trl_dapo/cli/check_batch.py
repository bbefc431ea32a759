"""
Checks that whole groups fit into the generation batch; the message names fields that the user can change.
"""

from typing import Any

from trl_dapo.dapo.rollout_size import DEFAULT_UPDATES_PER_ROLLOUT

from .errors import UsageError


def check_batch(values: dict[str, Any], processes: int) -> None:
    """
    Raises [`UsageError`] if `num_generations` does not divide the generation batch.

    Args:
        values (`dict[str, Any]`):
            All fields by name.
        processes (`int`):
            Number of processes that share the batch.
    """
    rows, group = _generation_batch(values, processes), values["num_generations"]
    # A size below 1 is the config's to refuse, which names its field
    if group is None or group < 1 or rows < 1 or rows % group == 0:
        return
    divisors = [str(size) for size in range(2, min(rows, 64) + 1) if rows % size == 0]
    if values["generation_batch_size"] is not None:
        product = "generation_batch_size"
    else:
        product = (
            f"per_device_train_batch_size {values['per_device_train_batch_size']} x {processes} processes x "
            f"{rows // (values['per_device_train_batch_size'] * processes)} steps per generation"
        )
    raise UsageError(
        f"num_generations={group} does not divide the generation batch of {rows} completions ({product}). Set "
        f"num_generations to one of {', '.join(divisors) or '(none)'}, or make the batch a multiple of {group}."
    )


def _generation_batch(values: dict[str, Any], processes: int) -> int:
    if values["generation_batch_size"] is not None:
        return values["generation_batch_size"]
    # Only DAPO has the field; in TRL a rollout serves one update by default
    updates = (values["updates_per_rollout"] or DEFAULT_UPDATES_PER_ROLLOUT) if "updates_per_rollout" in values else 1
    steps = values["steps_per_generation"] or updates * values["gradient_accumulation_steps"]
    return values["per_device_train_batch_size"] * processes * steps
