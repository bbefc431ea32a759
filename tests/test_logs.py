"""What a rollout of several rounds logs under TRL's keys."""

import pytest
import torch

from trl_dapo.logs import group_metrics, host_metrics, user_metrics
from trl_dapo.sampling.candidates import Candidates
from trl_dapo.sampling.groups import Selection, judge_groups
from trl_dapo.sampling.rollouts import Round, Row


def row() -> Row:
    return Row({}, "p", [1], [2], "c", None, None, None, [])


def finished(rewards: list[float], lengths: list[int], truncated: list[bool], host=None, user=None) -> Round:
    return Round(
        keeps_going=False,
        rows=[row() for _ in rewards],
        # The second column is a length penalty
        rewards=torch.tensor([[reward, -0.5] for reward in rewards]),
        lengths=torch.tensor(lengths),
        truncated=torch.tensor(truncated),
        host_metrics=host or {},
        user_metrics=user or {},
    )


@pytest.fixture
def candidates() -> Candidates:
    """Groups of 2: a round of two, of which the second varies, and a round of one, which varies."""
    table = Candidates(num_generations=2, num_processes=1)
    first = finished(
        [0, 0, 0, 1],
        [10, 10, 2, 4],
        [True, True, False, False],
        host={"tools/call_frequency": [0.5], "tools/failure_frequency": [1.0], "completions/mean_length": [6.5]},
        user={"formatted": [0.0]},
    )
    second = finished(
        [1, 0],
        [6, 8],
        [False, True],
        host={"tools/call_frequency": [3.0], "tools/failure_frequency": [0.0], "completions/mean_length": [7.0]},
        user={"formatted": [1.0]},
    )
    for one in (first, second):
        table.add(one, judge_groups(one.rewards[:, 0].view(-1, 2), torch.ones(len(one.rows) // 2, 2) > 0, 1e-6))
    return table


def test_lengths_are_those_of_the_trained_rows(candidates):
    # groups 1 and 2: lengths 2, 4, 6, 8, of which the last is truncated
    logged = host_metrics(candidates, [1, 2])
    assert logged["completions/mean_length"] == 5
    assert logged["completions/clipped_ratio"] == 0.25
    assert logged["completions/mean_terminated_length"] == 4
    assert logged["completions/max_terminated_length"] == 6


def test_tool_calls_are_per_row_and_failures_per_call(candidates):
    # 4 rows with 0.5 calls each and 2 rows with 3: 8 calls in 6 rows; the 2 calls of the first round failed
    logged = host_metrics(candidates, [1, 2])
    assert logged["tools/call_frequency"] == pytest.approx(8 / 6)
    assert logged["tools/failure_frequency"] == pytest.approx(2 / 8)


def test_metrics_of_reward_functions_are_weighted_by_kept_rows(candidates):
    # 2 of the trained rows are of the first round, 2 of the second
    assert user_metrics(candidates, [1, 2]) == {"formatted": 0.5}
    assert user_metrics(candidates, [2]) == {"formatted": 1.0}


def test_generated_and_trained_families(candidates):
    metric = candidates.column("rewards")[:, 0]
    logged = group_metrics(candidates, Selection([0, 1], [True, False]), metric, [1], updates_per_rollout=4)
    assert logged["dapo/groups_generated"] == 3
    assert logged["dapo/frac_informative"] == pytest.approx(2 / 3)
    assert logged["dapo/frac_all_wrong"] == pytest.approx(1 / 3)
    assert logged["dapo/groups_kept"] == 1
    assert logged["dapo/exhausted"] == 1
    assert logged["dapo/refill_rounds"] == 1
    # 6 completions for one informative group that is trained on
    assert logged["dapo/samples_per_informative_group"] == 6
    assert logged["dapo/accuracy_generated"] == pytest.approx(2 / 6)
    assert logged["dapo/overlong_frac"] == pytest.approx(3 / 6)
    assert logged["dapo/mean_length_penalty"] == -0.5
