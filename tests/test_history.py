"""What is recorded of prompts, and the decisions that follow: GRESO's probabilities by hand, the posterior's draws."""

import json
import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, kstest

from trl_dapo.dapo.sampling.history import POOL, PromptHistory


OUTCOMES = {"easy": (4, 0, False), "hard": (0, 4, False), "informative": (2, 2, True)}


def visit(history: PromptHistory, identity, *outcomes: str) -> None:
    """Visits to a prompt with groups of 4, one after the other: `easy`, `hard` or `informative`."""
    for outcome in outcomes:
        history.record(identity, *OUTCOMES[outcome])


def rollout(history: PromptHistory, easy: int = 0, hard: int = 0, informative: int = 0) -> None:
    """A rollout with this many groups of each kind, of prompts that no test looks at."""
    for number, outcome in enumerate(["easy"] * easy + ["hard"] * hard + ["informative"] * informative):
        visit(history, f"other {number}", outcome)
    history.end_rollout()


def positions(count: int) -> list[tuple[int, int]]:
    """Epochs and ordinals, 100 to an epoch."""
    return [divmod(number, 100) for number in range(count)]


def decisions(history: PromptHistory, identity, count: int = 5000) -> list[bool]:
    return [history.skips(identity, *position) for position in positions(count)]


def generated_with(history: PromptHistory, identity, probability: float) -> bool:
    """Whether the share of positions at which a prompt is generated is this probability, within 4 standard errors."""
    skipped = decisions(history, identity)
    share = 1 - sum(skipped) / len(skipped)
    return abs(share - probability) <= 4 * math.sqrt(probability * (1 - probability) / len(skipped))


def resumed(history: PromptHistory, fresh: PromptHistory) -> PromptHistory:
    """A new history with the records of another, by way of a file."""
    fresh.load_state_dict(json.loads(json.dumps(history.state_dict())))
    return fresh


# --------------------------------------------------------------------------------------------------------------- GRESO


@pytest.mark.parametrize("kind", ["easy", "hard"])
@pytest.mark.parametrize(
    ("visits", "probability"),
    # p = 1/2 at first: p, p^2, p^3, p^4; p^5 = 0.031 and all after it are below the floor of 0.05
    [(1, 0.5), (2, 0.25), (3, 0.125), (4, 0.0625), (5, 0.05), (12, 0.05)],
)
def test_a_prompt_is_generated_with_p_to_the_power_of_its_degenerate_visits(kind, visits, probability):
    history = PromptHistory(0, skip_degenerate=True)
    visit(history, "a", *[kind] * visits)
    assert generated_with(history, "a", probability)
    # Neighbours in the list above are told apart
    assert not generated_with(history, "a", 2 * probability)


def test_the_floor_holds_however_long_a_prompt_was_degenerate():
    history = PromptHistory(0, skip_degenerate=True)
    visit(history, "a", *["hard"] * 2000)
    assert generated_with(history, "a", 0.05)


@pytest.mark.parametrize(
    ("outcomes", "run"),
    [
        (["hard", "hard", "informative"], 0),
        (["informative"], 0),
        (["hard", "informative", "hard"], 1),
        (["easy", "easy", "informative", "easy", "easy"], 2),
        # All wrong, then all right: the policy learned the prompt between two visits, and its run is of one
        (["hard", "hard", "hard", "easy"], 1),
        (["easy", "easy", "hard", "hard", "hard"], 3),
        (["easy", "hard", "easy", "hard"], 1),
    ],
)
def test_a_run_ends_with_an_informative_visit_or_a_change_of_kind(outcomes, run):
    history = PromptHistory(0, skip_degenerate=True)
    visit(history, "a", *outcomes)
    assert generated_with(history, "a", 0.5**run)


def test_an_unseen_prompt_is_never_skipped():
    history = PromptHistory(0, skip_degenerate=True, skip_solved_above=0.5)
    visit(history, "a", "hard")
    assert not any(decisions(history, "b"))


def test_prompts_have_runs_of_their_own():
    history = PromptHistory(0, skip_degenerate=True)
    for outcome_of_b in ("informative", "easy", "informative"):
        visit(history, "a", "hard")
        visit(history, "b", outcome_of_b)
    assert generated_with(history, "a", 0.125)
    assert not any(decisions(history, "b"))


