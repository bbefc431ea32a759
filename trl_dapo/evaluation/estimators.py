"""
How often a policy is right, estimated from n samples of one question: avg@k, pass@k, maj@k.

Pure arithmetic on outcomes. Means and intervals over questions are in `intervals`.
"""

from collections import Counter
from collections.abc import Sequence
from math import comb
from statistics import fmean


def avg_at_k(right: Sequence[bool]) -> float:
    """
    Returns the share of right samples, the "avg@32" of the DAPO paper (section 4.1).

    Args:
        right (`Sequence[bool]`):
            Whether each of the k samples is right.

    Raises:
        `ValueError`: If there are none.
    """
    if not right:
        raise ValueError("avg@k needs at least one sample.")
    return fmean(right)


def pass_at_k(samples: int, right: int, k: int) -> float:
    """
    Returns the probability that at least one of k samples is right, without bias.

        pass@k = 1 - C(n - c, k) / C(n, k)

    It is Eq. (1) of [Evaluating Large Language Models Trained on Code](https://huggingface.co/papers/2107.03374): the
    share of the subsets of k samples with a right one. The plug-in estimate 1 - (1 - c / n)^k is too high.

    Args:
        samples (`int`):
            Samples that were drawn, n.
        right (`int`):
            How many of them are right, c.
        k (`int`):
            Samples that may be tried, from 1 to n.

    Raises:
        `ValueError`: If k is not between 1 and n, or c not between 0 and n.

    Example:
    ```python
    >>> pass_at_k(4, 1, 2)
    0.5
    ```
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@k needs k between 1 and the number of samples, {samples}; got k={k}.")
    if not 0 <= right <= samples:
        raise ValueError(f"pass@k needs between 0 and {samples} right samples; got {right}.")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def maj_at_k(answers: Sequence[str | None], right: Sequence[bool]) -> float:
    """
    Returns how right the majority's answer is: the most frequent one is the policy's only answer.

    Answers that are equally frequent share the vote. An answer that counts as right in some samples only has the share
    of these. Samples without an answer do not vote; where none has one, the result is 0.

    Args:
        answers (`Sequence[str | None]`):
            Normalised answer of each of the k samples, `None` where there is none.
        right (`Sequence[bool]`):
            Whether each sample is right.

    Raises:
        `ValueError`: If the two differ in length, or are empty.

    Example:
    ```python
    >>> maj_at_k(["3", "3", "4", None], [True, True, False, False]), maj_at_k(["3", "4"], [True, False])
    (1.0, 0.5)
    ```
    """
    if len(answers) != len(right) or not answers:
        raise ValueError(f"maj@k needs an answer for each sample; got {len(answers)} for {len(right)} samples.")
    votes = Counter(answer for answer in answers if answer is not None)
    most = max(votes.values(), default=0)
    winners = [answer for answer, count in votes.items() if count == most]
    if not winners:
        return 0.0
    return fmean(
        fmean(good for answer, good in zip(answers, right, strict=True) if answer == winner) for winner in winners
    )


def ks_of(samples: int) -> list[int]:
    """Returns the k of which pass@k is reported: powers of 2, and the number of samples."""
    return sorted({samples, *(2**power for power in range(samples.bit_length()))} - ({1} if samples > 1 else set()))
