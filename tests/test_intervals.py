"""Intervals over questions: against SciPy's bootstrap, and where there can be none."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from trl_dapo.evaluation.intervals import ALL_EQUAL, ONE_QUESTION, RESAMPLES, estimate


def scores(size, seed):
    return np.random.default_rng(seed).beta(0.5, 1.5, size=size).tolist()


@pytest.mark.parametrize("size", [2, 3, 10, 30, 500])
def test_the_interval_is_scipys(size):
    # Both draw the same resamples from the same seed, so nothing is left to chance
    ours = estimate(scores(size, 1))
    theirs = bootstrap(
        (scores(size, 1),), np.mean, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert ours.interval == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert ours.value == pytest.approx(np.mean(scores(size, 1)))


def test_large_data_sets_are_resampled_in_parts(monkeypatch):
    whole = estimate(scores(50, 2))
    monkeypatch.setattr("trl_dapo.evaluation.intervals.CHUNK", 50 * 7)
    assert estimate(scores(50, 2)) == whole


def test_one_question_has_no_interval_and_says_so():
    found = estimate([0.25])
    assert (found.value, found.interval, found.reason) == (0.25, None, ONE_QUESTION)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_equal_scores_have_no_interval_and_say_so(value):
    found = estimate([value] * 7)
    assert (found.value, found.interval, found.reason) == (value, None, ALL_EQUAL)


def test_no_questions_are_refused():
    with pytest.raises(ValueError, match="no questions"):
        estimate([])


def test_nine_in_ten_intervals_and_more_hold_the_mean():
    # Bernoulli scores of mean 0.3, 40 questions. The bootstrap is a little short of its 95 %
    draws = np.random.default_rng(3).random((60, 40)) < 0.3
    held = [low <= 0.3 <= high for low, high in (estimate(row.astype(float)).interval for row in draws)]
    assert 0.85 <= np.mean(held) <= 1.0


@settings(max_examples=25, deadline=None)
@example([0.0, 2.3142847072736784e-206])  # its cube is 0
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_an_interval_lies_within_the_scores(values):
    found = estimate(values)
    if found.interval is None:
        assert found.reason == ALL_EQUAL
    else:
        assert min(values) - 1e-9 <= found.interval[0] <= found.interval[1] <= max(values) + 1e-9