def test_the_longer_the_run_the_fewer_of_the_same_places_are_generated():
    # One draw per position: what is skipped after two visits is skipped after three
    history = PromptHistory(3, skip_degenerate=True)
    before = [False] * 5000
    for _ in range(4):
        visit(history, "a", "easy")
        now = decisions(history, "a")
        assert all(later for earlier, later in zip(before, now, strict=True) if earlier)
        assert sum(now) > sum(before)
        before = now


@pytest.mark.parametrize(
    ("right", "wrong", "kind"),
    [
        (4, 0, "easy"),
        (0, 4, "hard"),
        # A constant reward of 0.5, or partly scored: right where above 0
        (1, 0, "easy"),
        (0, 1, "hard"),
        # No completion could be scored
        (0, 0, "hard"),
        # Of different outcomes, but every row truncated: there is nothing to learn
        (1, 3, "hard"),
        (3, 1, "hard"),
    ],
)
def test_a_degenerate_group_is_easy_only_where_all_of_it_is_right(right, wrong, kind):
    history = PromptHistory(0, skip_degenerate=True)
    # After 40 rollouts of easy groups alone, p is 0.5 - 0.4 = 0.1 for easy and 0.5 + 0.4 = 0.9 for hard prompts
    for _ in range(40):
        rollout(history, easy=1)
    history.record("a", right, wrong, informative=False)
    assert generated_with(history, "a", {"easy": 0.1, "hard": 0.9}[kind])


def test_informative_groups_of_any_score_end_a_run():
    # A reward that varies above 0: all of them count as right, and there is something to learn
    history = PromptHistory(0, skip_degenerate=True)
    visit(history, "a", "easy", "easy")
    history.record("a", 4, 0, informative=True)
    assert not any(decisions(history, "a"))


# ---------------------------------------------------------------------------------------------------------- adaptation


def exploration(history: PromptHistory) -> tuple[float, float]:
    """The exploration probabilities of easy and hard prompts, as a checkpoint holds them."""
    explore = history.state_dict()["explore"]
    assert set(explore) == {"easy", "hard"}
    return explore["easy"], explore["hard"]


def test_both_kinds_start_at_a_half():
    assert exploration(PromptHistory(0, skip_degenerate=True)) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("easy", "hard", "informative", "expected"),
    # Targets: a quarter of all groups degenerate, of which a third easy, so 1/12 easy and 1/6 hard
    [
        (1, 2, 9, (0.49, 0.49)),  # 1/12 and 2/12: at both targets
        (1, 2, 10, (0.51, 0.51)),  # 1/13 and 2/13: below both
        (2, 1, 9, (0.49, 0.51)),  # 2/12 and 1/12: with the targets swapped, (0.49, 0.49)
        (0, 3, 9, (0.51, 0.49)),  # a quarter in all, and all of it hard
        (0, 0, 1, (0.51, 0.51)),
        (0, 1, 0, (0.51, 0.49)),
        (1, 0, 0, (0.49, 0.51)),
    ],
)
def test_exploration_moves_a_hundredth_per_rollout_towards_the_targets(easy, hard, informative, expected):
    history = PromptHistory(0, skip_degenerate=True)
    rollout(history, easy, hard, informative)
    assert exploration(history) == pytest.approx(expected)


def test_each_rollout_is_counted_alone():
    history = PromptHistory(0, skip_degenerate=True)
    rollout(history, easy=12)
    # Over both rollouts half of the groups were easy; in the second none was
    rollout(history, informative=12)
    assert exploration(history) == pytest.approx((0.50, 0.52))


def test_all_rounds_of_a_rollout_count_together():
    history = PromptHistory(0, skip_degenerate=True)
    visit(history, "a", "easy")
    visit(history, "b", "hard", "hard")
    rollout(history, informative=10)
    # 1/13 and 2/13, as above
    assert exploration(history) == pytest.approx((0.51, 0.51))


