"""
P-values of several differences at once.
"""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """
    Returns p-values corrected so that, at any level, the probability of one false finding or more is at most it.

    The smallest of `m` is multiplied by `m`, the next by `m - 1` and so on; none is smaller than one before it, and
    none is above 1. Holm (1979), A simple sequentially rejective multiple test procedure.

    Args:
        p_values (`Sequence[float]`):
            The p-values, in any order, which is kept.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
