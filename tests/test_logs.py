"""What a rollout of several rounds logs under TRL's keys and its own, with and without groups of earlier rollouts."""

import pytest
import torch

from trl_dapo.dapo.logs import group_metrics, host_metrics, user_metrics
from trl_dapo.dapo.sampling.candidates import Candidates
from trl_dapo.dapo.sampling.groups import Selection, judge_groups
from trl_dapo.dapo.sampling.rollouts import Round, Row


def row() -> Row:
    return Row({}, "p", [1], [2], "c", None, None, None, [])


def finished(
    rewards: list[float], lengths: list[int], truncated: list[bool], host=None, user=None, steps=None, carried=False
) -> Round:
    return Round(
        keeps_going=False,
        rows=[row() for _ in rewards],
        # The second column is a length penalty
        rewards=torch.tensor([[reward, -0.5] for reward in rewards]),
        lengths=torch.tensor(lengths),
        truncated=torch.tensor(truncated),
        steps=torch.tensor([7] * len(rewards) if steps is None else steps),
        carried=carried,
        host_metrics=host or {},
        user_metrics=user or {},
    )


@pytest.fixture
def candidates() -> Candidates:
    """Groups of 2: a round of two, of which the second varies, and a round of one, which varies."""
    return table_of(*rounds_of_step_seven())