def test_a_rollout_without_groups_changes_nothing():
    history = PromptHistory(0, skip_degenerate=True)
    rollout(history, hard=1)
    history.end_rollout()
    assert exploration(history) == pytest.approx((0.51, 0.49))


def test_exploration_stays_within_its_bounds():
    history = PromptHistory(0, skip_degenerate=True)
    # 45 steps lead from 0.5 to the bounds 0.05 and 0.95
    for number in range(100):
        rollout(history, easy=1)
        if number == 43:
            assert exploration(history) == pytest.approx((0.06, 0.94))
    assert exploration(history) == pytest.approx((0.05, 0.95))
    # And leads away from them again at once
    rollout(history, hard=1)
    assert exploration(history) == pytest.approx((0.06, 0.94))


def test_kinds_are_skipped_by_probabilities_of_their_own():
    history = PromptHistory(0, skip_degenerate=True)
    visit(history, "a", "easy", "easy")
    visit(history, "b", "hard", "hard")
    history.end_rollout()  # 2 of 4 each: 0.49 and 0.49
    for _ in range(21):
        rollout(history, hard=1)
    # 0.49 + 0.21 = 0.7 and 0.49 - 0.21 = 0.28, squared
    assert generated_with(history, "a", 0.49)
    assert generated_with(history, "b", 0.0784)


# -------------------------------------------------------------------------------------------------------------- solved


@pytest.mark.parametrize(
    ("threshold", "right", "wrong", "solved"),
    [
        (0.75, 3, 1, True),  # at the threshold
        (0.75, 2, 2, False),
        (0.76, 3, 1, False),
        (1.0, 4, 0, True),
        (1.0, 15, 1, False),
        # Of those that could be scored
        (1.0, 1, 0, True),
        (0.01, 0, 4, False),
        (0.01, 0, 0, False),
    ],
)
def test_a_prompt_is_solved_from_the_threshold_on(threshold, right, wrong, solved):
    history = PromptHistory(0, skip_solved_above=threshold)
    # Whether its group was informative or not: 3 right of 4 are both informative and solved
    history.record("a", right, wrong, informative=bool(right and wrong))
    assert set(decisions(history, "a", 300)) == {solved}


def test_only_the_last_visit_counts_for_solved():
    history = PromptHistory(0, skip_solved_above=0.75)
    history.record("a", 4, 0, informative=False)
    assert all(decisions(history, "a", 300))
    # 6 of 8 in all; 2 of 4 at last
    history.record("a", 2, 2, informative=True)
    assert not any(decisions(history, "a", 300))
    # 6 of 12 in all
    history.record("a", 0, 4, informative=False)
    history.record("a", 3, 1, informative=True)
    assert all(decisions(history, "a", 300))


def test_a_visit_that_could_not_be_scored_says_nothing_about_solved():
    history = PromptHistory(0, skip_solved_above=0.75)
    history.record("a", 4, 0, informative=False)
    history.record("a", 0, 0, informative=False)
    assert all(decisions(history, "a", 300))


def test_solved_alone_does_not_skip_hard_prompts():
    history = PromptHistory(0, skip_solved_above=0.5)
    visit(history, "a", *["hard"] * 9)
    assert not any(decisions(history, "a"))


def test_solved_prompts_are_not_explored():
    # GRESO alone would generate this one at half of the positions
    history = PromptHistory(0, skip_degenerate=True, skip_solved_above=1.0)
    visit(history, "a", "easy")
    visit(history, "b", "hard")
    assert all(decisions(history, "a"))
    assert generated_with(history, "b", 0.5)


# ------------------------------------------------------------------------------------------------------------ Thompson


def posterior(history: PromptHistory, identity) -> tuple[float, float]:
    """The right and wrong completions of a prompt, as a checkpoint holds them."""
    (record,) = [record for record in history.state_dict()["records"] if record[0] == identity]
    return tuple(record[-2:])


def is_drawn_from(history: PromptHistory, identity, a: float, b: float) -> bool:
    """Whether the distances of a prompt are `|X - 1/2|` with `X` of the `Beta(a, b)` distribution."""

    def below(distances):
        return beta.cdf(0.5 + distances, a, b) - beta.cdf(0.5 - distances, a, b)

    return kstest([history.distance(identity, *position) for position in positions(5000)], below).pvalue > 1e-3


