"""
Robust trends of short series: medians, Theil-Sen slopes, the Mann-Kendall test. Plain numbers in and out.
"""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import median


def theil_sen(steps: Sequence[float], values: Sequence[float]) -> float:
    """
    Returns the median of the slopes of all pairs of points: half of the points may be outliers and hardly move it.

    Sen, Estimates of the regression coefficient based on Kendall's tau (1968). Pairs of one step are left out; without
    a pair, the slope is 0.

    Args:
        steps, values (`Sequence[float]`):
            The points, of equal number.
    """
    slopes = [
        (values[j] - values[i]) / (steps[j] - steps[i])
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if steps[j] != steps[i]
    ]
    return median(slopes) if slopes else 0.0


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
