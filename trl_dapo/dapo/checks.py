"""
What values the parameters of [`DAPOConfig`] can have, and which of them exclude each other.

The toggles and the fields of TRL that they set are held together in `toggles.py`.
"""

import math
from typing import TYPE_CHECKING

from .toggles import PROMPT_SWITCHES


if TYPE_CHECKING:
    from .config import DAPOConfig


# Allowed values of fields that are plain strings to TRL's parser: a misspelt one is caught here
CHOICES = {
    "dynamic_sampling_on_exhaustion": ("fill", "raise"),
    "skip_degenerate": (None, "greso"),
    "prompt_selection": (None, "thompson"),
    "surplus": ("discard", "carry"),
    "token_level_scope": ("batch", "prompt"),
}

# Losses that are a sum over tokens divided by one number for the whole rollout. Only these can be weighted by token
TOKEN_SUM_LOSSES = ("dapo", "cispo")


def check_parameters(config: "DAPOConfig") -> None:
    """Raises `ValueError`, naming field, value and fix, for values that are out of range or contradict each other."""
    _check_lengths(config)
    for name in ("overlong_penalty_factor", "max_refill_rounds", "dynamic_sampling_tolerance"):
        left_out = name == "overlong_penalty_factor" and config.overlong_penalty_factor is None
        if not left_out and not getattr(config, name) >= 0:  # also true for NaN
            raise ValueError(f"`{name}` must not be negative, got {getattr(config, name)}.")
    if not math.isfinite(config.overlong_penalty_factor or 0.0):
        raise ValueError(f"`overlong_penalty_factor` must be finite, got {config.overlong_penalty_factor}.")
    for name, allowed in CHOICES.items():
        if getattr(config, name) not in allowed:
            listed = " or ".join(repr(value) for value in allowed)
            raise ValueError(f"`{name}` must be {listed}, got {getattr(config, name)!r}.")
    if config.dynamic_sampling_on_exhaustion == "raise" and config.max_refill_rounds == 0:
        raise ValueError(
            "max_refill_rounds=0 contradicts dynamic_sampling_on_exhaustion='raise': without refills, the first "
            "degenerate group would end the run. Set 'fill', or allow refills."
        )
    _check_prompt_switches(config)
    if config.token_level_scope == "prompt":
        check_token_weights(config, "token_level_scope='prompt'")


def check_token_weights(config: "DAPOConfig", name: str) -> None:
    """Raises `ValueError` if the loss cannot be weighted by token; `name` is the option that asks for weights."""
    if config.loss_type not in TOKEN_SUM_LOSSES:
        raise ValueError(
            f"`{name}` needs a loss_type among {list(TOKEN_SUM_LOSSES)}, which are a sum over tokens divided by "
            f"one number, and loss_type={config.loss_type!r} is not. Set one of them, or leave `{name}` out."
        )
    if config.beta != 0:
        raise ValueError(
            f"`{name}` weights the tokens of the policy's loss, and the KL penalty of beta={config.beta} would keep "
            f"weights of its own. Set beta=0, or leave `{name}` out."
        )


def _check_lengths(config: "DAPOConfig") -> None:
    if config.soft_overlong_punishment and config.max_completion_length is None:
        raise ValueError(
            "soft_overlong_punishment=True is measured from a maximum length, but max_completion_length=None. "
            "Set `max_completion_length`, or soft_overlong_punishment=False."
        )
    if config.soft_punish_cache is not None and config.soft_punish_cache < 1:
        raise ValueError(
            f"`soft_punish_cache` must be at least 1 token, got {config.soft_punish_cache}. To have no length "
            "penalty set soft_overlong_punishment=False."
        )


def _check_prompt_switches(config: "DAPOConfig") -> None:
    if not 0 < config.max_round_batches < math.inf:
        raise ValueError(f"`max_round_batches` must be above 0 and finite, got {config.max_round_batches}.")
    most = config.max_round_batches * (1 + config.max_refill_rounds)
    if config.dynamic_sampling and most < 1:
        raise ValueError(
            f"max_round_batches={config.max_round_batches} and max_refill_rounds={config.max_refill_rounds} give at "
            f"most {most:.3g} of a batch, so that no batch could be filled. Set max_refill_rounds to at least "
            f"{math.ceil(1 / config.max_round_batches - 1e-9) - 1}."
        )
    if config.skip_solved_above is not None and not 0 < config.skip_solved_above <= 1:
        raise ValueError(f"`skip_solved_above` must be above 0 and at most 1, got {config.skip_solved_above}.")
    if config.surplus_max_age is not None and config.surplus_max_age < config.updates_between_generations:
        raise ValueError(
            f"surplus_max_age={config.surplus_max_age} is below the {config.updates_between_generations:g} updates "
            "between two rollouts, so no group could be carried. Raise it, set surplus='discard', or lower "
            "the updates per rollout."
        )
    if config.surplus_max_age is not None and config.surplus != "carry":
        raise ValueError(
            f"surplus_max_age={config.surplus_max_age} says how long surplus groups are carried, and "
            f"surplus={config.surplus!r} carries none. Set surplus='carry', or leave `surplus_max_age` out."
        )
    switched = [name for name in PROMPT_SWITCHES if getattr(config, name) is not None]
    switched += ["surplus"] if config.surplus == "carry" else []
    if switched and not config.dynamic_sampling:
        raise ValueError(
            f"{switched[0]}={getattr(config, switched[0])!r} is a switch of dynamic sampling, and "
            f"dynamic_sampling=False. Leave `{switched[0]}` out, or set dynamic_sampling=True."
        )
