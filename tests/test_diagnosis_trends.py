"""The trend of a series, against numbers derived by hand, SciPy, and properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from trl_dapo.monitor.trends import mann_kendall


SERIES = st.lists(st.integers(-20, 20).map(float), min_size=2, max_size=24)


def test_mann_kendall_by_hand():
    # 1, 2, 3, 4: all 6 pairs rise. var = 4 x 3 x 13 / 18 = 26/3, z = 5 / sqrt(26/3) = 1.698
    assert mann_kendall([1.0, 2.0, 3.0, 4.0]) == pytest.approx(1.6984, abs=1e-4)
    # 1, 1, 2: two pairs rise, one is a tie. var = (3 x 2 x 11 - 2 x 1 x 9) / 18 = 48/18, z = 1 / 1.633 = 0.612
    assert mann_kendall([1.0, 1.0, 2.0]) == pytest.approx(0.6124, abs=1e-4)
    assert mann_kendall([3.0, 3.0, 3.0]) == 0.0
    assert mann_kendall([1.0]) == 0.0


@given(SERIES)
def test_mann_kendall_has_the_sign_of_kendalls_tau_and_turns_with_time(values):
    z = mann_kendall(values)
    assert mann_kendall(values[::-1]) == pytest.approx(-z)
    tau = kendalltau(range(len(values)), values).statistic
    if len(set(values)) > 1 and abs(z) > 0:
        assert (z > 0) == (tau > 0)


@given(SERIES, st.integers(1, 9), st.integers(-50, 50))
def test_mann_kendall_knows_no_scale(values, times, shift):
    assert mann_kendall([times * value + shift for value in values]) == mann_kendall(values)
