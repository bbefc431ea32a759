"""
How many groups a generation round asks for, given the share of recent groups that were informative.

A round that is too small costs another round; one that is too large wastes completions. The size therefore follows
from the distribution of the number of informative groups in a round, not from its mean. It depends only on counts that
are the same on every rank.
"""

import math

import torch


# A refill fills the batch with this probability, so one in ten needs another round
QUANTILE = 0.9

# The first round is as likely to be too large as too small: a refill can still follow
FIRST_QUANTILE = 0.5

# Weight of the counts so far when a rollout begins, since the policy and the prompts change: a memory of five rollouts
DECAY = 0.8


class KeepRate:
    """
    The share of generated groups that are informative, as counts over recent rollouts.

    Attributes:
        kept (`float`):
            Informative groups, earlier rollouts discounted.
        generated (`float`):
            All groups, discounted in the same way.
    """

    def __init__(self) -> None:
        self.kept = 0.0
        self.generated = 0.0

    def begin_rollout(self) -> None:
        """Discounts the counts of earlier rollouts."""
        self.kept *= DECAY
        self.generated *= DECAY

    def observe(self, kept: int, generated: int) -> None:
        """Adds the informative groups and all groups of a round."""
        self.kept += kept
        self.generated += generated

    def state_dict(self) -> dict[str, float]:
        return {"kept": self.kept, "generated": self.generated}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.kept, self.generated = state["kept"], state["generated"]


def largest_round(wanted: int, batches: float, multiple_of: int) -> int:
    """
    Returns the most groups that a round may generate.

    Args:
        wanted (`int`):
            Groups of a batch.
        batches (`float`):
            The bound, in batches. Below 1 it is rounded up, so that rounds which may fill a batch together can.
        multiple_of (`int`):
            The size is a multiple of this.
    """
    if batches >= 1:
        return int(wanted * batches) // multiple_of * multiple_of
    return math.ceil(wanted * batches / multiple_of - 1e-9) * multiple_of


def round_size(deficit: int, rate: KeepRate, quantile: float, multiple_of: int, limit: int) -> int:
    """
    Returns the smallest number of groups of which `deficit` are informative with probability `quantile`.

    With `k` of `n` recent groups informative, the share of informative groups has a `Beta(k + 1, n - k + 1)` posterior
    (uniform prior). The number of informative groups in a round then has a beta-binomial distribution, which is wider
    the less certain the estimate is: the fewer groups have been seen, the larger the round.

    Args:
        deficit (`int`):
            Informative groups still missing, at least 1.
        rate ([`KeepRate`]):
            Counts so far, including this rollout.
        quantile (`float`):
            Probability that the round suffices, in (0, 1).
        multiple_of (`int`):
            The size is rounded up to a multiple of this, so that its rows divide evenly over the ranks.
        limit (`int`):
            Upper bound in groups, itself a multiple of `multiple_of`.
    """
    # A probability equal to the quantile must pass, even if rounding makes the sum of its terms slightly smaller
    quantile -= 1e-9
    if _probability_of_enough(deficit, limit, rate) < quantile:
        return limit
    # The probability rises with the size, so a binary search finds the smallest one
    low, high = deficit, limit
    while low < high:
        middle = (low + high) // 2
        if _probability_of_enough(deficit, middle, rate) >= quantile:
            high = middle
        else:
            low = middle + 1
    return math.ceil(low / multiple_of) * multiple_of


def _probability_of_enough(deficit: int, size: int, rate: KeepRate) -> float:
    """Returns the probability that at least `deficit` of `size` groups are informative."""
    if size < deficit:
        return 0.0
    found = torch.arange(deficit, size + 1, dtype=torch.float64)
    successes = torch.tensor(rate.kept + 1, dtype=torch.float64)
    failures = torch.tensor(rate.generated - rate.kept + 1, dtype=torch.float64)
    choices = -torch.log(torch.tensor(size + 1.0, dtype=torch.float64)) - _log_beta(found + 1, size - found + 1)
    logs = choices + _log_beta(found + successes, size - found + failures) - _log_beta(successes, failures)
    return logs.exp().sum().item()


def _log_beta(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.lgamma(first) + torch.lgamma(second) - torch.lgamma(first + second)
