"""Rewards that TRL does not treat the way DAPO needs them."""

from .overlong import default_soft_punish_cache, soft_overlong_punishment, soft_overlong_punishments


__all__ = ["default_soft_punish_cache", "soft_overlong_punishment", "soft_overlong_punishments"]
