"""What scorers and reward functions say about completions, and what is said when one of them fails."""

import math

import pytest

from evaluations import LastNumber
from trl_dapo.evaluation.judging import ScorerError, as_scorer, judge
from trl_dapo.evaluation.samples import Completion, Judged
from trl_dapo.evaluation.scorers import dapo_math


def drawn(*texts, message=False):
    return [
        Completion(text, [1, 2], False, 0, [{"role": "assistant", "content": text}] if message else None)
        for text in texts
    ]


ROWS = [{"prompt": "p", "question_id": "a", "solution": "7"}, {"prompt": "p", "question_id": "b", "solution": "8"}]


def test_a_scorer_gives_outcome_reward_and_answer():
    assert judge(LastNumber(), [ROWS[0]] * 3, [0, 1, 2], drawn("7", "8", "?")) == [
        Judged("right", 1.0, "7"),
        Judged("wrong", -1.0, "8"),
        Judged("unparseable", -1.0, None),
    ]


def test_a_scorer_of_the_package_judges_texts_and_messages_alike():
    for message in (False, True):
        found = judge(dapo_math, ROWS, [0, 0], drawn("Answer: 7", "no", message=message))
        assert [one.outcome for one in found] == ["right", "unparseable"]
        assert found[0].answer == "7"


def test_a_name_stands_for_a_scorer_and_a_function_for_itself():
    assert as_scorer("dapo_math") == dapo_math
    assert as_scorer(judge) is judge
    with pytest.raises(ValueError, match="'dapo_maths' is unknown"):
        as_scorer("dapo_maths")


def rewards(*values, reward_range=None):
    def function(prompts, completions, completion_ids, solution, trainer_state, log_extra, log_metric, **columns):
        assert (prompts, completion_ids, solution) == (
            ["p"] * len(values),
            [[1, 2]] * len(values),
            ["7"] * len(values),
        )
        log_metric("a", 1.0)
        log_extra("b", [1])
        return list(values)

    if reward_range is not None:
        function.reward_range = reward_range
    return function


@pytest.mark.parametrize(
    ("reward_range", "expected"),
    [(None, "wrong right unparseable unparseable wrong"), ((0, 0.5), "wrong right unparseable unparseable right")],
)
def test_of_a_reward_function_the_highest_reward_is_right(reward_range, expected):
    function = rewards(0.0, 1.0, None, math.nan, 0.5, reward_range=reward_range)
    found = judge(function, [ROWS[0]] * 5, range(5), drawn(*"abcde"))
    assert [one.outcome for one in found] == expected.split()
    assert [one.reward for one in found] == [0.0, 1.0, None, None, 0.5]


def test_a_reward_function_may_be_asynchronous():
    async def function(completions, **columns):
        return [1.0 for _ in completions]

    assert judge(function, ROWS, [0, 0], drawn("a", "b"))[1].outcome == "right"


def test_a_function_that_raises_is_named_with_question_and_sample():
    def picky(completions, **columns):
        if any("x" in one for one in completions):
            raise KeyError("x")
        return [0.0] * len(completions)

    with pytest.raises(ScorerError, match="the scorer picky raised KeyError on question 'b', sample 5: 'x'"):
        judge(picky, ROWS, [4, 5], drawn("a", "x"))


def test_a_function_that_fails_on_several_alone_names_where_they_begin():
    def crowded(completions, **columns):
        if len(completions) > 1:
            raise MemoryError("too many")
        return [0.0]

    with pytest.raises(ScorerError, match="crowded raised MemoryError on a batch from question 'a' on: too many"):
        judge(crowded, ROWS, [0, 0], drawn("a", "b"))


@pytest.mark.parametrize("values", [[], [1.0], [1.0] * 3])
def test_a_function_must_return_one_reward_for_each_completion(values):
    with pytest.raises(ScorerError, match=f"returned {len(values)} values for 2 completions"):
        judge(lambda **_: values, ROWS, [0, 0], drawn("a", "b"))


def test_nothing_is_judged_without_completions():
    assert judge(LastNumber(), [], [], []) == []
