"""The `dapo/*` numbers of a rollout, worked out by hand, and that they are there whatever happens in it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_dapo.dapo.metrics import Generated, Trained, length_metrics, rollout_metrics, weight_moved
from trl_dapo.dapo.sampling.groups import Verdicts


NAN, INF = float("nan"), float("inf")

NAMES = {
    "dapo/frac_informative",
    "dapo/frac_all_correct",
    "dapo/frac_all_wrong",
    "dapo/refill_rounds",
    "dapo/groups_generated",
    "dapo/groups_kept",
    "dapo/dead_groups",
    "dapo/groups_replaced",
    "dapo/surplus_groups",
    "dapo/carried_groups",
    "dapo/carried_age",
    "dapo/samples_per_informative_group",
    "dapo/exhausted",
    "dapo/overlong_frac",
    "dapo/mean_length_generated",
    "dapo/accuracy_generated",
    "dapo/mean_length_penalty",
    "dapo/rows_filtered",
    "dapo/weight_moved",
    "dapo/updates_per_rollout",
}


def metrics(
    letters: str = "IW",
    metric: tuple[float, ...] = (0, 1, 0, 0),
    lengths: tuple[int, ...] = (1, 2, 3, 4),
    truncated: tuple[bool, ...] = (False,) * 4,
    kept: int | None = None,
    penalties: tuple[float, ...] = (0.0, 0.0),
    rounds: int = 0,
    exhausted: bool = False,
    dead: int = 0,
    surplus: int = 0,
    ages: tuple[float, ...] = (),
    replaced: int = 0,
    filtered: tuple[bool, ...] = (False, False),
    in_loss: tuple[int, ...] = (3, 3),
) -> dict[str, float]:
    """A rollout with one letter per group: `I`nformative, all `C`orrect, all `W`rong, or `-`."""
    verdicts = Verdicts(*(torch.tensor([letter == kind for letter in letters]) for kind in "ICW"))
    generated = Generated(
        torch.tensor(metric, dtype=torch.float64), torch.tensor(lengths), torch.tensor(truncated), verdicts, rounds
    )
    informative = letters.count("I") if kept is None else kept
    trained = Trained(
        informative_groups=informative,
        dead_groups=dead,
        surplus_groups=surplus,
        replaced_groups=replaced,
        ages_of_carried_P=torch.tensor(ages),
        exhausted=exhausted,
        length_penalties_B=torch.tensor(penalties),
        filtered_B=torch.tensor(filtered),
        lengths_in_loss_B=torch.tensor(in_loss),
        updates_per_rollout=4.0,
    )
    return rollout_metrics(generated, trained)


def test_shares_of_groups_are_over_all_that_was_generated():
    # 2, 1 and 4 of 8; the eighth group could not be scored
    logged = metrics("IIC-WWWW", kept=1)
    assert logged["dapo/frac_informative"] == 2 / 8
    assert logged["dapo/frac_all_correct"] == 1 / 8
    assert logged["dapo/frac_all_wrong"] == 4 / 8
    assert logged["dapo/groups_generated"] == 8


def test_groups_kept_are_those_trained_on_not_those_found():
    # 3 informative groups, a batch of 2: the third is surplus
    assert metrics("III", kept=2)["dapo/groups_kept"] == 2


def test_samples_per_informative_group_counts_everything_generated():
    # 3 groups of 4 rows for 2 informative groups: 12 / 2
    assert metrics("IWI", metric=(0,) * 12)["dapo/samples_per_informative_group"] == 6


def test_samples_per_informative_group_counts_surplus_groups_as_spent():
    # 3 informative groups of 4 rows were found and 2 trained on: 12 / 2, not 12 / 3
    assert metrics("III", metric=(0,) * 12, kept=2)["dapo/samples_per_informative_group"] == 6


def test_samples_per_informative_group_stays_finite_without_any():
    # 12 completions for nothing
    logged = metrics("WWC", metric=(0,) * 12)
    assert logged["dapo/samples_per_informative_group"] == 12
    assert logged["dapo/frac_informative"] == 0


def test_accuracy_is_that_of_all_candidates():
    # verl's numbers are those of kept groups only: 1/2 here. Of all candidates it is 1/8.
    assert metrics("IW", metric=(0, 1, 0, 0, 0, 0, 0, 0))["dapo/accuracy_generated"] == 1 / 8


@pytest.mark.parametrize(
    ("metric", "mean"),
    [((1, NAN, 0, NAN), 0.5), ((1, INF, -INF, 1), 1.0), ((NAN,) * 4, 0.0), ((NAN, NAN, NAN, -2), -2.0)],
)
def test_accuracy_is_over_the_rows_that_could_be_scored(metric, mean):
    assert metrics(metric=metric)["dapo/accuracy_generated"] == mean


def test_lengths_are_those_of_all_candidates():
    # (2 + 4 + 8 + 8) / 4 and 2 of 4 truncated
    logged = metrics(lengths=(2, 4, 8, 8), truncated=(False, False, True, True))
    assert logged["dapo/mean_length_generated"] == 5.5
    assert logged["dapo/overlong_frac"] == 0.5


def test_length_penalty_is_that_of_the_trained_rows():
    # -1/4 and -1 over the three that were scored
    assert metrics(penalties=(0.0, -0.25, NAN, -1.0))["dapo/mean_length_penalty"] == pytest.approx(-1.25 / 3, rel=1e-9)


@pytest.mark.parametrize("penalties", [(), (NAN, NAN)])
def test_length_penalty_of_no_row_is_zero(penalties):
    assert metrics(penalties=penalties)["dapo/mean_length_penalty"] == 0


def test_replaced_groups_are_counted():
    assert metrics("IWW", replaced=2)["dapo/groups_replaced"] == 2
    assert metrics("IWW")["dapo/groups_replaced"] == 0


def test_filtered_rows_are_a_share_of_the_trained_rows():
    # 1 of 4
    assert metrics(filtered=(False, True, False, False))["dapo/rows_filtered"] == 0.25


@pytest.mark.parametrize(
    ("lengths", "moved"),
    [
        # Weights 1/10, 2/10, 3/10, 4/10 instead of 1/4 each: 0.15 and 0.05 are given, 0.05 and 0.15 taken
        ((1, 2, 3, 4), 0.2),
        # Two rows in the loss: 3/4 and 1/4 instead of 1/2 each
        ((0, 30, 10, 0), 0.25),
        # 97/100 instead of 1/4
        ((1, 97, 1, 1), 0.72),
        ((7, 7, 7), 0.0),
        ((5,), 0.0),
        ((0, 0), 0.0),
        ((), 0.0),
    ],
)
def test_weight_moved_is_the_distance_of_weights_by_length_from_equal_ones(lengths, moved):
    assert metrics(in_loss=lengths)["dapo/weight_moved"] == pytest.approx(moved, abs=1e-12)


@given(st.lists(st.integers(0, 20000), max_size=12), st.integers(1, 50))
def test_weight_moved_is_a_share_that_ignores_the_unit_and_the_order(lengths, factor):
    moved = weight_moved(torch.tensor(lengths))
    assert 0 <= moved < 1
    assert weight_moved(factor * torch.tensor(lengths[::-1])) == pytest.approx(moved, abs=1e-12)


def test_surplus_groups_are_counted():
    assert metrics("III", kept=2, surplus=1)["dapo/surplus_groups"] == 1
    assert metrics("III")["dapo/surplus_groups"] == 0


def test_carried_groups_are_counted_and_their_ages_averaged():
    # Generated 2, 2 and 8 updates ago: 12 / 3
    logged = metrics(ages=(2, 2, 8))
    assert logged["dapo/carried_groups"] == 3
    assert logged["dapo/carried_age"] == 4


def test_the_age_of_no_carried_group_is_zero():
    logged = metrics()
    assert (logged["dapo/carried_groups"], logged["dapo/carried_age"]) == (0, 0)


def test_carried_groups_cost_no_completions():
    # 2 groups of 4 rows were generated, one of them informative; with 3 carried ones, 4 are trained on: 8 / 4
    logged = metrics("IW", metric=(0,) * 8, kept=4, ages=(1, 1, 1))
    assert logged["dapo/samples_per_informative_group"] == 2
    assert logged["dapo/frac_informative"] == 1 / 2
    assert logged["dapo/groups_generated"] == 2


def test_rounds_exhaustion_and_updates_are_passed_on():
    logged = metrics(rounds=3, exhausted=True)
    assert (logged["dapo/refill_rounds"], logged["dapo/exhausted"], logged["dapo/updates_per_rollout"]) == (3, 1, 4)
    assert metrics()["dapo/exhausted"] == 0


@settings(deadline=None)
@given(
    st.text("ICW-", min_size=1, max_size=8), st.lists(st.sampled_from([0.0, 1.0, NAN, INF]), min_size=1), st.booleans()
)
def test_all_metrics_are_there_and_finite_whatever_happens(letters, metric, exhausted):
    logged = metrics(letters, tuple(metric), exhausted=exhausted, penalties=(NAN,))
    assert set(logged) == NAMES
    assert all(type(value) is float and math.isfinite(value) for value in logged.values())


# ------------------------------------------------------------------------------------------------------ TRL's own keys


def test_completion_lengths_are_told_apart_by_how_they_ended():
    # All: 2, 4, 9, 9. Terminated: 2, 4.
    assert length_metrics(torch.tensor([2, 9, 4, 9]), torch.tensor([False, True, False, True])) == {
        "completions/mean_length": 6.0,
        "completions/min_length": 2.0,
        "completions/max_length": 9.0,
        "completions/clipped_ratio": 0.5,
        "completions/mean_terminated_length": 3.0,
        "completions/min_terminated_length": 2.0,
        "completions/max_terminated_length": 4.0,
    }


def test_terminated_lengths_are_zero_where_every_row_was_truncated():
    logged = length_metrics(torch.tensor([8, 8]), torch.tensor([True, True]))
    assert logged["completions/clipped_ratio"] == 1
    assert [logged[f"completions/{name}_terminated_length"] for name in ("mean", "min", "max")] == [0, 0, 0]


def test_terminated_lengths_are_all_lengths_where_no_row_was_truncated():
    logged = length_metrics(torch.tensor([8, 3]), torch.tensor([False, False]))
    assert logged["completions/clipped_ratio"] == 0
    for name in ("mean", "min", "max"):
        assert logged[f"completions/{name}_terminated_length"] == logged[f"completions/{name}_length"]
