"""
What was given goes before what is on by default.

A toggle of [`DAPOConfig`] that was not given yields to a field of TRL that was, even where that field holds TRL's
default value. What contradicts itself although all of it was given is left for [`DAPOConfig`] to refuse. Pure: a
mapping of fields in, one line per change out.
"""

from collections.abc import Set
from typing import Any

from trl_dapo.dapo.config import PAPER_EPSILON_HIGH, TOGGLES, toggles_beside

from .reward_names import LENGTH_PENALTY_NAMES


# The fields of TRL that speak of the same thing as a toggle
RIVALS = {
    "overlong_filtering": ("mask_truncated_completions",),
    "clip_higher": ("epsilon_high", "epsilon", "loss_type"),
    "soft_overlong_punishment": (),
    "token_level_loss": ("loss_type",),
    "dynamic_sampling": ("reward_funcs",),
}


def yield_to_given(values: dict[str, Any], given: Set[str]) -> list[str]:
    """
    Turns toggles and defaults off that contradict a field that was given, in `values`, and returns one line for each.

    Args:
        values (`dict[str, Any]`):
            All fields by name, with their defaults.
        given (`Set[str]`):
            Names of the fields that the user wrote, in the file or on the command line.
    """
    agreeing = _agreeing_toggles(values, given)
    lines = []
    for toggle in TOGGLES:
        if toggle not in given and not agreeing[toggle]:
            values[toggle] = False
            # Of the loss types, only CISPO has to do with the clip range
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
        # Written out, TRL's default says that the upper bound is `epsilon`
        agreeing["clip_higher"] = False
    if "reward_funcs" in given and values["reward_model_name_or_path"] is None:
        agreeing["dynamic_sampling"] = not set(values["reward_funcs"] or ["?"]) <= LENGTH_PENALTY_NAMES
    return agreeing