def test_unseen_prompts_are_uniform():
    assert is_drawn_from(PromptHistory(0, thompson=True), "a", 1, 1)


@pytest.mark.parametrize(
    ("visits", "right", "wrong"),
    [
        ([(3, 1)], 3, 1),
        # 3/2 + 1 and 1/2 + 3
        ([(3, 1), (1, 3)], 2.5, 3.5),
        # 8/4 + 0/2 + 4 and 0/4 + 8/2 + 4
        ([(8, 0), (0, 8), (4, 4)], 6, 8),
        # A visit that could not be scored fades what was known
        ([(6, 2), (0, 0)], 3, 1),
    ],
)
def test_the_posterior_counts_completions_and_earlier_visits_by_half(visits, right, wrong):
    history = PromptHistory(0, thompson=True)
    for numbers in visits:
        history.record("a", *numbers, informative=True)
    assert posterior(history, "a") == (right, wrong)
    assert is_drawn_from(history, "a", right + 1, wrong + 1)
    # Two completions more would show
    assert not is_drawn_from(history, "a", right + 3, wrong + 1)


def test_prompts_of_medium_difficulty_are_closer_than_easy_and_hard_ones():
    history = PromptHistory(0, thompson=True)
    for _ in range(4):
        history.record("medium", 8, 8, informative=True)
        history.record("easy", 16, 0, informative=False)
        history.record("hard", 0, 16, informative=False)
    medium, easy, hard, unseen = (
        [history.distance(identity, *position) for position in positions(1000)]
        for identity in ("medium", "easy", "hard", "?")
    )
    # 16 + 8 + 4 + 2 = 30 completions: a Beta(16, 16) keeps within 3 * sqrt(1 / (4 * 33)) = 0.26 of 1/2, and of a
    # Beta(31, 1) or Beta(1, 31), 0.76^31 = 0.0002 is beyond 0.26 from its end
    assert max(medium) < 0.3
    assert min(sorted(easy)[10:]) > 0.3
    assert min(sorted(hard)[10:]) > 0.3
    # An unseen prompt may be of medium difficulty: on average it lies between
    assert sum(medium) < sum(unseen) < min(sum(easy), sum(hard))


def test_distances_lie_between_nothing_and_a_half():
    history = PromptHistory(0, thompson=True)
    visit(history, "a", *["easy"] * 50)
    distances = [history.distance(identity, *position) for identity in "ab" for position in positions(1000)]
    assert min(distances) >= 0
    assert max(distances) <= 0.5


def test_only_thompson_sampling_asks_for_a_pool():
    assert PromptHistory(0, thompson=True).pool == POOL == 4
    assert PromptHistory(0, skip_degenerate=True, skip_solved_above=0.5).pool == 1


# ----------------------------------------------------------------------------------------------------------- decisions

SWITCHES = {"skip_degenerate": True, "skip_solved_above": 0.9, "thompson": True}
outcome_lists = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), max_size=8)


@given(st.integers(0, 3), outcome_lists, outcome_lists)
def test_a_decision_is_a_function_of_seed_place_and_records(seed, visits, visits_of_others):
    first, second = PromptHistory(seed, **SWITCHES), PromptHistory(seed, **SWITCHES)
    for history, own, other in ((first, "a", "b"), (second, 7, "c")):
        for numbers in visits:
            history.record(own, *numbers)
        if history is second:
            for numbers in visits_of_others:
                history.record(other, *numbers)
            # Nor does it matter what was asked before
            decisions(history, own, 20)
    assert decisions(first, "a", 50) == decisions(second, 7, 50)
    assert [first.distance("a", *position) for position in positions(50)] == [
        second.distance(7, *position) for position in positions(50)
    ]


def test_decisions_are_the_same_in_every_process():
    # Python's own hash of a text changes from process to process: ranks and resumed runs would disagree
    program = """
from trl_dapo.dapo.sampling.history import PromptHistory
history = PromptHistory(42, skip_degenerate=True, thompson=True)
history.record("a", 0, 4, False)
print([(history.skips("a", 0, ordinal), history.distance("a", 0, ordinal)) for ordinal in range(40)])
"""
    printed = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert printed[0].count("True") > 5


