"""The factor of the length penalty by hand: half of what a right answer is worth, declared or seen, set once."""

import logging
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_dapo.arena import arena_accuracy
from trl_dapo.dapo.penalty_scale import PenaltyScale, fitting_factor
from trl_dapo.dapo.raw_metric import PENALTY_NAME
from trl_dapo.dapo.worth import Worth, declared_range


NAN = math.nan


@pytest.fixture(autouse=True, scope="module")
def _loggers_know_their_process():
    PartialState()


def function(declared=None):
    def reward(**kwargs):
        raise AssertionError("a scale calls no reward function")

    if declared is not None:
        reward.reward_range = declared
    return reward


def config(factor=None, metric=None, aggregation="sum_then_normalize", tolerance=1e-6):
    return SimpleNamespace(
        overlong_penalty_factor=factor,
        dynamic_sampling_metric=metric,
        multi_objective_aggregation=aggregation,
        dynamic_sampling_tolerance=tolerance,
        dynamic_sampling=True,
    )


def worth(*declared, weights=None, **fields):
    """The functions "a", "b", ... with what they declare, and a length penalty behind them."""
    names = [*"abc"[: len(declared)], PENALTY_NAME]
    sizes = torch.tensor(weights or [1.0] * len(declared))
    return Worth(names, [function(one) for one in declared], sizes, config(**fields))


def scale(*declared, weights=None, **fields):
    return PenaltyScale(worth(*declared, weights=weights, **fields), config(**fields))


def rewards(*rows):
    """One row per completion; a number is the reward of the only function."""
    return torch.tensor([[row] if isinstance(row, int | float) else row for row in rows])


# ------------------------------------------------------------------------------------------------------------ declared


@pytest.mark.parametrize(
    ("declared", "factor"),
    [
        # The paper: right +1, wrong -1, 2 apart; the penalty down to -1 is a half of it
        ((-1, 1), 1.0),
        # 1 apart
        ((0, 1), 0.5),
        ([0.0, 1.0], 0.5),
        ((0, 0.5), 0.25),
        ((-3, -1), 1.0),
    ],
)
def test_a_declared_range_gives_half_of_it_at_once(declared, factor):
    assert scale(declared).factor == factor


def test_the_arenas_reward_declares_its_range():
    assert arena_accuracy.reward_range == (0.0, 1.0)


def test_declared_ranges_add_up_by_weight_whatever_its_sign():
    # |2| * 1 + |-0.5| * 2 = 3; a function without weight pays nothing, and needs no declaration
    assert scale((0, 1), (-1, 1), None, weights=[2.0, -0.5, 0.0]).factor == 1.5


def test_a_function_named_as_the_metric_is_worth_its_weight():
    # Dynamic sampling looks at "a" as it is; in the reward, a right answer earns 3 times as much
    assert scale((0, 1), (0, 10), weights=[3.0, 1.0], metric="a").factor == 1.5


def test_a_metric_that_judges_without_paying_leaves_the_distance_to_the_others():
    assert scale((-1, 1), (0, 1), weights=[0.0, 1.0], metric="a").factor == 0.5


def test_normalized_columns_have_their_weights_alone(caplog):
    # Each column has a standard deviation of 1 within its group, the penalty's too, whatever functions declare or not
    with caplog.at_level(logging.WARNING):
        one = scale((0, 10), None, weights=[1.0, 0.5], aggregation="normalize_then_sum")
        one.learn(rewards([11.0, 0.0], [0.0, 100.0]), step=0)
    assert one.factor == 0.75
    (line,) = caplog.messages
    assert "by the weights of a, b" in line


def test_one_function_that_declares_nothing_is_waited_for():
    assert scale((0, 1), None).factor is None


def test_weights_of_zero_pay_nothing_and_scale_nothing():
    one = scale((0, 1), weights=[0.0])
    one.learn(rewards(0.0, 1.0), step=0)
    assert one.factor is None


@pytest.mark.parametrize(
    "declared",
    [
        (1, 0),
        (0, 0),
        (0, math.inf),
        (NAN, 1),
        (-3e38, 3e38),
        (0, 1, 2),
        (0,),
        "01",
        1.0,
        (None, 1),
        ("0", "1"),
        {0, 1},
    ],
)
def test_a_declaration_that_is_no_range_is_refused_by_name(declared):
    with pytest.raises(ValueError, match=r"The reward function 'a' has reward_range=.*overlong_penalty_factor"):
        scale(declared)
    # Nobody reads it where the factor is set
    assert scale(declared, factor=0.3).factor == 0.3


