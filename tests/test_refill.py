"""How many groups a round asks for: the beta-binomial distribution by hand and against scipy, and its effect."""

import json
import math
from collections import deque
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from trl_dapo.dapo.sampling.refill import DECAY, FIRST_QUANTILE, QUANTILE, KeepRate, round_size


PLENTY = 4096


def seen(kept: float, generated: float) -> KeepRate:
    rate = KeepRate()
    rate.load_state_dict({"kept": kept, "generated": generated})
    return rate


def size(deficit: int, rate: KeepRate, quantile: float, multiple_of: int = 1, limit: int = PLENTY) -> int:
    return round_size(deficit, rate, quantile, multiple_of, limit)


# ------------------------------------------------------------------------------------------------- the share, by hand


def test_nothing_is_counted_at_first():
    assert KeepRate().state_dict() == {"kept": 0.0, "generated": 0.0}


def test_rounds_of_one_rollout_count_alike():
    rate = KeepRate()
    rate.observe(3, 4)
    rate.observe(1, 8)
    assert (rate.kept, rate.generated) == (4, 12)


def test_counts_are_discounted_by_rollout_not_by_round():
    rate = KeepRate()
    rate.begin_rollout()
    rate.observe(3, 4)
    rate.begin_rollout()
    # 0.8 * 3 = 2.4 of 0.8 * 4 = 3.2; then (2.4 + 1 + 0) of (3.2 + 2 + 1)
    assert (rate.kept, rate.generated) == pytest.approx((2.4, 3.2))
    rate.observe(1, 2)
    rate.observe(0, 1)
    assert (rate.kept, rate.generated) == pytest.approx((3.4, 6.2))
    rate.begin_rollout()
    # 0.8 * 3.4 of 0.8 * 6.2
    assert (rate.kept, rate.generated) == pytest.approx((2.72, 4.96))


def test_the_memory_is_that_of_five_rollouts():
    # 8 + 0.8 * 8 + 0.64 * 8 + ... = 8 / (1 - 0.8) = 40
    rate = KeepRate()
    for _ in range(100):
        rate.begin_rollout()
        rate.observe(2, 8)
    assert rate.generated == pytest.approx(40)
    assert rate.kept == pytest.approx(10)


def test_a_share_that_changed_is_known_after_some_rollouts():
    # All of 16 groups for long, hence 80 of 80, then none of 16: ten rollouts later 80 * 0.8**10 = 8.6 of 80
    rate = KeepRate()
    for kept in [16] * 50 + [0] * 10:
        rate.begin_rollout()
        rate.observe(kept, 16)
    assert rate.kept == pytest.approx(80 * 0.8**10, rel=1e-4)
    assert rate.generated == pytest.approx(80, rel=1e-4)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.booleans()), max_size=30))
def test_the_share_lies_between_none_and_all(rounds):
    rate = KeepRate()
    for kept, degenerate, begins in rounds:
        if begins:
            rate.begin_rollout()
        rate.observe(kept, kept + degenerate)
        # Otherwise the Beta posterior would have no density
        assert 0 <= rate.kept <= rate.generated


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=8))
def test_counts_survive_a_file(rounds):
    rate, other = KeepRate(), KeepRate()
    for kept, degenerate in rounds:
        rate.begin_rollout()
        rate.observe(kept, kept + degenerate)
    other.load_state_dict(json.loads(json.dumps(rate.state_dict())))
    for one in (rate, other):
        one.begin_rollout()
        one.observe(1, 3)
    assert other.state_dict() == rate.state_dict()
    assert size(4, other, QUANTILE) == size(4, rate, QUANTILE)


def test_a_state_is_a_snapshot():
    rate = KeepRate()
    rate.observe(1, 2)
    state = rate.state_dict()
    rate.observe(1, 2)
    assert state == {"kept": 1, "generated": 2}


# ------------------------------------------------------------------------------------------------------- sizes by hand


