"""
The length penalty of soft overlong punishment: TRL's own reward function, with the paper's widths.

Eq. 13 of the DAPO paper (https://huggingface.co/papers/2503.14476) adds this penalty to the reward. It shapes the
advantage, but never decides which groups are informative. How it becomes a reward column is in `length_penalty.py`.
"""

from collections.abc import Callable

from trl.rewards import get_soft_overlong_punishment


# §4.1 of the paper: 16,384 expected tokens and a cache of 4,096 make a maximum of 20,480
PAPER_CACHE_SHARE = 4096 / 20480


def default_soft_punish_cache(max_completion_length: int) -> int:
    """Returns the width of the penalised band in tokens: the paper's share of `max_completion_length`, at least 1."""
    return max(1, round(PAPER_CACHE_SHARE * max_completion_length))


def length_penalty_function(max_completion_length: int, soft_punish_cache: int) -> Callable[..., list[float]]:
    """
    Returns TRL's soft overlong punishment, a reward function that maps completion lengths to values from -1 to 0.

    Args:
        max_completion_length (`int`):
            Longest completion in tokens, L_max.
        soft_punish_cache (`int`):
            Width in tokens of the penalised band below it, L_cache.
    """
    return get_soft_overlong_punishment(max_completion_len=max_completion_length, soft_punish_cache=soft_punish_cache)