def test_a_range_is_read_from_anything_that_can_be_called():
    class Scorer:
        reward_range = (0, 2)

        def score(self, **kwargs):
            return [0.0]

        score.reward_range = (0, 4)

    assert declared_range(Scorer(), "a") == (0, 2)
    assert declared_range(Scorer().score, "a") == (0, 4)
    assert declared_range(torch.nn.Linear(1, 1), "a") is None
    assert declared_range(partial(function((0, 1))), "a") is None


# ---------------------------------------------------------------------------------------------------------------- seen


@pytest.mark.parametrize(
    ("seen", "factor"),
    [
        ((0.0, 1.0, 1.0), 0.5),
        ((1.0, -1.0), 1.0),
        ((0.0, 0.5, 1.0), 0.5),
        # Half a point is all that is known then
        ((0.0, 0.5), 0.25),
        ((NAN, 1.0, NAN, 0.0), 0.5),
        # 0.1 in float32 is 0.100000001...: what is printed is what is used
        ((0.0, 0.1), 0.05),
    ],
)
def test_without_a_declaration_the_range_is_that_of_the_first_rollout(seen, factor):
    one = scale(None)
    assert one.factor is None
    one.learn(rewards(*seen), step=0)
    assert one.factor == factor


@pytest.mark.parametrize("first", [(0.0, 0.0), (1.0, 1.0), (NAN, 0.5), (NAN, NAN), (0.0, 1e-7)])
def test_a_constant_first_rollout_is_passed_over(first):
    one = scale(None)
    one.learn(rewards(*first), step=0)
    assert one.factor is None
    one.learn(rewards(1.0, -1.0), step=4)
    assert one.factor == 1.0


def test_a_scale_that_is_known_stays():
    one = scale(None)
    one.learn(rewards(0.0, 0.5), step=0)
    one.learn(rewards(0.0, 1.0), step=4)
    assert one.factor == 0.25


def test_of_several_functions_the_weighted_sum_is_seen():
    # 2a - b, where b does not apply to the last row: 2, -1, 1 and 2: the range is 3
    one = scale(None, (0, 1), weights=[2.0, -1.0])
    one.learn(rewards([1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, NAN]), step=0)
    assert one.factor == 1.5


def test_a_named_function_that_is_seen_is_worth_its_weight():
    # Of "b", worth 0.5 a point, 0 to 4 are seen; "a" does not matter
    one = scale(None, None, weights=[1.0, 0.5], metric="b")
    one.learn(rewards([100.0, 0.0], [0.0, 4.0]), step=0)
    assert one.factor == 1.0


def test_the_tolerance_is_in_the_unit_of_the_metric():
    # A metric from 0 to 1 varies by more than 0.5, whatever its weight
    one = scale(None, weights=[0.01], metric="a", tolerance=0.5)
    one.learn(rewards(0.0, 1.0), step=0)
    assert one.factor == 0.005


def test_a_factor_that_is_set_stays_whatever_is_seen(caplog):
    with caplog.at_level(logging.WARNING):
        one = scale((0, 1), factor=1.0)
        one.learn(rewards(0.0, 5.0), step=0)
    assert one.factor == 1.0
    assert caplog.messages == []


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100, width=32) | st.just(NAN), min_size=1, max_size=8), st.floats(0.125, 8, width=32))
def test_the_penalty_never_takes_more_than_half_of_the_distance(values, weight):
    one = scale(None, weights=[weight])
    one.learn(rewards(*values), step=0)
    scored = [value for value in values if not math.isnan(value)]
    distance = weight * (max(scored) - min(scored)) if scored else 0.0
    assert (one.factor is None) == (distance <= 1e-6)
    if one.factor is not None:
        assert one.factor == pytest.approx(distance / 2, rel=1e-5)


def test_a_factor_is_what_can_be_set():
    assert fitting_factor(1 / 3) == 0.166667


# -------------------------------------------------------------------------------------------------------- what is told