@pytest.mark.parametrize(
    ("deficit", "groups", "kept", "generated", "probability"),
    [
        # Nothing seen: the share is uniform, and so is the number of informative groups of 3, on 0, 1, 2, 3
        (1, 3, 0, 0, 3 / 4),
        (2, 3, 0, 0, 2 / 4),
        (3, 3, 0, 0, 1 / 4),
        (5, 9, 0, 0, 5 / 10),
        # One of one: density 2p, hence P(j of n) = 2 (j + 1) / ((n + 1) (n + 2)).
        # n = 1: 1/3, 2/3.  n = 2: 1/6, 2/6, 3/6.  n = 3: 1/10, 2/10, 3/10, 4/10
        (1, 1, 1, 1, 2 / 3),
        (1, 2, 1, 1, 5 / 6),
        (2, 2, 1, 1, 3 / 6),
        (2, 3, 1, 1, 7 / 10),
        (3, 3, 1, 1, 4 / 10),
        # None of two: density 3 (1 - p)^2, hence P(0 of n) = 3 / (n + 3)
        (1, 1, 0, 2, 1 / 4),
        (1, 4, 0, 2, 4 / 7),
        (1, 7, 0, 2, 7 / 10),
        # None of one: density 2 (1 - p), the mirror of one of one. n = 2: 3/6, 2/6, 1/6
        (1, 2, 0, 1, 1 / 2),
        (2, 2, 0, 1, 1 / 6),
        # One of two: density 6 p (1 - p), hence P(j of 2) = 6 C(2, j) (j + 1)! (3 - j)! / 5! = 3/10, 4/10, 3/10
        (1, 2, 1, 2, 7 / 10),
        (2, 2, 1, 2, 3 / 10),
        # Discounted counts: P(1 of 1) is the mean (k + 1) / (n + 2), here 1.8 / 2.8 and 2.6 / 5.2
        (1, 1, 0.8, 0.8, 9 / 14),
        (1, 1, 1.6, 3.2, 1 / 2),
    ],
)
def test_a_round_suffices_with_this_probability(deficit, groups, kept, generated, probability):
    # Asked for a little less, these groups are enough; asked for a little more, they are not
    rate = seen(kept, generated)
    assert size(deficit, rate, probability - 1e-6) <= groups
    assert size(deficit, rate, probability + 1e-6) > groups


@pytest.mark.parametrize(
    ("deficit", "quantile", "expected"),
    # Uniform: P(at least d of n) = (n - d + 1) / (n + 1) >= q, hence n >= (d - 1 + q) / (1 - q)
    [
        (1, 0.45, 1),  # 0.45 / 0.55
        (2, 0.45, 3),  # 1.45 / 0.55 = 2.6
        (2, 0.55, 4),  # 1.55 / 0.45 = 3.4
        (1, 0.85, 6),  # 0.85 / 0.15 = 5.7
        (4, 0.85, 26),  # 3.85 / 0.15 = 25.7
        (1, 0.994, 166),  # 0.994 / 0.006 = 165.7
    ],
)
def test_without_observations_a_round_is_as_large_as_ignorance_asks_for(deficit, quantile, expected):
    assert size(deficit, KeepRate(), quantile) == expected


@pytest.mark.parametrize("deficit", [1, 2, 3, 5, 8, 16, 32, 100])
def test_a_tie_is_enough(deficit):
    # P(at least d of 2d - 1) = d / 2d, exactly 1/2: rounding, which differs between machines, must not decide
    assert size(deficit, KeepRate(), FIRST_QUANTILE) == 2 * deficit - 1
    # P(at least d of 10d - 1) = 9d / 10d
    assert size(deficit, KeepRate(), QUANTILE) == 10 * deficit - 1


@pytest.mark.parametrize("generated", [2, 8, 64])
@pytest.mark.parametrize("deficit", [1, 4, 7, 32])
def test_a_tie_is_enough_where_half_of_all_groups_are_informative(deficit, generated):
    # A symmetric posterior: of 2d - 1 groups, at least d are informative as often as at least d are degenerate
    assert size(deficit, seen(generated / 2, generated), FIRST_QUANTILE) == 2 * deficit - 1


