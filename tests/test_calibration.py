"""Calibration, ties and length of pairs, against numbers derived by hand; statistics against all rows at once."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trl_dapo.reward_model.calibration import (
    brier_score,
    chance_calibration_error,
    expected_calibration_error,
    pair_metrics,
    pearson_correlation,
)
from trl_dapo.reward_model.statistics import STATISTICS_FILE, RewardStatistics


LOG3, LOG9 = math.log(3), math.log(9)  # margins whose sigmoid is 3/4 and 9/10

margins = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40).map(torch.tensor)


def test_calibration_error_by_hand():
    # Confidences 3/4, 3/4, 3/4 and 9/10. With 2 bins, [0.5, 0.75) and [0.75, 1], all lie in the second: choices are
    # right, right, wrong, right, so accuracy 3/4, confidence (3 * 0.75 + 0.9) / 4 = 0.7875, gap 0.0375.
    # With 5 bins of width 0.1: [0.7, 0.8) has accuracy 2/3 against 0.75, gap 1/12 with weight 3/4; [0.9, 1] has
    # accuracy 1 against 0.9, gap 0.1 with weight 1/4: 0.0625 + 0.025 = 0.0875.
    margins_B = torch.tensor([LOG3 + 1e-9, LOG3 + 1e-9, -LOG3 - 1e-9, LOG9 + 1e-9], dtype=torch.float64)
    assert expected_calibration_error(margins_B, bins=2) == pytest.approx(0.0375, abs=1e-8)
    assert expected_calibration_error(margins_B, bins=5) == pytest.approx(0.0875, abs=1e-8)


def test_chance_by_hand():
    # One bin. Two pairs of confidence 3/4: 0, 1 or 2 right with chances 1/16, 6/16, 9/16, 1.5 expected. Mean distance
    # (1.5 + 6 * 0.5 + 9 * 0.5) / 16 = 9/16, of 2 pairs 9/32. A tie adds a pair and no chance: 9/48.
    margins_B = torch.tensor([LOG3, -LOG3], dtype=torch.float64)
    assert chance_calibration_error(margins_B, bins=1) == pytest.approx(9 / 32, abs=1e-12)
    with_tie = torch.tensor([LOG3, 0.0, LOG3], dtype=torch.float64)
    assert chance_calibration_error(with_tie, bins=1) == pytest.approx(9 / 48, abs=1e-12)
    assert math.isnan(chance_calibration_error(torch.empty(0)))


@pytest.mark.parametrize("pairs", [8, 64, 512])
def test_chance_is_what_a_calibrated_model_gets_on_average(pairs):
    draw = torch.Generator().manual_seed(0)
    strength = torch.randn(pairs, generator=draw, dtype=torch.float64).abs()
    found = []
    for _ in range(400):
        right = torch.rand(pairs, generator=draw, dtype=torch.float64) < torch.sigmoid(strength)
        found.append(expected_calibration_error(torch.where(right, strength, -strength)))
    mean, error = sum(found) / 400, torch.tensor(found).std().item() / 20
    assert chance_calibration_error(strength) == pytest.approx(mean, abs=4 * error)
    # What docs/reward_model.md says of 8 pairs
    assert mean == pytest.approx({8: 0.31, 64: 0.13, 512: 0.05}[pairs], abs=0.03)


def test_bins_begin_at_one_half():
    # Confidence 0.7, right, and 0.8, wrong: with 2 bins they are on the two sides of 0.75, (0.3 + 0.8) / 2
    margins_B = torch.tensor([math.log(0.7 / 0.3), -math.log(0.8 / 0.2)])
    assert expected_calibration_error(margins_B, bins=2) == pytest.approx(0.55, rel=1e-6)


def test_calibrated_choices_have_no_error():
    # Three of four choices at confidence 3/4 are right
    assert expected_calibration_error(torch.tensor([LOG3, LOG3, LOG3, -LOG3])) == pytest.approx(0, abs=1e-6)


def test_sure_and_wrong_is_the_worst_error():
    # Confidence 1, accuracy 0
    assert expected_calibration_error(torch.tensor([-60.0, -60.0])) == pytest.approx(1.0)


def test_a_tie_is_a_coin():
    # Confidence 1/2, right half of the time: no error; Brier (1 - 1/2)^2
    assert expected_calibration_error(torch.zeros(3)) == 0
    assert brier_score(torch.zeros(3)) == 0.25


def test_brier_by_hand():
    # (1 - 3/4)^2 = 1/16, (1 - 1/4)^2 = 9/16, (1 - 9/10)^2 = 1/100: mean (0.0625 + 0.5625 + 0.01) / 3
    assert brier_score(torch.tensor([LOG3, -LOG3, LOG9])) == pytest.approx(0.635 / 3, rel=1e-6)


@given(margins)
def test_calibration_error_and_brier_stay_in_range(margins_B):
    assert 0 <= expected_calibration_error(margins_B) <= 1
    assert 0 <= brier_score(margins_B) <= 1


@given(margins, st.randoms())
def test_calibration_error_ignores_order(margins_B, random):
    order = list(range(len(margins_B)))
    random.shuffle(order)
    assert expected_calibration_error(margins_B[order]) == pytest.approx(expected_calibration_error(margins_B))


@given(margins)
def test_one_bin_is_the_gap_of_the_means(margins_B):
    accuracy = (margins_B.double().sign() + 1).mean() / 2
    confidence = torch.sigmoid(margins_B.double().abs()).mean()
    assert expected_calibration_error(margins_B, bins=1) == pytest.approx(abs(float(accuracy - confidence)), abs=1e-12)


def test_nothing_has_no_error():
    assert math.isnan(expected_calibration_error(torch.empty(0)))
    assert math.isnan(brier_score(torch.empty(0)))


def test_correlation_by_hand():
    # x - mean = (-1, 0, 1), y - mean = (-2, 1, 1): covariance 3, norms sqrt(2) and sqrt(6): 3 / sqrt(12)
    assert pearson_correlation(torch.tensor([1.0, 2, 3]), torch.tensor([0.0, 3, 3])) == pytest.approx(
        3 / math.sqrt(12)
    )


def test_correlation_with_a_constant_is_nan():
    assert math.isnan(pearson_correlation(torch.tensor([1.0, 2, 3]), torch.ones(3)))
    assert math.isnan(pearson_correlation(torch.tensor([1.0]), torch.tensor([2.0])))


def test_pair_metrics_by_hand():
    # Pairs: right and longer, wrong and longer, right and shorter, tied and as long
    rewards_B2 = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [1.0, 1.0]])
    lengths_B2 = torch.tensor([[5.0, 3.0], [6.0, 2.0], [2.0, 4.0], [3.0, 3.0]])
    found = pair_metrics(rewards_B2, lengths_B2)
    assert found["ties"] == 0.25
    assert found["calibration_pairs"] == 4
    assert found["accuracy_chosen_longer"] == 0.5
    assert found["accuracy_chosen_shorter"] == 1.0
    # Rewards sum to 8 and lengths to 28: means 1 and 3.5. Sum of products 5 + 0 + 0 + 4 + 6 + 0 + 3 + 3 = 21, less
    # 8 * 1 * 3.5 = 28: -7. Squares 16 - 8 = 8 and 112 - 98 = 14: -7 / sqrt(112).
    assert found["reward_length_correlation"] == pytest.approx(-7 / math.sqrt(112), rel=1e-6)


def test_a_model_of_length_alone_shows():
    lengths_B2 = torch.tensor([[5.0, 3.0], [2.0, 4.0], [9.0, 1.0], [3.0, 8.0]])
    found = pair_metrics(lengths_B2 / 10, lengths_B2)
    assert (found["accuracy_chosen_longer"], found["accuracy_chosen_shorter"]) == (1.0, 0.0)
    assert found["reward_length_correlation"] == pytest.approx(1.0)


def test_accuracy_of_no_pairs_is_nan():
    found = pair_metrics(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 1.0]]))
    assert math.isnan(found["accuracy_chosen_shorter"])
    assert found["accuracy_chosen_longer"] == 1.0


# ---------------------------------------------------------------------------------------------------------- statistics


@given(st.lists(st.lists(st.floats(-100, 100, width=32), max_size=7), max_size=5))
def test_statistics_of_parts_are_those_of_the_whole(parts):
    statistics = RewardStatistics()
    for part in parts:
        statistics = statistics.after(torch.tensor(part), window=1000)
    whole = torch.tensor([value for part in parts for value in part], dtype=torch.float64)
    assert statistics.rows == len(whole)
    if len(whole):
        assert statistics.mean == pytest.approx(whole.mean().item(), abs=1e-9)
        assert statistics.std == pytest.approx(whole.std(correction=0).item(), abs=1e-5)


def test_the_past_weighs_as_much_as_the_window():
    # 100 rows of 0 count as 2; two rows of 3 make a mean of 6 / 4 and a variance of 9 / 4
    statistics = RewardStatistics().after(torch.zeros(100), window=2).after(torch.full((2,), 3.0), window=2)
    assert (statistics.mean, statistics.std, statistics.rows) == (1.5, 1.5, 102)


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=9))
def test_statistics_go_on_after_saving_as_if_nothing_had_happened(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("statistics")
    statistics = RewardStatistics().after(torch.tensor(values[:-1]), window=3)
    statistics.save(folder)
    loaded = RewardStatistics.load(folder)
    assert loaded == statistics
    assert loaded.after(torch.tensor(values[-1:]), 3) == statistics.after(torch.tensor(values[-1:]), 3)


def test_no_file_is_no_statistics(tmp_path):
    assert RewardStatistics.load(tmp_path) is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"mean": NaN, "std": 1, "rows": 2}', '{"mean": 0, "std": -1, "rows": 2}']
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / STATISTICS_FILE).write_text(content)
    with pytest.raises(ValueError, match=STATISTICS_FILE):
        RewardStatistics.load(tmp_path)


def test_the_file_is_plain_json(tmp_path):
    RewardStatistics(1.5, 2.0, 3).save(tmp_path)
    assert json.loads((tmp_path / STATISTICS_FILE).read_text()) == {"mean": 1.5, "std": 2.0, "rows": 3}
    assert [path.name for path in tmp_path.iterdir()] == [STATISTICS_FILE]


def test_normalized_by_hand():
    assert RewardStatistics(1.0, 2.0, 9).normalized(torch.tensor([1.0, 5.0])).tolist() == [0.0, 2.0]
