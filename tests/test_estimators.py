"""avg@k, pass@k and maj@k against numbers by hand, and against counting all subsets and votes."""

from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_dapo.evaluation.estimators import avg_at_k, ks_of, maj_at_k, pass_at_k


def test_the_average_is_the_share_of_right_samples():
    assert avg_at_k([True, False, False, True]) == 0.5
    assert avg_at_k([False]) == 0.0


# n = 4, c = 1, k = 2: of the 6 pairs, 3 hold the right sample. n = 5, c = 2, k = 3: of 10 triples, one has none.
# The biased 1 - (1 - c/n)^k would give 0.4375 and 0.784
@pytest.mark.parametrize(
    ("samples", "right", "k", "expected"),
    [
        (4, 1, 2, 0.5),
        (5, 2, 3, 0.9),
        (4, 0, 4, 0.0),
        (4, 4, 1, 1.0),
        (4, 1, 4, 1.0),
        # Fewer wrong samples than k: one of any k is right
        (4, 3, 2, 1.0),
        (1, 1, 1, 1.0),
        (1, 0, 1, 0.0),
    ],
)
def test_pass_at_k_by_hand(samples, right, k, expected):
    assert pass_at_k(samples, right, k) == expected


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(right, data):
    k = data.draw(st.integers(1, len(right)))
    counted = fmean(any(subset) for subset in combinations(right, k))
    assert pass_at_k(len(right), sum(right), k) == pytest.approx(counted, rel=1e-12)


def test_pass_at_1_is_the_average():
    assert pass_at_k(8, 3, 1) == avg_at_k([True] * 3 + [False] * 5) == 0.375


def test_pass_at_k_of_many_samples_does_not_overflow():
    # C(10000, 5000) has 3009 digits. With one right sample, half of the subsets of half the size hold it
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize(("samples", "right", "k"), [(4, 1, 0), (4, 1, 5), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_pass_at_k_refuses_numbers_that_cannot_be(samples, right, k):
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(samples, right, k)


# Votes by hand: answer and outcome of each sample, and how right the majority is
VOTES = {
    "a clear right majority": ("33 4", "RR W", 1.0),
    "a clear wrong majority": ("44 3", "WW R", 0.0),
    # 3 and 4 have two votes each: half a vote is right
    "a tie of a right and a wrong answer": ("33 44 5", "RR WW W", 0.5),
    "a tie of three": ("345", "RWW", 1 / 3),
    # One vote for 3; the others say nothing, however many they are
    "what cannot be parsed does not vote": ("3----", "R----", 1.0),
    "nothing can be parsed": ("---", "---", 0.0),
    # The winner counts as right in one of its two samples
    "an answer that is right in some samples": ("33 4", "RW W", 0.5),
    "one sample": ("3", "R", 1.0),
}


@pytest.mark.parametrize("case", VOTES)
def test_the_majority_by_hand(case):
    answers, outcomes, expected = VOTES[case]
    parsed = [None if answer == "-" else answer for answer in answers.replace(" ", "")]
    assert maj_at_k(parsed, [one == "R" for one in outcomes.replace(" ", "")]) == pytest.approx(expected)


@given(st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), st.just(0)), min_size=1, max_size=7), st.data())
def test_the_majority_is_what_all_ways_of_breaking_a_tie_average_to(rows, data):
    answers = [answer for answer, _ in rows]
    right = [answer == "1" for answer in answers]
    counts = {answer: answers.count(answer) for answer in answers if answer is not None}
    winners = [answer for answer in counts if counts[answer] == max(counts.values())]
    expected = sum(winner == "1" for winner in winners) / len(winners) if winners else 0.0
    assert maj_at_k(answers, right) == pytest.approx(expected)
    order = data.draw(st.permutations(range(len(rows))))
    assert maj_at_k([answers[i] for i in order], [right[i] for i in order]) == pytest.approx(expected)


def test_votes_and_outcomes_must_match():
    with pytest.raises(ValueError, match="2 for 1 samples"):
        maj_at_k(["1", "2"], [True])
    with pytest.raises(ValueError, match="at least one sample"):
        avg_at_k([])


def test_powers_of_2_and_all_samples_are_reported():
    assert ks_of(32) == [2, 4, 8, 16, 32]
    assert ks_of(12) == [2, 4, 8, 12]
    assert ks_of(1) == [1]
