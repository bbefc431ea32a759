"""
Lines about a config: what its promotion changed, and which of its parts have no effect.
"""

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from trl import GRPOConfig as HostConfig

from ..host.required import required
from .toggles import TOGGLES, UNCLIPPED_LOSSES


if TYPE_CHECKING:
    from .config import DAPOConfig


def changes_since(promoted: "DAPOConfig", config: HostConfig) -> list[str]:
    """Returns one line for each field of TRL that promotion changed, and one for each toggle."""
    # Without `beta` there is no KL term to be weighted
    silent = set() if promoted.beta else {"use_bias_correction_kl"}
    names = [own.name for own in fields(HostConfig) if own.name not in silent]
    changed = [name for name in names if getattr(config, name) != getattr(promoted, name)]
    lines = [f"{name}: {_plain(getattr(config, name))} -> {_plain(getattr(promoted, name))}" for name in changed]
    if changed:
        lines.append(
            f"A value that equals TRL's default cannot be told from one that was not set: if you chose one of "
            f"{', '.join(changed)}, give a DAPOConfig with it instead of the GRPOConfig."
        )
    clips = promoted.loss_type not in (*UNCLIPPED_LOSSES, "cispo")
    if clips and ("epsilon_high" in changed or is_set(config, "epsilon")):
        high = promoted.epsilon if promoted.epsilon_high is None else promoted.epsilon_high
        lines.append(f"clip range of the importance ratio: {1 - promoted.epsilon:g} to {1 + high:g}")
    return lines + [f"{toggle}: {_state_of(promoted, toggle)}" for toggle in TOGGLES]


def inert_toggles(config: "DAPOConfig") -> list[str]:
    """Returns one line for each part that is on but cannot have the effect that its name promises."""
    lines = []
    if config.clip_higher and config.loss_type in UNCLIPPED_LOSSES:
        lines.append(f"`clip_higher` has no effect: loss_type={config.loss_type!r} does not clip.")
    elif config.clip_higher and config.updates_between_generations <= 1:
        lines.append(
            "`clip_higher` has no effect: with one optimizer update per rollout the importance ratio is always 1. "
            f"Raise `steps_per_generation` ({config.steps_per_generation}) to a multiple of "
            f"`gradient_accumulation_steps` ({config.gradient_accumulation_steps}): "
            f"{16 * config.gradient_accumulation_steps} is the paper's 16 updates per rollout."
        )
    band, longest = config.soft_punish_cache, config.max_completion_length
    if config.soft_overlong_punishment and required(band) >= required(longest):
        lines.append(
            f"`soft_overlong_punishment` is not soft: soft_punish_cache={band} is not below "
            f"max_completion_length={longest}, so every token of every completion is penalised."
        )
    if 0 < config.max_steps < 2 * required(config.warmup_steps):
        lines.append(
            f"Warm-up takes {config.warmup_steps:g} of {config.max_steps} optimizer steps. Lower `warmup_steps` "
            "(by default the paper's 20 rollouts)."
        )
    return lines


def is_set(config: HostConfig, name: str) -> bool:
    """Returns whether a field of TRL's config has another value than TRL's default."""
    default = next(own.default for own in fields(HostConfig) if own.name == name)
    return default is MISSING or getattr(config, name) != default


def _state_of(config: "DAPOConfig", toggle: str) -> str:
    if not getattr(config, toggle):
        return "off"
    inert = any(line.startswith(f"`{toggle}` has no effect") for line in config.inert_parts())
    return "without effect here, see below" if inert else "on"


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