def table_of(*rounds: Round) -> Candidates:
    table = Candidates(num_generations=2, num_processes=1)
    for one in rounds:
        table.add(one, judge_groups(one.rewards[:, 0].view(-1, 2), torch.ones(len(one.rows) // 2, 2) > 0, 1e-6))
    return table


def rounds_of_step_seven() -> list[Round]:
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
    return [first, second]


@pytest.fixture
def with_carried() -> Candidates:
    """The same behind three groups of earlier rollouts, all of them long and truncated."""
    carried = finished(
        [1, 5, 5, 1, 1, 5], [20, 20, 30, 30, 40, 40], [True] * 6, steps=[3, 3, 5, 5, 6, 6], carried=True
    )
    return table_of(carried, *rounds_of_step_seven())


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


def groups_logged(table, selection, metric, step=7, shaped=None, filters=False):
    shaped = metric if shaped is None else shaped
    settings = {"tolerance": 1e-6, "filters_truncated": filters, "updates_per_rollout": 4, "step": step}
    return group_metrics(table, selection, metric, shaped, [1], **settings)


def test_generated_and_trained_families(candidates):
    metric = candidates.column("rewards")[:, 0]
    logged = groups_logged(candidates, Selection([0, 1], [True, False]), metric)
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
    assert logged["dapo/updates_per_rollout"] == 4
    # Group 2 is informative and has no place; group 0 is neither, and has one
    assert logged["dapo/groups_replaced"] == 0
    # Group 0 is a filler; group 1 has 2 and 4 tokens: 1/3 and 2/3 instead of halves
    assert logged["dapo/rows_filtered"] == 0
    assert logged["dapo/weight_moved"] == pytest.approx(1 / 6)
    # Group 2 is informative and has no place
    assert logged["dapo/surplus_groups"] == 1
    assert logged["dapo/carried_groups"] == 0
    assert logged["dapo/carried_age"] == 0


def test_degenerate_groups_that_are_not_trained_on_are_replaced(candidates, with_carried):
    assert logged_with(candidates, [1, 2])["dapo/groups_replaced"] == 1
    # All groups are trained on, as without dynamic sampling
    assert logged_with(candidates, [0, 1, 2])["dapo/groups_replaced"] == 0
    # Group 3 is the one that is not informative; carried groups always are
    assert logged_with(with_carried, [0, 1])["dapo/groups_replaced"] == 1


def test_filtered_rows_are_the_truncated_ones_that_would_be_in_the_loss(candidates):
    metric = candidates.column("rewards")[:, 0]
    # Of groups 0 and 2, rows of 10, 10, 6 and 8 tokens, all but the third are truncated
    selection = Selection([0, 2], [False, False])
    logged = groups_logged(candidates, selection, metric, filters=True)
    assert (logged["dapo/rows_filtered"], logged["dapo/weight_moved"]) == (3 / 4, 0)
    # Without the filter, weights are 10/34, 10/34, 6/34 and 8/34: 1.5/34 twice above a quarter
    logged = groups_logged(candidates, selection, metric)
    assert (logged["dapo/rows_filtered"], logged["dapo/weight_moved"]) == (0, pytest.approx(3 / 34))
    # A filler is out of the loss in any case
    logged = groups_logged(candidates, Selection([0, 2], [True, False]), metric, filters=True)
    assert logged["dapo/rows_filtered"] == 1 / 4


# ------------------------------------------------------------------------------------------ groups of earlier rollouts


def logged_with(table: Candidates, groups: list[int], step: int = 7) -> dict[str, float]:
    selection = Selection(groups, [not table.informative[group] for group in groups])
    return groups_logged(table, selection, table.column("rewards")[:, 0], step)


def test_carried_groups_are_trained_on_but_not_generated(candidates, with_carried):
    # Groups 0 to 2 are carried; 3, 4 and 5 were generated, as 0, 1 and 2 in the table without carried ones
    alone, logged = logged_with(candidates, [1]), logged_with(with_carried, [0, 2, 4])
    for name in (
        "frac_informative",
        "frac_all_correct",
        "frac_all_wrong",
        "refill_rounds",
        "groups_generated",
        "overlong_frac",
        "mean_length_generated",
        "accuracy_generated",
    ):
        assert logged[f"dapo/{name}"] == alone[f"dapo/{name}"]
    assert logged["dapo/groups_generated"] == 3
    assert logged["dapo/refill_rounds"] == 1
    assert logged["dapo/frac_informative"] == pytest.approx(2 / 3)
    # (10 + 10 + 2 + 4 + 6 + 8) / 6, and the rewards 0, 0, 0, 1, 1, 0
    assert logged["dapo/mean_length_generated"] == pytest.approx(40 / 6)
    assert logged["dapo/accuracy_generated"] == pytest.approx(2 / 6)
    assert logged["dapo/groups_kept"] == 3
    # 6 completions for 3 groups
    assert logged["dapo/samples_per_informative_group"] == 2


def test_shares_of_verdicts_are_over_the_generated_groups():
    carried = finished([1, 5, 5, 1], [2] * 4, [False] * 4, carried=True)
    # All right, all wrong, varied, all right: 2, 1 and 1 of 4, not of 6
    generated = finished([1, 1, 0, 0, 1, 0, 3, 3], [2] * 8, [False] * 8)
    logged = logged_with(table_of(carried, generated), [0, 1])
    assert logged["dapo/frac_all_correct"] == 2 / 4
    assert logged["dapo/frac_all_wrong"] == 1 / 4
    assert logged["dapo/frac_informative"] == 1 / 4


@pytest.mark.parametrize(
    ("groups", "carried", "age"),
    [
        # Generated at steps 3, 5 and 6, trained on at step 7: 4, 2 and 1 updates ago
        ([0, 1, 2], 3, 7 / 3),
        ([0, 2, 4, 5], 2, 2.5),
        ([1], 1, 2.0),
        # In the order of ranks
        ([4, 2, 0, 5], 2, 2.5),
        ([4, 5], 0, 0.0),
    ],
)
def test_ages_are_updates_since_generation_of_the_carried_groups_in_the_batch(with_carried, groups, carried, age):
    logged = logged_with(with_carried, groups)
    assert logged["dapo/carried_groups"] == carried
    assert logged["dapo/carried_age"] == pytest.approx(age)


def test_ages_grow_with_the_step(with_carried):
    assert logged_with(with_carried, [0, 1], step=11)["dapo/carried_age"] == 7


@pytest.mark.parametrize(
    ("groups", "surplus"),
    # Informative are all but group 3
    [([0, 1, 2], 2), ([0, 1, 2, 4, 5], 0), ([2, 3], 4), ([0, 2, 4], 2)],
)
def test_surplus_groups_are_the_informative_ones_that_are_not_trained_on(with_carried, groups, surplus):
    assert logged_with(with_carried, groups)["dapo/surplus_groups"] == surplus


def test_length_penalties_are_those_of_carried_groups_too(with_carried):
    with_carried.rounds[0].rewards[0:2, 1] = -1.0
    # Group 0 has -1 and -1, group 4 has -0.5 and -0.5
    assert logged_with(with_carried, [0, 4])["dapo/mean_length_penalty"] == -0.75


def test_lengths_are_those_of_carried_groups_too(with_carried):
    # 20, 20, 2, 4
    logged = host_metrics(with_carried, [0, 4])
    assert logged["completions/mean_length"] == 11.5
    assert logged["completions/clipped_ratio"] == 0.5


def test_what_the_host_logged_is_that_of_this_rollout(candidates, with_carried):
    for name in ("tools/call_frequency", "tools/failure_frequency"):
        assert host_metrics(with_carried, [0, 4])[name] == host_metrics(candidates, [1])[name]


def test_metrics_of_reward_functions_are_those_of_this_rollout(with_carried):
    # The 2 rows of group 0 were logged when they were generated; 2 rows each of groups 4 and 5
    assert user_metrics(with_carried, [0, 4, 5]) == {"formatted": 0.5}
    assert user_metrics(with_carried, [0, 1, 5]) == {"formatted": 1.0}