def test_the_scale_is_told_once_with_the_factor_that_fixes_it(caplog):
    with caplog.at_level(logging.WARNING):
        scale((0, 1))
        assert len(caplog.messages) == 1
        one = scale(None)
        for step in (0, 4, 8):
            one.learn(rewards(0.0, 0.5), step=step)
    declared, seen = caplog.messages
    assert "by the declarations and weights of a" in declared
    assert "Set overlong_penalty_factor=0.5 to fix it" in declared
    assert "in the rollout at step 0" in seen
    assert "Set overlong_penalty_factor=0.25 to fix it" in seen


def test_a_scale_from_a_part_of_the_range_is_told_once(caplog):
    one = scale(None)
    one.learn(rewards(0.0, 0.5), step=0)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        # Half of 0.7 is not one and a half times 0.25; half of 1 is twice
        for highest in (0.7, 1.0, 1.0):
            one.learn(rewards(0.0, highest), step=4)
    (line,) = caplog.messages
    assert "stays at 0.25" in line
    assert "Set overlong_penalty_factor=0.5 to have half of it" in line


def test_a_reward_outside_its_range_is_told_once(caplog):
    one = scale((0, 0.1), (-1, 1))
    with caplog.at_level(logging.WARNING):
        # 0.1 in float32 is above 0.1
        one.learn(rewards([0.1, -1.0], [0.0, NAN]), step=0)
        assert not any("declares" in line for line in caplog.messages)
        for step in (4, 8):
            one.learn(rewards([0.1, -1.0], [0.0, 1.5]), step=step)
    (line,) = [line for line in caplog.messages if "declares" in line]
    assert "'b' declares reward_range=(-1.0, 1.0) and returned 1.5" in line
    assert one.factor == 1.05


def test_functions_that_each_score_rows_of_their_own_are_told_once(caplog):
    # Declared, they add up to 2; a completion that one of them scores is worth 1. A row without a reward is worth none
    one = scale((0, 1), (0, 1))
    with caplog.at_level(logging.WARNING):
        for step in (0, 4):
            one.learn(rewards([1.0, NAN], [NAN, 0.0], [NAN, NAN]), step=step)
    (line,) = [line for line in caplog.messages if "Not every" in line]
    assert "worth 1 in some" in line
    assert "Set overlong_penalty_factor=0.5" in line


# --------------------------------------------------------------------------------------------------------- checkpoints


def test_a_scale_that_was_seen_goes_on_from_its_checkpoint(caplog):
    first, second = scale(None), scale(None)
    first.learn(rewards(0.0, 0.5), step=0)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        second.load_state_dict(first.state_dict())
        second.learn(rewards(0.0, 0.7), step=4)
    assert second.factor == 0.25
    assert caplog.messages == []


def test_a_checkpoint_from_before_the_scale_was_known_forgets_it():
    one = scale(None)
    before = one.state_dict()
    one.learn(rewards(0.0, 1.0), step=0)
    one.load_state_dict(before)
    assert one.factor is None


@pytest.mark.parametrize(
    ("saved", "loaded", "was", "now"),
    [
        # A factor that was set and no longer is: what this run knows counts
        ({"factor": 1.0}, {"declared": (0, 1)}, 1.0, 0.5),
        ({"factor": 1.0}, {"declared": None}, 1.0, None),
        ({"declared": (0, 1)}, {"factor": 0.8}, 0.5, 0.8),
    ],
)
def test_another_factor_than_the_checkpoints_is_told(caplog, saved, loaded, was, now):
    made = []
    for fields in (saved, loaded):
        made.append(scale(fields.pop("declared", None), **fields))
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        made[1].load_state_dict(made[0].state_dict())
    assert made[1].factor == now
    (line,) = caplog.messages
    assert f"was {was} in the checkpoint and is {now} from" in line


def test_a_checkpoint_without_a_scale_is_told_unless_the_factor_is_set(caplog):
    known, seen, given = scale((0, 1)), scale(None), scale(None, factor=1.0)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        for one in (known, seen, given):
            one.load_state_dict(None)
    assert (known.factor, seen.factor, given.factor) == (0.5, None, 1.0)
    assert len(caplog.messages) == 2
    assert all("set overlong_penalty_factor=1.0" in line for line in caplog.messages)


def test_a_new_run_forgets_what_was_seen_and_nothing_else():
    seen, known, given = scale(None), scale((0, 1)), scale(None, factor=1.0)
    for one in (seen, known, given):
        one.learn(rewards(0.0, 1.0), step=0)
        one.forget()
    assert (seen.factor, known.factor, given.factor) == (None, 0.5, 1.0)
