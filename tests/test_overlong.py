"""The length penalty against Eq. 13 of the paper, and which columns make up the raw metric."""

import pickle
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_dapo.dapo.config import DAPOConfig
from trl_dapo.dapo.overlong import default_soft_punish_cache, length_penalty_function
from trl_dapo.dapo.reward_columns import LENGTH_PENALTY, length_penalties, metric_columns


def penalties(maximum: int, cache: int, *lengths: int) -> list[float]:
    return length_penalty_function(maximum, cache)(completion_ids=[[0] * length for length in lengths])


# ------------------------------------------------------------------------------------------------------ length penalty


def test_the_papers_widths_give_the_papers_penalties():
    # L_max 20480, L_cache 4096: free up to 16384; half of the band is 2048 above it; -1 from 20480 on
    actual = penalties(20480, 4096, 1, 16384, 17408, 18432, 20480, 20481)
    assert actual == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


def test_the_band_begins_one_token_above_the_free_length():
    # L_max 10, L_cache 4: (6 - 7) / 4 at 7
    assert penalties(10, 4, 5, 6, 7, 8, 9, 10) == [0.0, 0.0, -0.25, -0.5, -0.75, -1.0]


def test_d7_and_d8_a_completion_above_the_maximum_costs_one():
    # NeMo's goes below -1; SkyRL's is 0.0 there, which is better than at the maximum
    assert penalties(10, 4, 11, 14, 1000) == [-1.0, -1.0, -1.0]


def test_a_band_of_one_token_punishes_the_longest_completion_alone():
    assert penalties(10, 1, 9, 10) == [0.0, -1.0]


@settings(deadline=None)
@given(st.integers(1, 60), st.data())
def test_penalties_lie_between_minus_one_and_zero_and_never_rise_with_length(maximum, data):
    cache = data.draw(st.integers(1, maximum))
    values = penalties(maximum, cache, *range(maximum + 5))
    assert all(-1 <= value <= 0 for value in values)
    assert values == sorted(values, reverse=True)
    # No jump at either end of the band: a token costs 1 / L_cache there as everywhere in it
    steps = [first - second for first, second in pairwise(values)]
    assert max(steps) <= 1 / cache + 1e-9
    assert (values[maximum - cache], values[maximum]) == (0, -1)


def test_the_penalty_has_the_name_by_which_it_is_found():
    assert length_penalty_function(10, 4).__name__ == LENGTH_PENALTY


def test_the_penalty_can_be_sent_to_another_process():
    remade = pickle.loads(pickle.dumps(length_penalty_function(10, 4)))
    assert remade(completion_ids=[[0] * 8]) == [-0.5]


@pytest.mark.parametrize(
    ("maximum", "cache"),
    # A fifth, rounded: 51.2, 102.4, 1.4 and 1.6; and at least one token
    [(20480, 4096), (16384, 3277), (256, 51), (512, 102), (8, 2), (7, 1), (3, 1), (1, 1)],
)
def test_the_default_band_is_the_papers_share(maximum, cache):
    assert default_soft_punish_cache(maximum) == cache


@settings(deadline=None)
@given(st.integers(1, 10**6))
def test_the_default_band_is_inside_the_completion(maximum):
    assert 1 <= default_soft_punish_cache(maximum) <= maximum


# ------------------------------------------------------------------------------------------------------------- columns


def args(metric: str | None = None, dynamic_sampling: bool = True) -> DAPOConfig:
    return DAPOConfig(
        "out",
        use_cpu=True,
        bf16=False,
        report_to="none",
        dynamic_sampling_metric=metric,
        dynamic_sampling=dynamic_sampling,
    )


def test_length_penalties_are_found_by_name():
    names = [LENGTH_PENALTY, "accuracy_reward", LENGTH_PENALTY]
    assert length_penalties(names) == [0, 2]
    assert length_penalties(["accuracy_reward", "my_length_reward"]) == []


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["accuracy_reward"], [0]),
        (["accuracy_reward", "format_reward", LENGTH_PENALTY], [0, 1]),
        # An environment's columns come behind, and the user's own penalty may be anywhere
        ([LENGTH_PENALTY, "accuracy_reward", "counting", LENGTH_PENALTY], [1, 2]),
    ],
)
def test_the_raw_metric_is_all_columns_but_length_penalties(names, columns):
    assert metric_columns(names, args()) == columns


def test_a_named_column_is_the_raw_metric_alone():
    names = ["format_reward", "accuracy_reward", LENGTH_PENALTY]
    assert metric_columns(names, args("accuracy_reward")) == [1]


@pytest.mark.parametrize(
    ("names", "found"), [(["format_reward"], 0), (["accuracy_reward", "format_reward", "accuracy_reward"], 2), ([], 0)]
)
def test_a_name_that_is_not_that_of_one_column_is_rejected(names, found):
    with pytest.raises(ValueError, match=f"dynamic_sampling_metric='accuracy_reward'.*{found} of"):
        metric_columns(names, args("accuracy_reward"))


@pytest.mark.parametrize("names", [[LENGTH_PENALTY], [LENGTH_PENALTY, LENGTH_PENALTY], []])
def test_dynamic_sampling_needs_something_to_look_at(names):
    with pytest.raises(ValueError, match="dynamic_sampling=True"):
        metric_columns(names, args())


def test_without_dynamic_sampling_a_length_penalty_alone_is_allowed():
    assert metric_columns([LENGTH_PENALTY], args(dynamic_sampling=False)) == []


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", LENGTH_PENALTY])))
def test_every_column_is_either_metric_or_length_penalty(names):
    columns = metric_columns(names, args(dynamic_sampling=False))
    assert sorted(columns + length_penalties(names)) == list(range(len(names)))
