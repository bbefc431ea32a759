"""
What the user set wins over what is on by default.

A toggle of [`DAPOConfig`] that the user did not set is turned off if it contradicts a field of TRL that the user set,
even to TRL's own default. If the user set both, [`DAPOConfig`] refuses the contradiction.
"""

from collections.abc import Set
from typing import Any

from trl_dapo.dapo.toggles import PAPER_EPSILON_HIGH, TOGGLES, toggles_beside

from .reward_names import LENGTH_PENALTY_NAMES


# Fields of TRL that control the same thing as a toggle
RIVALS = {
    "overlong_filtering": ("mask_truncated_completions",),
    "clip_higher": ("epsilon_high", "epsilon", "loss_type"),
    "soft_overlong_punishment": (),
    "token_level_loss": ("loss_type",),
    "dynamic_sampling": ("reward_funcs",),
}


def yield_to_given(values: dict[str, Any], given: Set[str]) -> list[str]:
    """
    Turns off, in `values`, the toggles and defaults that contradict a field that the user set.

    Args:
        values (`dict[str, Any]`):
            All fields by name, with their defaults.
        given (`Set[str]`):
            Names of the fields that the user set, in the file or on the command line.

    Returns:
        `list[str]`: one line for each change.
    """
    agreeing = _agreeing_toggles(values, given)
    lines = []
    for toggle in TOGGLES:
        if toggle not in given and not agreeing[toggle]:
            values[toggle] = False
            # Of the loss types, only CISPO changes the clip range: do not blame it where an epsilon was set
            rivals = [name for name in RIVALS[toggle] if name in given]
            if "epsilon_high" in rivals or "epsilon" in rivals:
                rivals = [name for name in rivals if name != "loss_type"]
            because = ", ".join(f"{name}={values[name]}" for name in rivals)
            lines.append(f"{toggle} is off: {because} was given")
    lower, raised = values["epsilon"], values["clip_higher"] and "epsilon_high" not in given
    if "epsilon" in given and raised and lower < PAPER_EPSILON_HIGH:
        lines.append(f"the clip range is {1 - lower:g} to {1 + PAPER_EPSILON_HIGH:g}: epsilon={lower} was given")
    schedule = values["lr_scheduler_type"]
    if {"lr_scheduler_type", "warmup_steps"} & given == {"lr_scheduler_type"} and schedule != "constant_with_warmup":
        values["warmup_steps"] = 0.0
        lines.append(f"warmup_steps is 0, as in TRL: lr_scheduler_type={schedule} was given")
    return lines


def _agreeing_toggles(values: dict[str, Any], given: Set[str]) -> dict[str, bool]:
    agreeing = toggles_beside({name: values[name] for name in given if name in values})
    if "mask_truncated_completions" in given and values["mask_truncated_completions"] is not None:
        agreeing["overlong_filtering"] = values["mask_truncated_completions"]
    if "epsilon_high" in given and values["epsilon_high"] is None:
        # Set explicitly, TRL's default means that the upper bound is `epsilon`
        agreeing["clip_higher"] = False
    if "reward_funcs" in given and values["reward_model_name_or_path"] is None:
        agreeing["dynamic_sampling"] = not set(values["reward_funcs"] or ["?"]) <= LENGTH_PENALTY_NAMES
    return agreeing
