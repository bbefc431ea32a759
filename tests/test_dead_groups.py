"""Which groups shaping leaves without advantage, by hand, for both of TRL's ways to add rewards up."""

import math

import pytest
import torch

from trl_dapo.dapo.dead_groups import shaped_rewards


NAN = math.nan


def varies(rows, weights, aggregation):
    """Whether the shaped rewards of one group vary; one row per completion."""
    rewards = torch.tensor(rows)
    shaped = shaped_rewards(rewards, torch.tensor(weights), len(rows), aggregation)
    return (shaped.max() - shaped.min()).item() > 1e-6


@pytest.mark.parametrize(
    ("penalty", "weight", "summed", "normalized"),
    [
        # A right answer pays the whole penalty. Summed: 1 - 1 and 0. Normalized, each column has a standard deviation
        # of 1 and the two run against each other: 1 - 1
        (-1.0, 1.0, False, False),
        (-1.0, 0.5, True, True),
        # It pays half of it. Summed: 1 - 2 * 0.5 and 0. Normalized: 1 - 2
        (-0.5, 2.0, False, True),
    ],
)
def test_a_penalty_cancels_by_its_size_or_by_its_weight_alone(penalty, weight, summed, normalized):
    group = [[1.0, penalty], [0.0, 0.0], [1.0, penalty], [0.0, 0.0]]
    assert varies(group, [1.0, weight], "sum_then_normalize") == summed
    assert varies(group, [1.0, weight], "normalize_then_sum") == normalized


def test_a_column_that_does_not_apply_counts_as_its_mean_where_columns_are_normalized():
    # Both columns are constant where they apply, so nothing is left of either; uncentred they would be 5 and 5 + 5
    rows = [[1.0, 5.0], [1.0, NAN], [1.0, 5.0], [1.0, NAN]]
    assert not varies(rows, [1.0, 1.0], "normalize_then_sum")
    # Summed, they are 6 and 1
    assert varies(rows, [1.0, 1.0], "sum_then_normalize")


def test_rounding_leaves_no_group_alive():
    # 0.7 and 1 - 0.3 differ by 6e-8 in float32
    assert not varies([[0.7, 0.0], [1.0, -0.3]], [1.0, 1.0], "sum_then_normalize")


def test_a_completion_without_a_reward_is_not_shaped():
    shaped = shaped_rewards(torch.tensor([[NAN, NAN], [1.0, -1.0]]), torch.tensor([1.0, 0.5]), 2, "sum_then_normalize")
    assert shaped[0].isnan()
    assert shaped[1] == 0.5
