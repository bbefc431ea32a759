"""Until when a change helps: few questions, the ends, and what is not monotone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_dapo.rewind.bisection import last_that_holds
from trl_dapo.rewind.rules import Bound, Rule, Seen, parse_rule


@given(st.integers(1, 60), st.integers(-1, 60))
def test_the_boundary_is_found_in_few_questions(count, last):
    asked = []

    def holds(step):
        asked.append(step)
        return step <= last

    found = last_that_holds(range(count), holds)
    # By hand: the last of 0..count-1 that is not above `last`
    assert found.last == (None if last < 0 else min(last, count - 1))
    assert found.first == (None if last >= count - 1 else max(0, last + 1))
    assert len(asked) == len(set(asked)) <= 2 + count.bit_length()
    assert found.contradictions == []


def test_what_is_not_monotone_beside_the_boundary_is_told():
    # 0..3 hold, 4 does not, 5 holds again: the boundary is 3 | 4, and its neighbour 5 says otherwise
    truth = {0: True, 1: True, 2: True, 3: True, 4: False, 5: True, 6: False, 7: False, 8: False}
    found = last_that_holds(range(9), truth.__getitem__, neighbours=True)
    assert (found.last, found.first) == (3, 4)
    assert found.contradictions == [5]
    assert {2, 5} <= set(found.asked)


def test_a_change_that_never_helps_is_asked_of_once():
    found = last_that_holds([4, 8, 12], lambda step: False)
    assert (found.last, found.first, found.asked) == (None, 4, {4: False})


def judge(log):
    return ()


def test_a_bound_is_seen_where_it_is_passed_first():
    log = [{"step": 1, "entropy": 0.5}, {"step": 2, "entropy": 0.09}, {"step": 3, "entropy": float("nan")}]
    rule = parse_rule("entropy < 0.1", judge)
    assert rule == Bound("entropy", "<", 0.1)
    assert rule.seen(log, 0) == Seen(2, 2)
    assert rule.seen(log, 2) is None
    assert parse_rule("dapo/accuracy_generated>0.4", judge).seen(log, 0) is None


def test_a_rule_of_the_diagnosis_is_seen_where_it_is_told():
    class Found:
        rule, onset, step = "entropy_collapse", 4, 7

    rule = parse_rule("entropy_collapse", lambda log: (Found(),))
    assert isinstance(rule, Rule)
    assert rule.seen([], 0) == Seen(4, 7)
    # Told before the branch begins: not of the branch
    assert rule.seen([], 7) is None
    with pytest.raises(
        ValueError, match=r"entropy_colapse is no rule of the diagnosis\. Did you mean .entropy_collapse"
    ):
        parse_rule("entropy_colapse", lambda log: (Found(),))


@pytest.mark.parametrize("text", ["entropy<", "<0.1", "entropy<low", "entropy<0.1<0.2"])
def test_a_bound_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match="write a metric, < or >, and a number"):
        parse_rule(text, judge)
