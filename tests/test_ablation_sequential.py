"""Confidence sequences: against the integral they stand for, worked by hand, and by how often they ever miss."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy import stats as scipy_stats

from trl_dapo.ablation.sequential import Look, family_level, log_e_value, look, looks_of
from trl_dapo.ablation.statistics import Interval


LONGEST = 64


def ends(interval):
    return (interval.low, interval.high)


# ------------------------------------------------------------------------------------------------------- the sequence


@pytest.mark.parametrize("t", [0.0, -0.7, 2.0, 6.0])
@pytest.mark.parametrize(("seeds", "scale"), [(2, 1.0), (5, 1.0), (8, 0.5), (20, 2.0)])
def test_the_e_value_is_the_mixture_of_noncentral_t_densities_over_students(t, seeds, scale):
    def weighed(effect):
        return scipy_stats.nct.pdf(t, seeds - 1, effect * math.sqrt(seeds)) * scipy_stats.norm.pdf(effect, 0, scale)

    mixture, _ = integrate.quad(weighed, -8 * scale, 8 * scale, limit=200, points=[0.0])
    expected = mixture / scipy_stats.t.pdf(t, seeds - 1)
    assert math.exp(log_e_value(t, seeds, scale)) == pytest.approx(expected, rel=1e-5)


def test_the_e_value_without_effect_is_1_on_average():
    # Students t without effect, 8 seeds
    def weighed(t):
        return math.exp(log_e_value(t, 8)) * scipy_stats.t.pdf(t, 7)

    assert integrate.quad(weighed, -np.inf, np.inf)[0] == pytest.approx(1.0, abs=1e-6)


def test_a_look_by_hand():
    # n = 8, c = 1: A = 9, K = (9 / .05²)^(1/8) = 3600^(1/8) = 2.783158, x = 1.783158 / (1 - 2.783158 / 9) = 2.581432,
    # t = sqrt(7 x) = 4.250867. Mean .25, deviations ±.25: sample variance 8/7 · .0625 = .071429, s = .267261
    # Half the width: 4.250867 · .267261 / sqrt(8) = .401668
    found = look([0.0, 0.5] * 4, margin=0.01)
    assert found.verdict == "open"
    assert ends(found.interval) == pytest.approx((0.25 - 0.401668, 0.25 + 0.401668), abs=1e-5)


@settings(max_examples=50)
@given(st.lists(st.floats(-1, 1), min_size=5, max_size=30).filter(lambda found: np.ptp(found) > 1e-3))
def test_the_e_value_at_the_ends_is_one_over_alpha(differences):
    interval = look(differences, margin=0.0, level=0.9).interval
    error = np.std(differences, ddof=1) / math.sqrt(len(differences))
    for end in ends(interval):
        t = (np.mean(differences) - end) / error
        assert math.exp(log_e_value(t, len(differences))) == pytest.approx(10.0, rel=1e-6)


def test_few_seeds_are_unbounded():
    # n = 4: K = (5 / .05²)^(1/4) = 6.69 is not below A = 5. n = 5: K = (6 / .05²)^(1/5) = 4.74 is below 6
    draw = np.random.default_rng(0).normal(size=5)
    assert [look(draw[:n], margin=10.0) for n in range(5)] == [Look(None, "open")] * 5
    assert look(draw, margin=0.0).interval is not None


@settings(max_examples=30)
@given(st.lists(st.integers(-9, 9), min_size=6, max_size=20), st.integers(-5, 5), st.sampled_from([0.5, 2.0, -1.0]))
def test_a_look_moves_with_the_scores(differences, shift, scale):
    before, after = look(differences, 0.0), look([scale * one + shift for one in differences], 0.0)
    assert (before.interval is None) == (after.interval is None)
    if before.interval is not None:
        expected = sorted(scale * end + shift for end in ends(before.interval))
        assert ends(after.interval) == pytest.approx(expected, abs=1e-9)


# ----------------------------------------------------------------------------------------------------------- verdicts

# Mean 0. n = 16: A = 17, K = (17 / .05²)^(1/16) = 1.735930, x = .735930 / (1 - 1.735930 / 17) = .819627,
# t = sqrt(15 x) = 3.506340. s = sqrt(16 / 15) = 1.032796, so half the width is 3.506340 · 1.032796 / 4 = .905332
SPREAD = np.array([-1.0, 1.0] * 8)


@pytest.mark.parametrize(
    ("mean", "margin", "verdict"),
    [
        (0.0, 0.5, "open"),  # wider than the margin
        (0.0, 0.95, "hopeless"),
        (0.0, 0.0, "open"),
        (0.5, 0.95, "open"),  # holds 0, and reaches beyond the margin
        (2.0, 0.95, "resolved"),
        (-2.0, 0.9, "resolved"),
        (2.0, 5.0, "resolved"),  # and within the margin
    ],
)
def test_verdicts(mean, margin, verdict):
    found = look(SPREAD + mean, margin)
    assert found.interval.high - mean == pytest.approx(0.90533, abs=1e-5)
    assert found.verdict == verdict


@pytest.mark.parametrize("value", [0.0, 0.3, -1.0, 1 / 3])
@pytest.mark.parametrize("seeds", [1, 2, 8, 64])
def test_equal_differences_stay_open(value, seeds):
    # The last digit of thirds is no spread
    wobbling = [value + (seed % 2) * 1e-16 for seed in range(seeds)]
    assert look(wobbling, margin=0.5) == Look(None, "open")


# -------------------------------------------------------------------------------------------------------------- tables


def test_the_level_of_a_family():
    assert family_level(0.95, 1) == pytest.approx(0.95)
    assert family_level(0.95, 5) == pytest.approx(0.99)


def test_looks_of_a_table_are_at_the_corrected_level():
    pairs = {("b", "a"): SPREAD + 3.0, ("c", "b"): SPREAD, ("d", "c"): []}
    found = looks_of(pairs, margin=2.0)
    assert found.level == pytest.approx(1 - 0.05 / 3)
    assert found.by_pair[("b", "a")] == look(SPREAD + 3.0, 2.0, found.level)
    assert [one.verdict for one in found.by_pair.values()] == ["resolved", "hopeless", "open"]
    assert found.is_open
    del pairs[("d", "c")]
    assert not looks_of(pairs, margin=2.0).is_open
    assert looks_of(pairs, margin=2.0).by_pair[("b", "a")].interval.low > found.by_pair[("b", "a")].interval.low


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"differences": [0.1, float("nan")]}, r"differences\[1\] is nan"),
        ({"differences": [float("inf")]}, r"differences\[0\] is inf"),
        ({"margin": -0.1}, "margin is -0.1"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"margin": float("inf")}, "margin is inf"),
        ({"level": 1.0}, "level is 1.0"),
        ({"level": 95}, "level is 95"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        look(**{"differences": [0.1, 0.2], "margin": 0.1, **settings})


def test_a_table_names_the_pair_and_needs_one():
    with pytest.raises(ValueError, match=r"'b' minus 'a': differences\[0\] is nan"):
        looks_of({("b", "a"): [float("nan")]}, margin=0.1)
    with pytest.raises(ValueError, match="differences is 0"):
        looks_of({}, margin=0.1)
    with pytest.raises(ValueError, match=r"^margin is -1"):
        looks_of({("b", "a"): [0.1]}, margin=-1)


def test_sequences_need_no_scipy():
    # Seeds are added by a process that makes no report
    code = "import sys; sys.modules['scipy'] = None; import trl_dapo.ablation.sequential, trl_dapo.ablation.scores"
    subprocess.run([sys.executable, "-c", code], check=True)


# ----------------------------------------------------------------------------------------------------------- coverage

DISTRIBUTIONS = {
    "normal": lambda draw, shape: draw.normal(size=shape),
    "t with 5 degrees": lambda draw, shape: draw.standard_t(5, size=shape),
    "discrete": lambda draw, shape: draw.choice([-1.0, 0.0, 1.0], p=[0.15, 0.7, 0.15], size=shape),
    "difference of exponentials": lambda draw, shape: draw.exponential(size=shape) - draw.exponential(size=shape),
    "centred exponential": lambda draw, shape: draw.exponential(size=shape) - 1,
}


def ever_misses(name: str, sequences: int) -> float:
    """The share of sequences that leave the true mean, 0, out at any size up to 64."""
    draws = DISTRIBUTIONS[name](np.random.default_rng(0), (sequences, LONGEST))
    return np.mean([any(look(one[:n], 0.0).verdict == "resolved" for n in range(2, LONGEST + 1)) for one in draws])


# Sampling error of 2,000 sequences at a share of .05: 0.005
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("normal", 0.05),
        ("t with 5 degrees", 0.055),
        ("discrete", 0.055),
        ("difference of exponentials", 0.055),
        # Beyond the promise, and documented
        ("centred exponential", 0.15),
    ],
)
def test_few_of_2000_sequences_ever_miss(name, most):
    assert 0.0 < ever_misses(name, 2_000) <= most


def test_few_sequences_ever_miss_and_the_usual_interval_often_does():
    draws = np.random.default_rng(1).normal(size=(300, LONGEST))
    verdicts = [[look(one[:n], 0.0).verdict for n in range(2, LONGEST + 1)] for one in draws]
    assert np.mean(["resolved" in one for one in verdicts]) <= 0.05
    # One in three finds a difference in noise, by a test that is right once
    t_tests = np.stack([scipy_stats.ttest_1samp(draws[:, :n], 0, axis=1).pvalue for n in range(3, LONGEST + 1)])
    assert (t_tests[-1] < 0.05).mean() <= 0.08
    assert 0.25 <= (t_tests < 0.05).any(axis=0).mean() <= 0.40


def seeds_to(verdict: str, effect: float, margin: float) -> float:
    """Median number of seeds until a verdict, for normal differences with a standard deviation of 1."""
    draws = np.random.default_rng(2).normal(size=(200, LONGEST)) + effect
    first = [next((n for n in range(2, LONGEST + 1) if look(one[:n], margin).verdict == verdict), 99) for one in draws]
    return float(np.median(first))


def test_how_many_seeds_it_takes():
    # Measured once with 4,000 sequences, not derived: 12, 8 and 7, and 17 to call nothing of no effect
    assert seeds_to("resolved", effect=1.0, margin=0.0) == pytest.approx(12, abs=1)
    assert seeds_to("resolved", effect=1.5, margin=0.0) == pytest.approx(8, abs=1)
    assert seeds_to("resolved", effect=2.0, margin=0.0) == pytest.approx(7, abs=1)
    assert seeds_to("hopeless", effect=0.0, margin=1.0) == pytest.approx(17, abs=2)


def test_an_interval_is_that_of_the_statistics():
    assert isinstance(look(SPREAD, 0.0).interval, Interval)
