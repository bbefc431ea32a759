"""
What a config does, where that is not the value of one field: sizes over all processes, a warm-up in rollouts, a
schedule, a way of sampling.

Each function takes a [`DAPOConfig`] and returns a number or a few plain words.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..host.required import required
from .toggles import UNCLIPPED_LOSSES


if TYPE_CHECKING:
    from .config import DAPOConfig


CONSTANT_SCHEDULES = ("constant", "constant_with_warmup")
# Schedules that take no warm-up
UNWARMED_SCHEDULES = ("constant", "greedy", "reduce_lr_on_plateau")
# Largest range of a metric that is constant up to rounding
ROUNDING = 1e-6


def prompts_per_rollout(config: "DAPOConfig") -> int:
    """Returns the prompts that a rollout trains on, over all processes."""
    return required(config.generation_batch_size) // required(config.num_generations)


def updates_per_rollout(config: "DAPOConfig") -> float:
    """Returns the optimizer updates of a rollout, over all passes."""
    return _short(config.updates_between_generations)


def completions_per_update(config: "DAPOConfig") -> int:
    """Returns the completions of an update, over all processes."""
    return config.per_device_train_batch_size * config.world_size * config.gradient_accumulation_steps


def schedule(config: "DAPOConfig") -> str:
    """Returns the learning rate's schedule after its warm-up."""
    name = _name(config.lr_scheduler_type)
    return "constant" if name in CONSTANT_SCHEDULES else name


def warmup(config: "DAPOConfig") -> str:
    """Returns the warm-up in rollouts, or as a share of a run whose length the config does not say."""
    steps = 0 if _name(config.lr_scheduler_type) in UNWARMED_SCHEDULES else required(config.warmup_steps)
    if 0 < steps < 1:
        if config.max_steps <= 0:
            return f"{steps:g} of the run"
        steps = math.ceil(config.max_steps * steps)
    rollouts = _short(int(steps) / max(1.0, config.updates_between_generations))
    return f"{rollouts} rollout{'' if rollouts == 1 else 's'}"


def optimizer(config: "DAPOConfig") -> str:
    """Returns the optimizer; AdamW with a rounded state has a name of its own."""
    name = _name(config.optim)
    return "AdamW" if name.startswith("adamw") and not name.endswith("8bit") else name


def lower_epsilon(config: "DAPOConfig") -> float | None:
    """Returns how far below 1 the ratio is clipped, `None` where the loss does not clip it."""
    return config.epsilon if _clips(config) else None


def upper_epsilon(config: "DAPOConfig") -> float | None:
    """Returns how far above 1 the ratio is clipped, `None` where the loss does not clip it."""
    high = config.epsilon if config.epsilon_high is None else config.epsilon_high
    return high if _clips(config) else None


def scope(config: "DAPOConfig") -> str:
    """Returns over whose tokens the loss is a mean."""
    return config.token_level_scope if config.token_level_loss else "completion"


def vllm_ratio(config: "DAPOConfig") -> str:
    """Returns how the ratio of the trainer's and vLLM's log-probs enters the loss."""
    if not config.vllm_importance_sampling_correction:
        return "none"
    least, most = config.vllm_importance_sampling_clip_min, config.vllm_importance_sampling_clip_max
    return f"{config.vllm_importance_sampling_mode}, {least or 0:g} to {math.inf if most is None else most:g}"


def penalty_factor(config: "DAPOConfig") -> float:
    """Returns the weight of the length penalty for rewards of -1 and +1; without a factor it follows them."""
    return 1.0 if config.overlong_penalty_factor is None else config.overlong_penalty_factor


def sampling_metric(config: "DAPOConfig") -> str:
    """Returns what dynamic sampling looks at. One reward function, by name, is taken for the accuracy."""
    name = "sum of the reward functions" if config.dynamic_sampling_metric is None else "accuracy"
    above = config.dynamic_sampling_tolerance
    return name if above <= ROUNDING else f"{name}, if its range exceeds {above:g}"


def filters(config: "DAPOConfig") -> str:
    """Returns whether truncated completions leave the loss."""
    return "on" if config.overlong_filtering else "off"


def refill_rounds(config: "DAPOConfig") -> str:
    """Returns how long dynamic sampling goes on, and what happens then."""
    end = "an error" if config.dynamic_sampling_on_exhaustion == "raise" else "groups outside the loss"
    return f"at most {config.max_refill_rounds} refill rounds, then {end}"


def switch(name: str) -> Callable[["DAPOConfig"], Any]:
    """Returns a function that gives the value of a field which is off with `None`."""
    return lambda config: "off" if getattr(config, name) is None else getattr(config, name)


def sampled(name: str) -> Callable[["DAPOConfig"], Any]:
    """Returns a function that gives a parameter of sampling."""

    def read(config: "DAPOConfig") -> Any:
        # They win over the fields
        given = config.generation_kwargs
        value = given[name] if isinstance(given, dict) and name in given else getattr(config, name)
        # Sampling from all tokens has several spellings
        return 0 if name == "top_k" and value in (None, -1) else value

    return read


def evaluates(config: "DAPOConfig") -> bool:
    """Returns whether the run evaluates."""
    return _name(config.eval_strategy) != "no"


def evaluation(config: "DAPOConfig") -> str:
    """Returns how TRL's own evaluation samples."""
    completions = config.num_generations_eval or config.num_generations
    return f"{completions} at temperature {sampled('temperature')(config)}, top_p {sampled('top_p')(config)}"


def _clips(config: "DAPOConfig") -> bool:
    return config.loss_type not in (*UNCLIPPED_LOSSES, "cispo")


def _name(value: Any) -> str:
    # A plain string, or one of transformers' enums
    return getattr(value, "value", value)


def _short(number: float) -> float:
    return int(number) if float(number).is_integer() else round(number, 2)
