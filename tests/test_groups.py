"""Which groups are informative, and which to train on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_dapo.dapo.sampling.groups import Selection, judge_groups, raw_metric, select_groups


NAN, INF = float("nan"), float("inf")
TOLERANCE = 1e-6


def double(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def judge(metric_PG: list | torch.Tensor, live_PG: list | None = None, tolerance: float = TOLERANCE):
    metric_PG = torch.as_tensor(metric_PG, dtype=torch.float64) if isinstance(metric_PG, list) else metric_PG
    live = torch.ones_like(metric_PG, dtype=torch.bool) if live_PG is None else torch.tensor(live_PG)
    return judge_groups(metric_PG, live, tolerance)


def facts(*group: float, live: list[bool] | None = None, tolerance: float = TOLERANCE) -> str:
    """One letter per verdict: `I`nformative, all `C`orrect, all `W`rong, or `-`."""
    verdicts = judge([list(group)], None if live is None else [live], tolerance)
    columns = (verdicts.informative_P, verdicts.all_correct_P, verdicts.all_wrong_P)
    return "".join(letter for letter, column in zip("ICW", columns, strict=True) if column.item()) or "-"


# ---------------------------------------------------------------------------------------------------------- raw metric


def test_raw_metric_is_the_weighted_sum_of_the_columns():
    # 1 * 0.5 + 3 * 2 = 6.5 and 0 * 0.5 + (-1) * 2 = -2
    metric_B = raw_metric(double([[1, 3], [0, -1]]), double([0.5, 2]))
    assert metric_B.tolist() == [6.5, -2.0]


def test_raw_metric_leaves_unscored_columns_out_of_a_rows_sum():
    # 3 * 2 alone; 1 * 0.5 alone; nothing at all
    metric_B = raw_metric(double([[NAN, 3], [1, NAN], [NAN, NAN]]), double([0.5, 2]))
    assert metric_B[:2].tolist() == [6.0, 0.5]
    assert metric_B[2].isnan()


def test_raw_metric_of_a_zero_weight_is_a_scored_zero():
    assert raw_metric(double([[7.0]]), double([0.0])).tolist() == [0.0]


def test_raw_metric_is_float64_whatever_comes_in():
    metric_B = raw_metric(torch.tensor([[0.1, 0.2]], dtype=torch.float32), torch.ones(2))
    assert metric_B.dtype == torch.float64
    assert metric_B.shape == (1,)


def test_raw_metric_does_not_round_what_is_more_precise_than_float32():
    assert raw_metric(double([[1 + 1e-12]]), double([1.0])).tolist() == [1 + 1e-12]


def test_raw_metric_of_no_columns_is_unscored():
    # Length penalties alone, with dynamic sampling off
    assert raw_metric(torch.empty(2, 0), torch.empty(0)).isnan().tolist() == [True, True]


def test_raw_metric_leaves_its_arguments_alone():
    rewards_BF = double([[NAN, NAN], [1, 2]])
    before = rewards_BF.clone()
    raw_metric(rewards_BF, double([1, 1]))
    torch.testing.assert_close(rewards_BF, before, rtol=0, atol=0, equal_nan=True)


# ------------------------------------------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    ("group", "verdict"),
    [
        ((0, 0, 0, 0), "W"),
        ((1, 1, 1, 1), "C"),
        ((0, 1, 0, 0), "I"),
        ((1, 1, 1, 0), "I"),
        ((-1, -1, -1, -1), "W"),  # rewards of ±1
        ((-1, 1, 1, 1), "I"),
        # OpenRLHF's `0 < mean < 1` keeps this one, and needs another range for rewards of ±1
        ((0.5, 0.5, 0.5, 0.5), "C"),
        ((-1, 1, -1, 1), "I"),  # mean 0
        ((2, 3, 2, 2), "I"),  # mean above 1
        ((5,), "C"),  # G = 1 has no range
        ((NAN, NAN, NAN, NAN), "-"),
    ],
)
def test_a_group_is_informative_when_its_metric_varies(group, verdict):
    assert facts(*group) == verdict


@pytest.mark.parametrize(
    ("group", "verdict"),
    [
        ((NAN, 1, 1, 1), "C"),
        ((NAN, 0, NAN, 0), "W"),
        ((NAN, NAN, NAN, 1), "C"),
        ((NAN, 0, 1, NAN), "I"),
        ((INF, 1, 1, 1), "C"),
        ((-INF, 1, 1, 1), "C"),
        ((INF, -INF, INF, -INF), "-"),
        ((INF, INF, INF, INF), "-"),
        ((NAN, INF, 0, 0), "W"),
    ],
)
def test_rows_without_a_score_never_count_as_variance(group, verdict):
    # NeMo's `std != 0.0` lets NaN pass, as NaN differs from everything
    assert facts(*group) == verdict


def test_a_group_of_truncated_rows_has_no_gradient_whatever_its_metric():
    # As in SkyRL's `zero_variance_filter`: rows that overlong filtering takes out of the loss
    assert facts(0, 1, 0, 1, live=[False] * 4) == "-"
    assert facts(0, 1, 0, 1, live=[False, False, False, True]) == "I"


def test_a_degenerate_group_of_truncated_rows_is_neither_all_correct_nor_all_wrong():
    assert facts(0, 0, 0, 0, live=[False] * 4) == "-"
    assert facts(1, 1, 1, 1, live=[False] * 4) == "-"


def test_truncated_rows_still_count_for_the_range():
    # TRL's baseline is that of the whole group, so the one live row has an advantage: 1 - 1/4
    assert facts(1, 0, 0, 0, live=[True, False, False, False]) == "I"
    assert facts(1, 0, 1, 1, live=[True, False, True, True]) == "I"


@pytest.mark.parametrize(("spread", "verdict"), [(0.0, "C"), (0.25, "C"), (0.2500001, "I"), (1.0, "I")])
def test_a_range_up_to_the_tolerance_counts_as_constant(spread, verdict):
    assert facts(1.0, 1.0 + spread, tolerance=0.25) == verdict


def test_a_tolerance_of_zero_tells_the_least_difference():
    assert facts(1.0, math.nextafter(1.0, 2.0), tolerance=0.0) == "I"
    assert facts(1.0, 1.0, tolerance=0.0) == "C"


def test_each_group_is_judged_alone():
    verdicts = judge([[0, 0], [1, 1], [0, 1], [NAN, NAN]])
    assert verdicts.informative_P.tolist() == [False, False, True, False]
    assert verdicts.all_correct_P.tolist() == [False, True, False, False]
    assert verdicts.all_wrong_P.tolist() == [True, False, False, False]


def test_no_groups_have_no_verdicts():
    verdicts = judge_groups(torch.empty(0, 4), torch.empty(0, 4, dtype=torch.bool), TOLERANCE)
    assert verdicts.informative_P.shape == (0,)


# ---------------------------------------------------------------------------------------------- defects of others

CONSTANTS = (
    torch.arange(-200, 201, dtype=torch.float64).div(100).float()
)  # c = k / 100 in float32, as TRL holds rewards


@pytest.mark.parametrize("generations", [2, 4, 8, 12, 16])
def test_d5_constant_groups_do_not_vary(generations):
    verdicts = judge(CONSTANTS.repeat_interleave(generations).view(-1, generations), tolerance=0.0)
    assert not verdicts.informative_P.any()
    assert (verdicts.all_correct_P | verdicts.all_wrong_P).all()
    # k = -200..0 are 201 constants, k = 1..200 are 200
    assert verdicts.all_wrong_P.sum() == 201
    assert verdicts.all_correct_P.sum() == 200


def test_d5_a_standard_deviation_would_call_constant_groups_varied():
    # Why the range: 186 of these 401 at G = 8, measured with torch 2.13. The count may depend on the build of torch:
    # what the code has to withstand is that there are some.
    groups = CONSTANTS.repeat_interleave(8).view(-1, 8).unbind()
    assert sum(bool(group.std() > 0) for group in groups) > 40


@pytest.mark.parametrize(
    "weights", [(0.7, 0.1, 0.2), (1.0, 1.0, 1.0), (0.7, 0.3), (0.1,), (-0.5, 1.5), (0.3, 1e-3, 7.0)]
)
@pytest.mark.parametrize("generations", [8, 12])
def test_d5_constant_groups_of_weighted_sums_do_not_vary(weights, generations):
    # Columns c, c/2, c/3...: none is a round number in float32
    columns = [CONSTANTS / (column + 1) for column in range(len(weights))]
    rewards_BF = torch.stack(columns, dim=1).repeat_interleave(generations, dim=0)
    metric_B = raw_metric(rewards_BF, torch.tensor(weights))
    assert not judge(metric_B.view(-1, generations)).informative_P.any()


@pytest.mark.parametrize(
    "rows",
    [
        # 0.7 + 0.3 and 0.3 + 0.7 and 1: the same number, reached by different roundings of float32
        [[0.7, 0.3], [0.3, 0.7], [1.0, 0.0], [0.0, 1.0]],
        [[0.1, 0.2], [0.2, 0.1], [0.3, 0.0], [0.15, 0.15]],
    ],
)
def test_d5_equal_sums_of_unequal_columns_do_not_vary(rows):
    metric_B = raw_metric(torch.tensor(rows, dtype=torch.float32), torch.ones(2))
    assert not judge(metric_B.view(1, -1)).informative_P.any()


def test_d5_the_smallest_reward_step_in_use_still_varies():
    # One of 8 rows differs by 1/1000 in a column of weight 0.1: a range of 1e-4, a hundred times the tolerance
    rewards_BF = torch.full((8, 2), 0.7)
    rewards_BF[3, 1] += 1e-3
    metric_B = raw_metric(rewards_BF, torch.tensor([0.7, 0.1]))
    assert judge(metric_B.view(1, 8)).informative_P.all()


def test_d11_rows_of_all_groups_are_judged_not_only_the_first_group():
    # A flat batch seen as it comes from the host, reshaped once: groups 0 and 2 vary
    metric_B = raw_metric(double([[1.0], [0.0], [1.0], [1.0], [0.0], [1.0]]), double([1.0]))
    assert judge(metric_B.view(-1, 2)).informative_P.tolist() == [True, False, True]


# ---------------------------------------------------------------------------------------------------------- properties

scores = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5, NAN, INF, -INF]), st.floats(-10, 10))
groups_of_rows = st.integers(1, 5).flatmap(
    lambda generations: st.lists(
        st.tuples(
            st.lists(scores, min_size=generations, max_size=generations),
            st.lists(st.booleans(), min_size=generations, max_size=generations),
        ),
        min_size=1,
        max_size=6,
    )
)


@settings(deadline=None)
@given(groups_of_rows, st.sampled_from([0.0, 1e-6, 0.5]))
def test_kept_means_that_the_range_exceeds_the_tolerance_and_a_row_is_live(groups, tolerance):
    verdicts = judge([group for group, _ in groups], [live for _, live in groups], tolerance)
    for (group, live), informative in zip(groups, verdicts.informative_P.tolist(), strict=True):
        scored = [score for score in group if math.isfinite(score)]
        assert informative == (bool(scored) and max(scored) - min(scored) > tolerance and any(live))


@settings(deadline=None)
@given(groups_of_rows)
def test_a_group_gets_at_most_one_verdict(groups):
    verdicts = judge([group for group, _ in groups], [live for _, live in groups])
    columns = (verdicts.informative_P, verdicts.all_correct_P, verdicts.all_wrong_P)
    assert (sum(column.int() for column in columns) <= 1).all()


@settings(deadline=None)
@given(groups_of_rows, st.randoms())
def test_verdicts_do_not_hang_on_the_order_of_rows(groups, random):
    shuffled = []
    for group, live in groups:
        pairs = list(zip(group, live, strict=True))
        random.shuffle(pairs)
        shuffled.append(pairs)
    first = judge([group for group, _ in groups], [live for _, live in groups])
    second = judge([[s for s, _ in pairs] for pairs in shuffled], [[one for _, one in pairs] for pairs in shuffled])
    for name in ("informative_P", "all_correct_P", "all_wrong_P"):
        assert torch.equal(getattr(first, name), getattr(second, name))


@settings(deadline=None)
@given(groups_of_rows)
def test_unscored_rows_do_not_change_a_verdict(groups):
    first = judge([group for group, _ in groups], [live for _, live in groups])
    second = judge([[*group, NAN] for group, _ in groups], [[*live, False] for _, live in groups])
    for name in ("informative_P", "all_correct_P", "all_wrong_P"):
        assert torch.equal(getattr(first, name), getattr(second, name))


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-8, 8), min_size=3, max_size=3), min_size=1, max_size=5), st.integers(-8, 8))
def test_a_constant_shift_does_not_change_what_is_informative(groups, shift):
    first = judge([[float(score) for score in group] for group in groups])
    second = judge([[float(score + shift) for score in group] for group in groups])
    assert torch.equal(first.informative_P, second.informative_P)


# ----------------------------------------------------------------------------------------------------------- selection


@pytest.mark.parametrize(
    ("informative", "wanted", "groups", "filler"),
    [
        ([True, True, True], 3, [0, 1, 2], [False] * 3),
        ([True, False, True, True], 2, [0, 2], [False] * 2),  # the first ones; group 3 is surplus
        ([False, True, False, True], 2, [1, 3], [False] * 2),
        ([False, True, False, False], 2, [1, 3], [False, True]),  # the latest degenerate one
        ([False, False, False, True], 3, [1, 2, 3], [True, True, False]),
        ([False, False, False], 2, [1, 2], [True, True]),
        ([True, False], 2, [0, 1], [False, True]),
    ],
)
def test_selection_takes_informative_groups_first_and_fills_with_the_latest(informative, wanted, groups, filler):
    assert select_groups(informative, wanted) == Selection(groups=groups, filler=filler)


def test_d1_informative_groups_of_the_last_round_are_used():
    # ms-swift generates its last refill and never looks at it: rounds of 2, the last one fills the batch
    informative = [False, False, False, True, True, False]
    assert select_groups(informative, 2) == Selection(groups=[3, 4], filler=[False, False])


def test_d4_exhaustion_keeps_every_informative_group():
    # ms-swift goes back to the first batch and throws groups 4 and 7 away
    informative = [False, False, False, False, True, False, False, True]
    assert select_groups(informative, 4) == Selection(groups=[4, 5, 6, 7], filler=[False, True, True, False])


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.data())
def test_selection_keeps_all_informative_groups_up_to_the_batch(informative, data):
    wanted = data.draw(st.integers(1, len(informative)))
    selection = select_groups(informative, wanted)
    assert len(selection.groups) == len(selection.filler) == wanted
    assert selection.groups == sorted(set(selection.groups))
    assert selection.filler == [not informative[group] for group in selection.groups]
    teaching = [group for group, teaches in enumerate(informative) if teaches]
    kept = [group for group, drop in zip(selection.groups, selection.filler, strict=True) if not drop]
    # Fillers only when short; never one where an informative group was left
    assert kept == teaching[:wanted]
    assert any(selection.filler) == (len(teaching) < wanted)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=20), st.lists(st.booleans(), max_size=10), st.data())
def test_a_further_round_never_costs_an_informative_group(informative, refill, data):
    wanted = data.draw(st.integers(1, len(informative)))
    before, after = select_groups(informative, wanted), select_groups(informative + refill, wanted)
    kept = [group for group, drop in zip(before.groups, before.filler, strict=True) if not drop]
    assert set(kept) <= set(after.groups)
    assert sum(after.filler) <= sum(before.filler)
