"""Scorers as reward functions of TRL and as judges: rewards, columns, logs, and what is refused."""

import decimal
import inspect
import logging
import pickle

import numpy as np
import pytest

from trl_dapo.evaluation import scorers
from trl_dapo.evaluation.scorers import SCORERS, Judgement, dapo_math, get_scorer
from trl_dapo.evaluation.scorers.scorer import _tell_unreadable
from trl_dapo.grpo.reward_errors import named


RIGHT, WRONG, NOTHING = "Answer: 34", "Answer: 35", "no idea"


def test_the_names_are_those_of_the_instances():
    assert SCORERS == ("dapo_math", "math_verify", "boxed", "exact", "number", "multiple_choice", "reasoning_gym")
    for name in SCORERS:
        assert getattr(scorers, name) == get_scorer(name)
        assert getattr(scorers, name).__name__ == name
        assert getattr(scorers, name).answer_format


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_is_copied_with_its_settings(name):
    scorer = get_scorer(name, unparseable_reward=None, time_limit=2)
    assert pickle.loads(pickle.dumps(scorer)) == scorer


def test_the_papers_rewards_are_one_and_minus_one():
    assert dapo_math.reward_range == (-1.0, 1.0)
    assert dapo_math(completions=[RIGHT, WRONG, NOTHING], solution=["34"] * 3) == [1.0, -1.0, -1.0]
    assert get_scorer("number").reward_range == (0.0, 1.0)


def test_the_range_is_there_on_what_the_trainer_calls():
    # The trainer wraps reward functions; the length penalty's scale reads the range from what it is given
    assert named(dapo_math, "dapo_math").reward_range == (-1.0, 1.0)


@pytest.mark.parametrize(("reward", "expected"), [("wrong", -1.0), (None, None), (-0.5, -0.5), (0, 0.0)])
def test_an_unparseable_answer_has_the_reward_that_the_user_chose(reward, expected):
    scorer = get_scorer("dapo_math", unparseable_reward=reward)
    assert scorer(completions=[NOTHING, WRONG], solution=["34", "34"]) == [expected, -1.0]


def test_a_judgement_has_the_normalised_answer():
    assert dapo_math.judge(["Answer: 3,4"], ["34"]) == [Judgement("right", 1.0, "34")]


def test_the_answer_can_be_stored():
    # Half of a character has no bytes, and an answer of 10,000 characters fills no cell of a table
    long, half = get_scorer("exact").judge(["x" * 9_000, "\ud800"], ["y", "y"])
    assert len(long.answer) == 1_000
    assert half.answer == "?"


@pytest.mark.parametrize(
    "completion",
    [
        RIGHT,
        [{"role": "assistant", "content": RIGHT}],
        [{"role": "tool", "content": WRONG}, {"role": "assistant", "content": RIGHT}],
        [{"role": "assistant", "content": [{"type": "text", "text": RIGHT}, {"type": "image"}]}],
    ],
)
def test_the_text_of_a_completion_is_read_in_every_format(completion):
    assert dapo_math(completions=[completion], solution=["34"]) == [1.0]


def test_a_message_without_content_has_no_answer():
    assert (
        dapo_math.judge([[{"role": "assistant", "content": None}], []], ["34"] * 2)
        == [Judgement("unparseable", -1.0, None)] * 2
    )


def test_shares_are_logged_and_answers_stand_in_the_table():
    metrics, table = {}, {}
    dapo_math(
        completions=[RIGHT, NOTHING],
        solution=["34", "34"],
        log_metric=metrics.__setitem__,
        log_extra=table.__setitem__,
        prompts=["p", "p"],
    )
    assert metrics == {
        "dapo_math/unparseable": 0.5,
        "dapo_math/timed_out": 0.0,
        "dapo_math/unreadable_solution": 0.0,
    }
    assert table == {"dapo_math/answer": ["34", ""]}