def test_seeds_epochs_and_ordinals_give_draws_of_their_own():
    histories = [PromptHistory(seed, thompson=True) for seed in range(5)]
    draws = {history.distance("a", epoch, ordinal) for history in histories for epoch, ordinal in positions(1500)}
    assert len(draws) == 5 * 1500


def test_skips_and_distances_are_drawn_apart():
    # With one draw for both, the prompts that were not skipped would be those of high pass rates
    history = PromptHistory(0, skip_degenerate=True, thompson=True)
    visit(history, "a", "hard")
    kept = [history.distance("?", *position) for position in positions(5000) if not history.skips("a", *position)]
    assert kstest(kept, "uniform", args=(0, 0.5)).pvalue > 1e-3


# ------------------------------------------------------------------------------------------------------------ switches


def test_nothing_is_recorded_without_a_switch():
    history = PromptHistory(0)
    assert not history.in_use
    for _ in range(3):
        visit(history, "a", "easy", "hard")
        rollout(history, easy=4)
    assert history.state_dict() == PromptHistory(0).state_dict()
    assert history.state_dict()["records"] == []
    assert not any(decisions(history, "a", 300))
    assert history.pool == 1


@pytest.mark.parametrize("switch", SWITCHES)
def test_any_switch_records(switch):
    history = PromptHistory(0, **{switch: SWITCHES[switch]})
    assert history.in_use
    visit(history, "a", "informative")
    assert len(history.state_dict()["records"]) == 1


def test_thompson_sampling_alone_skips_nothing():
    history = PromptHistory(0, thompson=True)
    visit(history, "a", *["hard"] * 9)
    assert not any(decisions(history, "a"))


# -------------------------------------------------------------------------------------------------------------- resume

identities = st.one_of(st.integers(0, 5), st.text("abc", min_size=1, max_size=2))
visits_of_prompts = st.lists(
    st.one_of(
        st.just(None),  # the end of a rollout
        st.tuples(identities, st.integers(0, 4), st.integers(0, 4), st.booleans()),
    ),
    max_size=30,
)


def replay(history: PromptHistory, visits: list) -> None:
    for one in visits:
        if one is None:
            history.end_rollout()
        else:
            history.record(*one)
    history.end_rollout()


@given(visits_of_prompts, visits_of_prompts, st.sampled_from([None, 0.5, 1.0]), st.booleans(), st.booleans())
def test_a_resumed_history_decides_identically(before, after, solved, greso, thompson):
    def fresh() -> PromptHistory:
        return PromptHistory(1, skip_degenerate=greso, skip_solved_above=solved, thompson=thompson)

    history = fresh()
    replay(history, before)
    other = resumed(history, fresh())
    for _ in range(2):
        assert other.state_dict() == history.state_dict()
        for identity in [*range(6), "a", "b", "cc"]:
            assert decisions(other, identity, 10) == decisions(history, identity, 10)
            assert other.distance(identity, 0, 1) == history.distance(identity, 0, 1)
        replay(history, after)
        replay(other, after)


def test_loading_a_state_forgets_what_came_after():
    history = PromptHistory(0, skip_degenerate=True, skip_solved_above=1.0)
    rollout(history, hard=1)
    state = json.loads(json.dumps(history.state_dict()))
    visit(history, "a", "easy")
    rollout(history, easy=3)
    history.load_state_dict(state)
    assert history.state_dict() == state
    assert not any(decisions(history, "a", 300))


def test_a_state_is_a_snapshot():
    history = PromptHistory(0, skip_degenerate=True)
    rollout(history, hard=1)
    state = history.state_dict()
    before = json.dumps(state)
    rollout(history, easy=1, hard=2)
    assert json.dumps(state) == before


def test_loading_a_state_leaves_it_alone():
    history = PromptHistory(0, skip_degenerate=True)
    rollout(history, hard=1)
    state = history.state_dict()
    before = json.dumps(state)
    other = PromptHistory(0, skip_degenerate=True)
    other.load_state_dict(state)
    rollout(other, easy=5)
    assert json.dumps(state) == before
