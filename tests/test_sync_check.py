"""Mismatch of sampler and trainer, and groups that importance sampling takes out: numbers by hand."""

import math

import pytest
import torch

from trl_dapo.rollouts.mismatch import masked_groups, mismatch
from trl_dapo.rollouts.servable import engine_rank


def test_mismatch_by_hand():
    # Log-ratios ln 2 and 0 in row 0, ln 1/2 and a masked token in row 1. k3 = ((2 - 1 - ln 2) + 0 + (1/2 - 1 + ln 2))
    # / 3 = 1/6. Weights 2 and 1/2: (5/2)^2 / (2 * (4 + 1/4)) = 6.25 / 8.5
    trainer = torch.tensor([[math.log(2), 0.0], [-math.log(2), 9.0]])
    found = mismatch(trainer, torch.zeros(2, 2), torch.tensor([[1, 1], [1, 0]]))
    assert found.k3 == pytest.approx(1 / 6, abs=1e-6)
    assert found.effective_sample_size == pytest.approx(6.25 / 8.5, abs=1e-6)


def test_a_long_row_does_not_overflow():
    found = mismatch(torch.full((2, 1000), 1.0), torch.zeros(2, 1000), torch.ones(2, 1000))
    assert found.effective_sample_size == pytest.approx(1.0)


def test_groups_without_a_row_that_counts():
    # Group 0: both rows masked. Group 1: the only row with an advantage is masked. Group 2: whole. Group 3: no
    # advantage, but its rows are there
    ratio = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])[:, None]
    advantages = torch.tensor([1.0, -1.0, 1.0, 0.0, 1.0, -1.0, 0.0, 0.0])
    assert masked_groups(ratio, torch.ones(8, 3), advantages, 2).tolist() == [True, True, False, False]


@pytest.mark.parametrize(("rank", "buffers"), [(1, 1), (2, 8), (8, 8), (9, 16), (257, 320), (512, 512)])
def test_ranks_are_rounded_up(rank, buffers):
    assert engine_rank(rank) == buffers