# ----------------------------------------------------------------------------------------------------------- solutions


@pytest.mark.parametrize(
    "solution", [34, 34.0, np.int64(34), np.float32(34), decimal.Decimal("34"), decimal.Decimal("34.0"), "34"]
)
def test_a_number_is_a_solution(solution):
    assert dapo_math(completions=[RIGHT], solution=[solution]) == [1.0]


@pytest.mark.parametrize(
    ("solution", "said"),
    [
        (["34", "35"], "dataset.map"),
        ({"ground_truth": "34"}, "reward_model.ground_truth"),
        (None, "no answer"),
        ("", "no answer"),
        (" \n", "no answer"),
        (float("nan"), "no answer"),
        (float("inf"), "no answer"),
        (True, "Give one text"),
        (b"34", "Give one text"),
        ("x" * 10_001, "10001 characters"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line_with_the_row(solution, said):
    with pytest.raises(ValueError, match="solution: row 1") as raised:
        dapo_math(completions=[RIGHT, RIGHT], solution=["34", solution])
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_column_is_named_beside_those_there_are():
    said = "dapo_math: the data set has no column 'solution'; its columns are answer. Rename"
    with pytest.raises(ValueError, match=said):
        dapo_math(prompts=["p"], completions=[RIGHT], completion_ids=[[1]], answer=["34"], trainer_state=None)
    with pytest.raises(ValueError, match="no column 'entry'; its columns are solution"):
        scorers.reasoning_gym(completions=[RIGHT], solution=["34"])


@pytest.mark.parametrize("solutions", ["34", ["34"], []])
def test_a_column_of_another_length_is_refused(solutions):
    with pytest.raises(ValueError, match="for 2 completions"):
        dapo_math.judge([RIGHT, RIGHT], solutions)


@pytest.mark.parametrize("completion", [None, 34, [34], [{"content": 34}]])
def test_a_completion_that_is_no_text_is_refused(completion):
    with pytest.raises(ValueError, match="row 0"):
        dapo_math(completions=[completion], solution=["34"])


def test_a_solution_that_the_rule_cannot_read_is_the_data_sets_fault_and_told_once(caplog):
    _tell_unreadable.cache_clear()
    scorer, metrics = get_scorer("number", unparseable_reward=-5), {}
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            rewards = scorer(completions=["34", "none"], solution=["B", "34"], log_metric=metrics.__setitem__)
    # Nothing is known about the first completion; the second one has no number
    assert rewards == [None, -5.0]
    assert metrics["number/unreadable_solution"] == metrics["number/unparseable"] == 0.5
    assert [record.message for record in caplog.records] == [
        "number cannot read the solution 'B': its completions get no reward. Correct the data set, or choose another "
        "scorer."
    ]


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "math_verifi"}, "Did you mean 'math_verify'"),
        ({"name": ["boxed"]}, "is unknown"),
        ({"unparseable_reward": float("nan")}, "unparseable_reward"),
        ({"unparseable_reward": "right"}, "unparseable_reward"),
        ({"unparseable_reward": True}, "unparseable_reward"),
        ({"time_limit": 0}, "time_limit"),
        ({"time_limit": float("inf")}, "time_limit"),
        ({"time_limit": "5"}, "time_limit"),
        ({"workers": 0}, "workers"),
        ({"workers": 1.5}, "workers"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        get_scorer(**{"name": "boxed", **settings})


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, extra in (("math_verify", "math"), ("reasoning_gym", "gym")):
        with pytest.raises(ImportError, match=rf"pip install 'trl-dapo\[{extra}\]'"):
            get_scorer(name).judge(["1"], ["1"], entry=['{"metadata": {"source_dataset": "chain_sum"}}'])


def test_a_reward_function_of_trl_is_no_coroutine():
    assert not inspect.iscoroutinefunction(dapo_math.__call__)
    assert not inspect.iscoroutinefunction(dapo_math)
