"""
The rules of the diagnosis, one fault each, in the order in which they are told.
"""

from ..rule import Rule
from . import (
    clip_inert,
    critic_explains_nothing,
    entropy_collapse,
    entropy_explosion,
    gradient_spikes,
    groups_all_right,
    groups_all_wrong,
    held_out_falls,
    kl_runaway,
    length_growth,
    no_chat_template,
    not_finite,
    refill_cap,
    sampler_apart,
    shaping_dominates,
    truncated_at_start,
    unparseable_answers,
    weights_not_moving,
    zero_gradient,
)


__all__ = ["RULES"]

RULES: tuple[Rule, ...] = tuple(
    module.RULE
    for module in (
        not_finite,
        no_chat_template,
        truncated_at_start,
        groups_all_wrong,
        groups_all_right,
        refill_cap,
        unparseable_answers,
        zero_gradient,
        weights_not_moving,
        clip_inert,
        entropy_collapse,
        entropy_explosion,
        length_growth,
        shaping_dominates,
        held_out_falls,
        gradient_spikes,
        kl_runaway,
        sampler_apart,
        critic_explains_nothing,
    )
)
