"""Does the reward read what the prompt asks for, and how much of it may the length penalty take?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.rewards import accuracy_reward, get_soft_overlong_punishment, think_format_reward

from tiny import constant_reward, plain_dataset
from trl_dapo.arena import arena_accuracy, train_dataset
from trl_dapo.evaluation.scorers import boxed, dapo_math
from trl_dapo.evaluation.scorers.formats import ANSWER_FORMATS
from trl_dapo.verification.answer_formats import another_answer, asked_formats, final_answer, write, written
from trl_dapo.verification.penalty_check import check_penalty
from trl_dapo.verification.reward_checks import check_rewards
from trl_dapo.verification.reward_range import Range, declared_ends, range_of_answers
from trl_dapo.verification.setup import Sample, sample_rows
from verifying import (
    ANSWER_LINE,
    BOXED,
    blind,
    boxed_only,
    by_name,
    crashing,
    ends_right,
    of_length,
    setup,
    slow_but_right,
    sums,
    too_few,
    upside_down,
)


# ------------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("The last line should be of the form Answer: $Answer (without quotes).", ("answer_line",)),
        ('Put your answer on its own line after "Answer:".', ("answer_line",)),
        ("Put the answer within \\boxed{}.", ("boxed",)),
        ("End with #### and the number.", ("hashes",)),
        ("Think in <think> </think>, then answer in <answer> </answer>.", ("tags",)),
        ("In <answer> </answer>, as \\boxed{}.", ("boxed", "tags")),
        ("3+4=", ("plain",)),
        ("Question: 3+4?\nAnswer:", ("plain",)),
        ("Q: 1+1\nA: 2\nQ: 3+4\nA:", ("plain",)),
        ("Reply with the answer alone.", ("plain",)),
        ("What is 3+4?", ()),
        ("Give an answer: yes or no?", ()),
        ("", ()),
    ],
)
def test_what_a_prompt_asks_for_is_read_off_its_text(prompt, asked):
    assert asked_formats(prompt) == asked


@pytest.mark.parametrize(
    ("scorer", "asked"),
    [
        ("dapo_math", ("answer_line",)),
        ("boxed", ("boxed",)),
        ("math_verify", ("boxed",)),
        ("number", ("hashes",)),
        ("exact", ("plain",)),
        ("multiple_choice", ("answer_line",)),
        ("reasoning_gym", ("tags",)),
    ],
)
def test_the_instruction_of_each_scorer_is_understood(scorer, asked):
    assert asked_formats(ANSWER_FORMATS[scorer]) == asked


def test_formats_stand_inside_of_one_another():
    assert write(("boxed", "tags"), "34") == "<answer>\\boxed{34}</answer>"


def test_an_answer_is_written_in_ten_forms_and_wrongly():
    rows = written("As Answer: $Answer.", "34", "35")
    right = {row.format: row.text for row in rows if row.is_right}
    assert right == {
        "asked": "Answer: 34",
        "answer_line": "Answer: 34",
        "bold_answer_line": "**Answer:** 34",
        "boxed": "\\boxed{34}",
        "hashes": "#### 34",
        "sentence": "The answer is 34.",
        "tags": "<answer>34</answer>",
        "plain": "34",
        "decimal": "Answer: 34.0",
        "units": "Answer: 34 apples",
    }
    wrong = {row.format: row.text for row in rows if not row.is_right}
    assert wrong == {name: text.replace("34", "35") for name, text in right.items()}


def test_a_prompt_that_asks_for_thoughts_gets_some():
    assert all(row.text.startswith("<think>") for row in written("Use <think> and </think>.", "a", "b"))


def test_only_whole_numbers_have_decimals():
    assert "decimal" not in {row.format for row in written("", "x+1", "2")}


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("2 + 2 = 4\n#### 4", "4"),
        ("so \\boxed{\\frac{1}{2}} holds", "\\frac{1}{2}"),
        ("\\boxed{3", "3"),
        ("$x^2$", "x^2"),
        (" 7 ", "7"),
    ],
)
def test_the_final_answer_of_a_solution_is_found(solution, answer):
    assert final_answer(solution) == answer


@given(st.text(max_size=20), st.lists(st.text(max_size=5), max_size=4))
def test_another_answer_is_always_another(answer, others):
    assert another_answer(answer, others) != answer


@given(st.text(max_size=40), st.text(max_size=10))
def test_any_text_can_be_a_prompt_and_an_answer(prompt, answer):
    assert len(written(prompt, answer, "wrong")) in (18, 20)


# ------------------------------------------------------------------------------------------- the reward and the prompt


@pytest.mark.parametrize(
    ("prompt", "function"),
    [(ANSWER_LINE, dapo_math), (BOXED, boxed), (BOXED, accuracy_reward), (ANSWER_LINE, ends_right)],
)
def test_a_reward_that_reads_what_the_prompt_asks_for_passes(tmp_path, prompt, function):
    found = by_name(check_rewards(setup(tmp_path, sums(prompt), (function,))))
    assert [one.status for one in found.values()] == ["pass", "pass"]
    assert found["answer_format"].setting is None


def test_the_papers_prompt_with_trls_accuracy_fails_and_names_the_scorer(tmp_path):
    # The prompt asks for a last line `Answer: 30`, to which TRL's accuracy_reward gives 0
    found = by_name(check_rewards(setup(tmp_path, sums(ANSWER_LINE), (accuracy_reward,))))
    assert found["answer_format"].status == "fail"
    assert "'Answer: 30'" in found["answer_format"].message
    assert found["answer_format"].setting == "reward_funcs: dapo_math"
    assert found["right_above_wrong"].status == "pass"


def test_a_column_that_scorers_do_not_read_is_named_too(tmp_path):
    rows = [{"prompt": row["prompt"], "answer": row["solution"]} for row in sums()]

    def of_answer(completions, answer, **kwargs):
        return boxed_only(completions, answer)

    setting = check_rewards(setup(tmp_path, rows, (of_answer,)))[0].setting
    assert setting == "reward_funcs: dapo_math, and answer_column: answer"


def test_a_prompt_that_asks_for_nothing_is_a_warning_with_the_instruction(tmp_path):
    finding = check_rewards(setup(tmp_path, sums("{}"), (dapo_math,)))[0]
    assert finding.status == "warn"
    assert finding.setting == f"add to each prompt: {dapo_math.answer_format}"
    finding = check_rewards(setup(tmp_path, sums("{}"), (boxed_only,)))[0]
    assert (finding.status, finding.setting) == ("warn", "add to each prompt: Write the answer as '\\\\boxed{...}'.")


def test_a_right_answer_below_a_wrong_one_fails(tmp_path):
    found = by_name(check_rewards(setup(tmp_path, functions=(upside_down,))))
    assert found["right_above_wrong"].status == "fail"
    assert found["right_above_wrong"].numbers == {"right": -1.0, "wrong": 0.0}
    assert found["right_above_wrong"].setting == "reward_funcs: turn the sign"
    assert found["answer_format"].status == "skipped"


def test_a_negative_weight_turns_a_reward(tmp_path):
    found = by_name(check_rewards(setup(tmp_path, functions=(ends_right,), weights=[-1.0])))
    assert (found["right_above_wrong"].status, found["right_above_wrong"].setting) == (
        "fail",
        "reward_weights: turn the sign",
    )
    found = by_name(check_rewards(setup(tmp_path, functions=(upside_down,), weights=[-2.0])))
    assert [one.status for one in found.values()] == ["pass", "pass"]


def test_a_reward_that_reads_the_answers_and_cannot_tell_them_fails(tmp_path):
    found = by_name(check_rewards(setup(tmp_path, functions=(blind,))))
    assert found["answer_format"].status == "fail"
    assert "gives it 1 as to a wrong one" in found["answer_format"].message
    assert found["right_above_wrong"].status == "skipped"


@pytest.mark.parametrize(
    ("function", "part"), [(crashing, "KeyError: 'no such table'"), (too_few, "1 rewards for 80")]
)
def test_a_reward_that_cannot_score_an_answer_fails_with_its_error(tmp_path, function, part):
    found = by_name(check_rewards(setup(tmp_path, functions=(function,))))
    assert found["answer_format"].status == "fail"
    assert part in found["answer_format"].message


def test_coroutines_and_plain_prompts_are_scored(tmp_path):
    rows = sums(ANSWER_LINE, chat=False)
    assert [one.status for one in check_rewards(setup(tmp_path, rows, (slow_but_right,)))] == ["pass", "pass"]


@pytest.mark.parametrize(
    ("functions", "why"),
    [((of_length,), "reads an answer"), ((think_format_reward,), "reads an answer"), ((), "no reward functions")],
)
def test_rewards_of_other_things_have_no_format(tmp_path, functions, why):
    assert all(
        one.status == "skipped" and why in one.message for one in check_rewards(setup(tmp_path, functions=functions))
    )


def test_a_format_reward_beside_a_verifier_is_not_blamed(tmp_path):
    found = check_rewards(setup(tmp_path, functions=(think_format_reward, ends_right)))
    assert [(one.name, one.status) for one in found] == [("answer_format", "pass"), ("right_above_wrong", "pass")]


def test_answers_that_are_not_known_are_skipped_with_the_reason(tmp_path):
    rows = [{"prompt": row["prompt"]} for row in sums()]
    assert all("not known" in one.message for one in check_rewards(setup(tmp_path, rows, (constant_reward,))))
    assert all("no rows" in one.message for one in check_rewards(setup(tmp_path, [], (ends_right,))))


def test_the_arena_asks_for_its_own_mark(tmp_path):
    rows = list(train_dataset(8))
    found = check_rewards(setup(tmp_path, rows, (arena_accuracy,)))
    assert [one.status for one in found] == ["pass", "pass"]
    assert "takes '#" in found[0].message


def test_prompts_that_end_in_a_cue_want_the_plain_answer(tmp_path):
    rows = [{**row, "solution": row["answer"]} for row in plain_dataset(8)]
    assert "takes '1'" in check_rewards(setup(tmp_path, rows, (ends_right,)))[0].message


# ----------------------------------------------------------------------------------------------------- range and scale


def test_the_range_is_what_all_reward_functions_declare(tmp_path):
    one = setup(tmp_path, functions=(dapo_math,))
    assert declared_ends(one) == Range(-1.0, 1.0, "declared")
    # Two functions: -1 to 1 with weight 0.5, and 0 to 1 with weight 2, are -0.5 + 0 to 0.5 + 2
    both = setup(tmp_path, functions=(dapo_math, boxed), weights=[0.5, 2.0])
    assert declared_ends(both) == Range(-0.5, 2.5, "declared")
    assert declared_ends(setup(tmp_path, functions=(dapo_math, ends_right))) is None


def test_a_range_that_is_not_declared_is_seen_in_the_answers(tmp_path):
    assert range_of_answers(setup(tmp_path, functions=(ends_right,))) == Range(0.0, 1.0, "seen")
    assert range_of_answers(setup(tmp_path, functions=(ends_right,), weights=[3.0])) == Range(0.0, 3.0, "seen")
    assert range_of_answers(setup(tmp_path, functions=(blind,))) is None


@pytest.mark.parametrize(
    ("metric", "factor", "share", "status", "setting"),
    [
        # The paper: -1 and +1, penalty to -1: 1 of 2
        (Range(-1, 1, "declared"), 1.0, 0.5, "pass", None),
        (Range(0, 1, "declared"), 0.5, 0.5, "pass", None),
        # 0/1 with factor 0.8: 0.8 of 1
        (Range(0, 1, "seen"), 0.8, 0.8, "warn", "overlong_penalty_factor: 0.5, or leave it out"),
        # 0/1 with factor 1: a right answer of full length scores 0, like a wrong one
        (Range(0, 1, "seen"), 1.0, 1.0, "fail", "overlong_penalty_factor: 0.5, or leave it out"),
        (Range(0, 10, "declared"), 20.0, 2.0, "fail", "overlong_penalty_factor: 5, or leave it out"),
        (Range(0, 1, "declared"), 0.0, 0.0, "pass", None),
    ],
)
def test_the_penalty_is_measured_against_the_distance(tmp_path, metric, factor, share, status, setting):
    one = setup(tmp_path, functions=(ends_right,), overlong_penalty_factor=factor)
    finding = check_penalty(one, metric)
    assert (finding.status, finding.setting) == (status, setting)
    assert finding.numbers["share"] == pytest.approx(share)


def test_a_penalty_of_the_users_own_counts_by_its_weight(tmp_path):
    own = get_soft_overlong_punishment(8, 4)
    args = {"soft_overlong_punishment": False, "functions": (ends_right, own), "weights": [1.0, 0.75]}
    finding = check_penalty(setup(tmp_path, **args), Range(0, 1, "declared"))
    assert (finding.status, finding.numbers["share"]) == ("warn", 0.75)
    assert finding.setting == "reward_weights: 0.5 for soft_overlong_punishment_reward"


def test_no_penalty_and_no_range_are_skipped(tmp_path):
    off = setup(tmp_path, functions=(ends_right,), soft_overlong_punishment=False)
    assert check_penalty(off, Range(0, 1, "declared")).message == "there is no length penalty"
    assert "not known" in check_penalty(setup(tmp_path, functions=(ends_right,)), None).message


# ---------------------------------------------------------------------------------------------------------------- rows


def test_a_large_dataset_is_drawn_from_all_over_and_always_alike():
    dataset = plain_dataset(100)
    sample = sample_rows(dataset, most=10)
    assert (len(sample.rows), sample.total) == (10, 100)
    assert sample == sample_rows(dataset, most=10)
    assert sample.rows[-1]["prompt"] not in [row["prompt"] for row in dataset.select(range(50))]
    assert sample_rows(dataset.to_iterable_dataset()).total is None
    assert sample_rows(None) == Sample([], 0)
