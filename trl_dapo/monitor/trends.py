"""
The Mann-Kendall test: whether a short series rises or falls, whatever its values. Plain numbers in and out.
"""

import math
from collections import Counter
from collections.abc import Sequence


def mann_kendall(values: Sequence[float]) -> float:
    """
    Returns the z of the Mann-Kendall test: how far rises outnumber falls among all pairs, in standard deviations.

    `z = (S - sign(S)) / sqrt(var S)` with `S = sum over i < j of sign(x_j - x_i)` and
    `var S = (n (n - 1) (2 n + 5) - sum over ties of t (t - 1) (2 t + 5)) / 18`. Beyond 2.3, chance alone does that in
    one of a hundred series without a trend. 0 where all values are equal.

    Args:
        values (`Sequence[float]`):
            A series, in order.
    """
    n = len(values)
    score = sum((values[j] > values[i]) - (values[j] < values[i]) for i in range(n) for j in range(i + 1, n))
    ties = sum(t * (t - 1) * (2 * t + 5) for t in Counter(values).values())
    variance = (n * (n - 1) * (2 * n + 5) - ties) / 18
    if score == 0 or variance <= 0:
        return 0.0
    return (score - math.copysign(1, score)) / math.sqrt(variance)
