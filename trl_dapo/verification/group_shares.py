"""
Which share of groups is informative at another group size, from completions that were generated once.

A group of G completions is informative where its rewards are not all the same: with one pass rate p, its probability
is `1 - p^G - (1 - p)^G` (the condition `0 < #correct < G`, Eq. 11 of https://huggingface.co/papers/2503.14476). Plain
numbers in and out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb


SIZES = (4, 8, 16, 32)
# Below half, dynamic sampling generates more than two completions for each that is trained on
ENOUGH = 0.5
# What the last doubling of the group must add where no size is enough
WORTH_DOUBLING = 0.05


def informative_share(counts: Sequence[int], size: int) -> float:
    """
    Returns an estimate of the probability that `size` completions of a prompt do not all have the same reward.

    With `n = sum(counts) >= size`, it is the share of all groups of that size that can be chosen among the n,
    `1 - sum_v C(n_v, G) / C(n, G)`, which is unbiased. With fewer completions no unbiased estimate exists, and it is
    that of a group of n. It is then too low on average, since the probability only rises with the size, but closer
    than the plug-in `1 - sum_v (n_v / n)^G`, which is lower still.

    Args:
        counts (`Sequence[int]`):
            How many completions of the prompt have each reward; for a reward of two values, right and wrong.
        size (`int`):
            G, at least 2.
    """
    total = sum(counts)
    size = min(size, total)
    if size == 0:
        return 0.0
    return 1 - sum(comb(count, size) for count in counts) / comb(total, size)


@dataclass(frozen=True)
class Choice:
    """
    Informative share by group size, and the size that follows from it.

    Args:
        shares (`Mapping[int, float]`):
            Mean over the prompts, by size.
        recommended (`int`):
            The smallest size of which the share is at least a half. Where none is, the last size for which doubling
            still adds 0.05.
        is_enough (`bool`):
            Whether the share of the recommended size is at least a half.
    """

    shares: Mapping[int, float]
    recommended: int
    is_enough: bool


def choose_size(counts_of_prompts: Sequence[Sequence[int]], sizes: Sequence[int] = SIZES) -> Choice:
    """Returns the [`Choice`] for prompts with these counts; each size is twice the one before."""
    shares = {
        size: sum(informative_share(counts, size) for counts in counts_of_prompts) / max(1, len(counts_of_prompts))
        for size in sizes
    }
    enough = [size for size in sizes if shares[size] >= ENOUGH]
    if enough:
        return Choice(shares, enough[0], True)
    best = sizes[0]
    for smaller, larger in pairwise(sizes):
        if shares[larger] - shares[smaller] < WORTH_DOUBLING:
            break
        best = larger
    return Choice(shares, best, False)