def test_the_fewer_groups_were_seen_the_larger_the_round():
    # Always half of them: 16 missing take 32 on average. The uncertainty of the share comes on top, and fades
    sizes = [size(16, seen(n / 2, n), QUANTILE) for n in (0, 4, 16, 64, 256)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize(
    ("deficit", "expected"),
    # Fair coins: 1 - 1 / 2^n is 7/8 for 3 and 15/16 for 4; 1 - (n + 1) / 2^n is 57/64 for 6 and 120/128 for 7
    [(1, 4), (2, 7)],
)
def test_a_share_known_for_certain_leaves_the_chance_of_the_draw(deficit, expected):
    assert size(deficit, seen(5e5, 1e6), QUANTILE) == expected


def test_groups_that_are_always_informative_take_the_deficit_alone():
    assert size(16, seen(1e6, 1e6), QUANTILE) == 16


# ------------------------------------------------------------------------------------------------------ granule, limit


@pytest.mark.parametrize(
    ("deficit", "multiple_of", "limit", "expected"),
    # Without observations 2 missing take 3 groups, 3 take 5 and 1 takes 1, at a quantile of 0.45:
    # 1.45 / 0.55 = 2.6, 2.45 / 0.55 = 4.5, 0.45 / 0.55 = 0.8
    [(2, 1, 12, 3), (2, 2, 12, 4), (2, 3, 12, 3), (3, 4, 12, 8), (3, 4, 4, 4), (3, 8, 8, 8), (1, 8, 8, 8)],
)
def test_rounds_divide_evenly_over_the_ranks(deficit, multiple_of, limit, expected):
    assert size(deficit, KeepRate(), 0.45, multiple_of, limit) == expected


@pytest.mark.parametrize("limit", [1, 5, 9])
def test_a_deficit_beyond_the_limit_takes_the_limit(limit):
    assert size(10, seen(50, 50), FIRST_QUANTILE, limit=limit) == limit


def test_a_deficit_at_the_limit_takes_the_limit():
    assert size(10, KeepRate(), FIRST_QUANTILE, limit=10) == 10


def test_hopeless_prompts_are_bounded_by_the_limit():
    # None of 1000 groups: 90 % for one more takes 1001 * 9 = 9009
    assert size(1, seen(0, 1000), QUANTILE, limit=64) == 64


# ----------------------------------------------------------------------------------------------------------- vs. scipy


@settings(max_examples=60)
@given(
    st.integers(1, 40),
    st.floats(0, 60),
    st.floats(0, 60),
    st.floats(0.05, 0.95),
    st.integers(1, 300),
)
def test_a_round_is_really_the_smallest_that_suffices(deficit, kept, degenerate, quantile, limit):
    def enough(groups: int) -> float:
        return betabinom.sf(deficit - 1, groups, kept + 1, degenerate + 1)

    found = size(deficit, seen(kept, kept + degenerate), quantile, limit=limit)
    if found < limit:
        assert enough(found) >= quantile - 1e-7
    if found > deficit:
        # Nor is the limit taken where less would do
        assert enough(found - 1) < quantile + 1e-7


@pytest.mark.parametrize("quantile", [FIRST_QUANTILE, QUANTILE])
@pytest.mark.parametrize(("kept", "generated"), [(0, 0), (1, 30), (7.3, 19.9), (40, 80), (2000, 6000)])
@pytest.mark.parametrize("deficit", [1, 6, 31, 256])
def test_sizes_are_those_of_scipy(deficit, kept, generated, quantile):
    groups = np.arange(deficit, PLENTY)
    enough = betabinom.sf(deficit - 1, groups, kept + 1, generated - kept + 1)
    # The margin gives ties to the smaller size
    first = np.flatnonzero(enough >= quantile - 1e-7)
    expected = groups[first[0]] if len(first) else PLENTY
    assert size(deficit, seen(kept, generated), quantile) == expected


# ---------------------------------------------------------------------------------------------------------- properties

rounds = st.tuples(
    st.integers(1, 50),
    st.floats(0, 50),
    st.floats(0, 50),
    st.sampled_from([FIRST_QUANTILE, QUANTILE, 0.7]),
    st.integers(1, 8),
    st.integers(1, 40),
)


@given(rounds)
def test_rounds_are_a_positive_multiple_within_the_limit(numbers):
    deficit, kept, degenerate, quantile, multiple_of, times = numbers
    found = size(deficit, seen(kept, kept + degenerate), quantile, multiple_of, multiple_of * times)
    assert 0 < found <= multiple_of * times
    assert found % multiple_of == 0


@given(rounds)
def test_rounds_are_never_fewer_than_the_deficit_where_the_limit_allows(numbers):
    deficit, kept, degenerate, quantile, multiple_of, times = numbers
    limit = multiple_of * times
    assert size(deficit, seen(kept, kept + degenerate), quantile, multiple_of, limit) >= min(deficit, limit)


@given(rounds, st.integers(0, 10))
def test_rounds_grow_with_the_deficit_and_the_quantile(numbers, more):
    deficit, kept, degenerate, quantile, multiple_of, times = numbers
    rate, limit = seen(kept, kept + degenerate), multiple_of * times
    found = size(deficit, rate, quantile, multiple_of, limit)
    assert size(deficit + more, rate, quantile, multiple_of, limit) >= found
    assert size(deficit, rate, quantile + more / 200, multiple_of, limit) >= found


@given(rounds, st.floats(0, 1))
def test_rounds_shrink_the_more_of_the_same_groups_were_informative(numbers, part):
    deficit, kept, degenerate, quantile, multiple_of, times = numbers
    generated, limit = kept + degenerate, multiple_of * times
    better = min(kept + part * degenerate, generated)
    found = size(deficit, seen(kept, generated), quantile, multiple_of, limit)
    assert size(deficit, seen(better, generated), quantile, multiple_of, limit) <= found


@given(rounds)
def test_granule_and_limit_only_round_and_bound(numbers):
    deficit, kept, degenerate, quantile, multiple_of, times = numbers
    rate, limit = seen(kept, kept + degenerate), multiple_of * times
    free = size(deficit, rate, quantile, limit=8 * limit)
    assert size(deficit, rate, quantile, multiple_of, limit) == min(math.ceil(free / multiple_of) * multiple_of, limit)


# ---------------------------------------------------------------------------------------------------------- simulation


def test_ninety_percent_of_rounds_suffice_whatever_the_share():
    # Shares drawn from the prior, some groups seen of each, then a round: the posterior is exact here
    random = np.random.default_rng(0)
    asked = cache(lambda deficit, kept, generated: size(deficit, seen(kept, generated), QUANTILE))
    sufficient = []
    for share in random.uniform(size=10_000):
        generated, deficit = int(random.choice([0, 4, 12])), int(random.choice([1, 4, 16]))
        groups = asked(deficit, int(random.binomial(generated, share)), generated)
        assert groups < PLENTY
        sufficient.append(random.binomial(groups, share) >= deficit)
    # Not fewer, by three standard errors of 0.003; a little more, as sizes are whole numbers
    assert 0.891 < np.mean(sufficient) < 0.925


@pytest.mark.parametrize("share", [0.15, 0.4, 0.8])
def test_ninety_percent_of_refills_suffice_over_a_run(share):
    # Rollouts of 16 groups as the trainer runs them: half of the first rounds fall short, and one in ten refills
    random = np.random.default_rng(1)
    rate = KeepRate()
    firsts, refills = [], []
    for _ in range(400):
        rate.begin_rollout()
        missing, quantile, outcomes = 16, FIRST_QUANTILE, deque()
        while missing > 0:
            groups = size(missing, rate, quantile, limit=1024)
            kept = int(random.binomial(groups, share))
            rate.observe(kept, groups)
            missing, quantile = missing - kept, QUANTILE
            outcomes.append(missing <= 0)
        firsts.append(outcomes.popleft())
        refills += outcomes
    # Three standard errors of 0.5 / sqrt(600) = 0.02, and of 0.3 / sqrt(300) = 0.017, around shares that whole
    # numbers of groups push upwards
    assert len(refills) > 150
    assert 0.44 < np.mean(firsts) < 0.68
    assert 0.85 < np.mean(refills) < 0.97


def test_the_constants_are_what_the_documents_say():
    # One refill in ten needs another; the first round is a toss-up; 1 / (1 - 0.8) is five rollouts
    assert (QUANTILE, FIRST_QUANTILE, DECAY) == (0.9, 0.5, 0.8)
