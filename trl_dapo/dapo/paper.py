"""
The paper's run in fields of [`DAPOConfig`], and the arithmetic of its batches.

Section numbers are those of the DAPO paper (https://huggingface.co/papers/2503.14476). The script is the one that its
authors published for the 32B run, `run_dapo_qwen2.5_32b.sh` in the DAPO recipe of verl; where it says something else
than the paper, or the paper says nothing, its values are in `SCRIPT`. How a config differs is in `deviations.py`.
"""

import math
from typing import Any

from ..grpo.recipe import GRPO, known_fields
from .checks import TOKEN_SUM_LOSSES
from .toggles import GOVERNED, RELIANT, TOGGLES


# What all rows of the paper's Table 1 have in common; the toggles set the rest
PINNED = {name: value for name, value in known_fields(GRPO).items() if name not in GOVERNED.values()} | {"beta": 0.0}

PROMPTS, GENERATIONS, UPDATES = 512, 16, 16  # per rollout, §4.1
SCRIPT_WARMUP_ROLLOUTS = 10

PAPER = {
    **PINNED,
    **dict.fromkeys(TOGGLES, True),
    "num_generations": GENERATIONS,
    "updates_per_rollout": UPDATES,
    "learning_rate": 1e-6,
    "lr_scheduler_type": "constant_with_warmup",
    "max_completion_length": 20480,
    "soft_punish_cache": 4096,
    # Eq. 12: the tokens of a group, then the mean over groups
    "token_level_scope": "prompt",
    # §3.2 keeps sampling until the batch is full. 100 rounds of a whole batch that do not fill it mean that fewer than
    # one prompt in a hundred is informative, which is rather a broken reward than a hard dataset
    "max_refill_rounds": 100,
    "dynamic_sampling_on_exhaustion": "raise",
    # Eq. 9 has one ratio, of log-probs that the trained model computes
    "vllm_importance_sampling_correction": False,
}

SCRIPT = {
    # The recipe does not have it: most of the paper's experiments, the best one among them, ran without
    "overlong_filtering": False,
    "token_level_scope": "batch",
    # At most 10 batches of 1536 prompts, then an error
    "max_refill_rounds": 9,
    "max_round_batches": 3.0,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "delta": 10.0,
}

# Most rows that a device takes at once if nothing else is asked for: TRL's default
DEFAULT_ROWS = 8
SIZES = (
    "num_generations",
    "updates_per_rollout",
    "generation_batch_size",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)


def paper_fields(script: bool, given: dict[str, Any]) -> dict[str, Any]:
    """
    Returns the fields of the paper's run, without those of the batch; `given` wins.

    Args:
        script (`bool`):
            Whether the authors' script wins where it says something else than the paper.
        given (`dict[str, Any]`):
            Fields that the user set.

    Raises:
        `ValueError`: If a size is not a number of at least 1, or is one that follows from the others.
    """
    _check_sizes(given)
    values: dict[str, Any] = {**PAPER, **(SCRIPT if script else {})}
    kept = {name: value for name, value in values.items() if name not in _beside_the_point(given)}
    # A size of `None` is one that is left out
    return kept | {name: value for name, value in given.items() if value is not None or name not in SIZES}


def batch_fields(given: dict[str, Any], processes: int) -> dict[str, int]:
    """
    Returns the batch size per device and the accumulation steps with which an update has the paper's completions.

    An update has `generation_batch_size / updates_per_rollout` completions: 512 x 16 / 16 = 512 in §4.1.

    Args:
        given (`dict[str, Any]`):
            Fields that the user set. Of a batch size per device and accumulation steps, what is missing follows.
        processes (`int`):
            Processes that share an update.

    Raises:
        `ValueError`: If no such numbers exist, with the arithmetic.
    """
    generations = given.get("num_generations") or GENERATIONS
    updates = given.get("updates_per_rollout") or UPDATES
    completions = given.get("generation_batch_size") or PROMPTS * generations
    if completions % updates:
        raise ValueError(
            f"{completions} completions per rollout cannot be dealt to {updates} updates equally: {completions} / "
            f"{updates} = {completions / updates:g}. Set `generation_batch_size` to a multiple of "
            f"{math.lcm(updates, generations)}, or `updates_per_rollout` to a divisor of {completions}."
        )
    rows = completions // updates
    per_device = given.get("per_device_train_batch_size")
    accumulation = given.get("gradient_accumulation_steps")
    shared = (per_device or 1) * processes * (accumulation or 1)
    whole = per_device and accumulation
    if rows % shared or (whole and rows != shared):
        fitting = shared * updates if whole else f"a multiple of {math.lcm(shared * updates, generations)}"
        raise ValueError(
            f"An update has {rows} completions here ({completions} per rollout / {updates} updates), which "
            f"{per_device or 'any number'} per device x {processes} processes x {accumulation or 'any number of'} "
            f"accumulation steps cannot make: {rows} / {shared} = {rows / shared:g}. Use a number of processes that "
            f"divides {rows}, leave `per_device_train_batch_size` or `gradient_accumulation_steps` out, or set "
            f"`generation_batch_size` (completions per rollout) to {fitting}."
        )
    if not per_device:
        own = rows // shared
        per_device = own if accumulation else max(size for size in range(1, DEFAULT_ROWS + 1) if own % size == 0)
    return {
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": rows // processes // per_device,
    }


def evaluation_batch_field(given: dict[str, Any], processes: int) -> dict[str, int]:
    """Returns the smallest batch per device in which all processes evaluate whole groups, unless the user set one."""
    if given.get("per_device_eval_batch_size") is not None:
        return {}
    generations = given.get("num_generations_eval") or given.get("num_generations") or GENERATIONS
    return {"per_device_eval_batch_size": generations // math.gcd(generations, processes)}


def _beside_the_point(given: dict[str, Any]) -> set[str]:
    """Returns the fields whose value in the paper does not go with what the user set, and would be refused."""
    names = {name for toggle, reliant in RELIANT.items() if not given.get(toggle, True) for name in reliant}
    if "max_completion_length" in given:
        # 4096 tokens belong to 20480
        names.add("soft_punish_cache")
    if given.get("beta") or (given.get("loss_type") or "dapo") not in TOKEN_SUM_LOSSES:
        names.add("token_level_scope")
    if given.get("max_refill_rounds") == 0:
        names.add("dynamic_sampling_on_exhaustion")
    return names


def _check_sizes(given: dict[str, Any]) -> None:
    for name in SIZES:
        size = given.get(name)
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise ValueError(f"`{name}` must be an integer of at least 1, got {size!r}.")
    if given.get("steps_per_generation") is not None:
        raise ValueError(
            "`paper` sets `steps_per_generation` from the updates per rollout, and got "
            f"{given['steps_per_generation']}. Set `updates_per_rollout` or `generation_batch_size`."
        )
