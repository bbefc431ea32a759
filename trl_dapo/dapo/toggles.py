"""
The five toggles, and the fields of TRL that they set.

In here: names, which field belongs to which toggle, and that both say the same. Not in here: what a toggle does.
"""

from typing import TYPE_CHECKING, Any

from ..host.required import required
from .overlong import default_soft_punish_cache


if TYPE_CHECKING:
    from .config import DAPOConfig


# In the order of the paper's Table 1, in which each row adds one of them
TOGGLES = (
    "overlong_filtering",
    "clip_higher",
    "soft_overlong_punishment",
    "token_level_loss",
    "dynamic_sampling",
)

# Names of the configs of the ladder: each adds one part to the one before. The paper's Table 1 calls the first "naive
# GRPO"; here that name means the published GRPO, with its KL term
LADDER = (
    "GRPO without KL",
    "+ overlong filtering",
    "+ clip-higher",
    "+ soft overlong punishment",
    "+ token-level loss",
    "+ dynamic sampling",
)

# The field of TRL that a toggle sets, if there is one
GOVERNED = {
    "overlong_filtering": "mask_truncated_completions",
    "clip_higher": "epsilon_high",
    "token_level_loss": "loss_type",
}

# Switches of dynamic sampling that decide which prompts are generated
PROMPT_SWITCHES = ("skip_degenerate", "skip_solved_above", "prompt_selection")

# Parameters that are refused while their toggle is off, since nothing would read them
RELIANT = {
    "dynamic_sampling": (*PROMPT_SWITCHES, "surplus", "surplus_max_age"),
    "token_level_loss": ("token_level_scope",),
}

# TRL's loss types by how they weight tokens: all alike, or averaged within their completion first
TOKEN_LEVEL_LOSSES = ("dapo", "bnpo", "dr_grpo", "cispo", "vespo")
SEQUENCE_LEVEL_LOSSES = ("grpo", "sapo", "luspo")
UNCLIPPED_LOSSES = ("sapo", "vespo")

PAPER_EPSILON_HIGH = 0.28  # §4.1


def settle_toggles(config: "DAPOConfig") -> None:
    """Fills in what the toggles set. Raises `ValueError` if a field of TRL that was set contradicts its toggle."""
    _settle_overlong_filtering(config)
    _settle_clip_higher(config)
    _settle_token_level_loss(config)
    if config.soft_punish_cache is None and config.max_completion_length is not None:
        config.soft_punish_cache = default_soft_punish_cache(config.max_completion_length)
    if config.updates_per_rollout is None:
        config.updates_per_rollout = max(
            1, required(config.steps_per_generation) // config.gradient_accumulation_steps
        )


def toggles_beside(values: dict[str, Any]) -> dict[str, bool]:
    """
    Returns the toggles that agree with TRL's fields as the user has set them.

    Args:
        values (`dict[str, Any]`):
            Values of [`~trl.GRPOConfig`]'s fields by name. A field that is missing or has TRL's default agrees with
            every toggle.
    """
    epsilon_high, epsilon = values.get("epsilon_high"), values.get("epsilon", 0.2)
    loss_type = values.get("loss_type")
    raised = (PAPER_EPSILON_HIGH if epsilon_high is None else epsilon_high) > epsilon
    return {
        "overlong_filtering": True,
        "clip_higher": raised and not (loss_type == "cispo" and epsilon_high is None),
        "soft_overlong_punishment": True,
        "token_level_loss": loss_type not in SEQUENCE_LEVEL_LOSSES,
        "dynamic_sampling": True,
    }


def _settle_overlong_filtering(config: "DAPOConfig") -> None:
    if config.mask_truncated_completions is None:
        config.mask_truncated_completions = config.overlong_filtering
    if config.mask_truncated_completions != config.overlong_filtering:
        raise ValueError(
            f"overlong_filtering={config.overlong_filtering} contradicts "
            f"mask_truncated_completions={config.mask_truncated_completions}. Leave `mask_truncated_completions` "
            "out; the toggle sets it."
        )


def _settle_clip_higher(config: "DAPOConfig") -> None:
    if config.epsilon_high is None and config.clip_higher:
        if config.loss_type == "cispo":
            raise ValueError(
                "clip_higher=True with loss_type='cispo' needs an explicit `epsilon_high`: CISPO reads it as the "
                "cap of the importance ratio itself, for which TRL recommends 5.0. Set `epsilon_high`, or "
                "clip_higher=False."
            )
        config.epsilon_high = PAPER_EPSILON_HIGH
    if config.clip_higher and not required(config.epsilon_high) > config.epsilon:
        raise ValueError(
            f"clip_higher=True contradicts epsilon_high={config.epsilon_high}, which is not above "
            f"epsilon={config.epsilon}. Raise `epsilon_high` or set clip_higher=False."
        )
    # CISPO always needs `epsilon_high`, as the cap of the ratio, so there it does not mean clip-higher
    raised = config.epsilon_high is not None and config.epsilon_high > config.epsilon
    if not config.clip_higher and raised and config.loss_type != "cispo":
        raise ValueError(
            f"clip_higher=False contradicts epsilon_high={config.epsilon_high}, which is above "
            f"epsilon={config.epsilon}. Leave `epsilon_high` out or set clip_higher=True."
        )


def _settle_token_level_loss(config: "DAPOConfig") -> None:
    if config.loss_type is None:
        config.loss_type = "dapo" if config.token_level_loss else "grpo"
    known = TOKEN_LEVEL_LOSSES + SEQUENCE_LEVEL_LOSSES
    if config.loss_type not in known:
        raise ValueError(f"`loss_type` must be one of {list(known)}, got {config.loss_type!r}.")
    agreeing = TOKEN_LEVEL_LOSSES if config.token_level_loss else SEQUENCE_LEVEL_LOSSES
    if config.loss_type not in agreeing:
        raise ValueError(
            f"token_level_loss={config.token_level_loss} contradicts loss_type={config.loss_type!r}. Set "
            f"token_level_loss={not config.token_level_loss}, leave `loss_type` out, or choose one of "
            f"{list(agreeing)}."
        )
