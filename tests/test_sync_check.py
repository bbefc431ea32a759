"""Mismatch of sampler and trainer, and groups that importance sampling takes out: numbers by hand."""

import math

import pytest
import torch

from trl_dapo.rollouts.mismatch import masked_groups, mismatch, mismatch_metrics
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


def test_a_number_that_an_engine_does_not_give_is_no_difference():
    found = mismatch(torch.zeros(1, 2), torch.tensor([[math.nan, -math.log(2)]]), torch.ones(1, 2))
    # r = 2 on one of two tokens: (2 - 1 - ln 2) / 2
    assert found.k3 == pytest.approx((1 - math.log(2)) / 2, abs=1e-6)


OUTPUT = {
    "importance_sampling_ratio": torch.tensor([[1.0], [0.0], [0.0], [1.0]]),
    "completion_mask": torch.ones(4, 2),
    "old_per_token_logps": torch.tensor([[math.log(2), 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]),
    "sampling_per_token_logps": torch.zeros(4, 2),
    "advantages": torch.tensor([1.0, -1.0, 1.0, 0.0]),
}


def test_the_metrics_of_a_rollout_by_hand(caplog):
    # Of two groups, the second has lost its only row with an advantage
    found = mismatch_metrics(OUTPUT, lambda rows: rows, 2, masks=True)
    assert found["rollout/masked_groups"] == 0.5
    # One token of 8 has a ratio of 2; weights 2, 1, 1, 1: 25 / (4 * 7)
    assert found["rollout/mismatch_k3"] == pytest.approx((1 - math.log(2)) / 8, abs=1e-6)
    assert found["rollout/effective_sample_size"] == pytest.approx(25 / 28, abs=1e-6)
    assert mismatch_metrics({}, None, 2, masks=True) == {}
    assert "rollout/masked_groups" not in mismatch_metrics(OUTPUT, lambda rows: rows, 2, masks=False)


def test_tokens_of_tools_do_not_count():
    tools = torch.ones(4, 2)
    tools[0, 0] = 0
    found = mismatch_metrics({**OUTPUT, "tool_mask": tools}, lambda rows: rows, 2, masks=False)
    assert found == {"rollout/mismatch_k3": 0.0, "rollout/effective_sample_size": 1.0}


def test_rows_of_all_processes_count():
    def gather(rows):
        # Another process with rows whose ratio is 1, and whose groups are whole
        more = torch.zeros_like(rows)
        more[:, 1:2] = 2.0
        return torch.cat([rows, more if rows.shape[1] == 3 else torch.ones_like(rows)])

    found = mismatch_metrics(OUTPUT, gather, 2, masks=True)
    assert found["rollout/masked_groups"] == 0.25
    assert found["rollout/mismatch_k3"] == pytest.approx((1 - math.log(2)) / 16, abs=1e-6)
    # (2 + 7)^2 / (8 * (4 + 7))
    assert found["rollout/effective_sample_size"] == pytest.approx(81 / 88, abs=1e-6)


@pytest.mark.parametrize(("rank", "buffers"), [(1, 1), (2, 8), (8, 8), (9, 16), (257, 320), (512, 512)])
def test_ranks_are_rounded_up(rank, buffers):
    assert engine_rank(rank) == buffers
