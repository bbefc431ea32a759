import itertools
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_dapo.arena import task
from trl_dapo.arena.task import LENGTHS, MOVES, Problem, arena_accuracy, demonstrate, is_sound, parse_prompt, style_of


problems = st.builds(
    Problem, start=st.integers(0, 9), moves=st.text(alphabet=MOVES, min_size=LENGTHS[0], max_size=LENGTHS[-1])
)
styles = st.sampled_from(["direct", "step", "verbose"])


# Golden walks, by hand:
#   7 +-*         7+1 = 8, 8-1 = 7, 9-7 = 2
#   9 +-          up from 9 is 0 (ring), down again is 9
#   0 -*          down from 0 is 9 (ring), mirror of 9 is 0
#   4 **          4 -> 5 -> 4
#   3 +*-+*+*--*  4 5 4 5 4 5 4 3 2 7
@pytest.mark.parametrize(
    ("start", "moves", "prompt", "cells"),
    [
        (7, "+-*", "7a+b-c*=", (8, 7, 2)),
        (9, "+-", "9a+b-=", (0, 9)),
        (0, "-*", "0a-b*=", (9, 0)),
        (4, "**", "4a*b*=", (5, 4)),
        (3, "+*-+*+*--*", "3a+b*c-d+e*f+g*h-i-j*=", (4, 5, 4, 5, 4, 5, 4, 3, 2, 7)),
    ],
)
def test_walks_worked_by_hand(start, moves, prompt, cells):
    problem = Problem(start, moves)
    assert (problem.prompt, problem.cells, problem.answer) == (prompt, cells, str(cells[-1]))


def test_order_of_moves_matters():
    # 2 up is 3, mirrored is 6; 2 mirrored is 7, up is 8: as many moves of each kind, another cell
    assert Problem(2, "+*").answer == "6"
    assert Problem(2, "*+").answer == "8"


@pytest.mark.parametrize(("move", "back"), [("+", "-"), ("-", "+"), ("*", "*")])
def test_every_move_can_be_undone(move, back):
    assert all(Problem(cell, move + back).answer == str(cell) for cell in range(10))


@given(problems)
def test_prompt_parses_back_to_its_problem(problem):
    assert parse_prompt(problem.prompt) == problem


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "=",
        "7=",
        "7a+",
        "7a+b-c*",
        "a+b-=",
        "7a+c-=",
        "7a+b/=",
        "7a+b-= ",
        "77a+=",
        "7a+b-c*=#2",
        "٧a+b-=",
        "-a+b-=",
    ],
)
def test_prompt_that_no_problem_writes_raises(prompt):
    with pytest.raises(ValueError, match="prompt must look like"):
        parse_prompt(prompt)


def test_unknown_move_raises():
    with pytest.raises(ValueError, match="move must be one of"):
        task.apply_move(0, "/")


# Scoring. 7 +-* ends on cell 2.


@pytest.mark.parametrize(
    "completion",
    ["#2", "a+8b-7c*2#2", "a+8?8b-6?7?7c*2#2", "a+1b-1c*1#2"],
    ids=["direct", "step", "verbose", "wrong-steps-right-answer"],
)
def test_right_answer_scores_one(completion):
    assert arena_accuracy(["7a+b-c*="], [completion]) == [1.0]


@pytest.mark.parametrize(
    "completion",
    [
        "", "#", "2", "#3", "a+8b-7c*2", "a+8b-7c*2#", "#2#2", "#3#2", "#2#", "##2", "#22", "#02", "#2 ", "# 2",
        "#2\n", "#2a", "#2.0", "#+2", "#٢", "#²", "#２", "＃2", "#2\x00", "#0+2", "#__import__('os')", "#" * 10_000,
        "\ud800#2\ud800",
    ],
)  # fmt: skip
def test_anything_but_one_mark_and_the_right_digit_scores_zero(completion):
    assert arena_accuracy(["7a+b-c*="], [completion]) == [0.0]


def test_scores_follow_their_rows_and_ignore_other_columns():
    # 9 +- ends on 9
    prompts = ["7a+b-c*=", "9a+b-=", "7a+b-c*="]
    rewards = arena_accuracy(prompts=prompts, completions=["#2", "#2", "#9"], answer=["9", "2", "9"], length=[3, 2, 3])
    assert rewards == [1.0, 0.0, 0.0]


def test_more_completions_than_prompts_raise():
    with pytest.raises(ValueError, match="zip"):
        arena_accuracy(["7a+b-c*="], ["#2", "#2"])


@given(problems, styles, st.integers(), st.floats(0.0, 0.9))
def test_every_clean_demonstration_scores_one_and_is_sound_wherever_it_is_cut(problem, style, seed, check):
    completion = demonstrate(problem, style, random.Random(seed), slip=0.0, check=check)
    assert arena_accuracy([problem.prompt], [completion]) == [1.0]
    if style != "direct":
        assert all(is_sound(problem.prompt, completion[:end]) for end in range(len(completion) + 1))


@given(problems, styles, st.integers())
def test_scores_follow_the_last_stated_cell_of_fallible_demonstrations(problem, style, seed):
    completion = demonstrate(problem, style, random.Random(seed), slip=0.5)
    assert arena_accuracy([problem.prompt], [completion]) == [float(completion[-1] == problem.answer)]


@given(problems, st.text(max_size=60))
def test_junk_never_raises_and_scores_one_only_with_the_answer_after_one_mark(problem, junk):
    (reward,) = arena_accuracy([problem.prompt], [junk])
    assert reward == float(junk.count("#") == 1 and junk.endswith(f"#{problem.answer}"))
    assert is_sound(problem.prompt, junk) in (True, False)
    assert style_of(junk) in ("direct", "step", "verbose")


@given(problems, st.text(alphabet="0123456789abcj+-*=#?", max_size=40), st.text(min_size=1, max_size=5))
def test_trailing_text_makes_a_right_completion_wrong(problem, body, tail):
    completion = f"{body.replace('#', '')}#{problem.answer}"
    assert arena_accuracy([problem.prompt] * 2, [completion, completion + tail]) == [1.0, 0.0]


# Demonstrations


def test_styles_are_told_apart_by_their_marks():
    problem = Problem(7, "+-*")
    assert demonstrate(problem, "direct", random.Random(0)) == "#2"
    assert demonstrate(problem, "step", random.Random(0)) == "a+8b-7c*2#2"
    verbose = demonstrate(problem, "verbose", random.Random(0), check=0.9)
    assert [style_of(text) for text in ("#2", "a+8b-7c*2#2", verbose)] == ["direct", "step", "verbose"]


def test_certain_slip_is_carried_on_and_certain_repair_undoes_it():
    problem = Problem(7, "+-*")
    carried = demonstrate(problem, "step", random.Random(0), slip=1.0)
    first, second = int(carried[2]), int(carried[5])
    assert first != 8
    assert second != (first - 1) % 10
    # All steps slip; where a check follows, it states the right cell
    repaired = demonstrate(problem, "verbose", random.Random(0), slip=1.0, check=0.999, repair=1.0)
    assert arena_accuracy([problem.prompt], [repaired]) == [1.0]
    assert repaired[2] != "8"
    assert repaired[3:5] == "?8"


def test_slips_and_checks_come_as_often_as_stated():
    rng, problem = random.Random(0), Problem(0, "+" * 10)
    texts = [demonstrate(problem, "verbose", rng, slip=0.0, check=0.6) for _ in range(2000)]
    # 0.6 / (1 - 0.6) = 1.5 checks per step, of variance 0.6 / 0.4**2 = 3.75; 20000 steps: 4 standard errors are 0.055
    assert sum(text.count("?") for text in texts) / 20_000 == pytest.approx(1.5, abs=0.055)
    slips = sum(demonstrate(Problem(0, "+"), "step", rng, slip=0.1)[2] != "1" for _ in range(10_000))
    # 4 * sqrt(0.1 * 0.9 / 10000) = 0.012
    assert slips / 10_000 == pytest.approx(0.1, abs=0.012)


# 7 +-* walks over 8, 7, 2
@pytest.mark.parametrize(
    ("completion", "sound"),
    [
        ("", True),
        ("a+", True),
        ("a+8b-6?7c", True),
        ("a+8b-6?", True),
        ("a+8b-6", True),
        ("a+8b-7c*2", True),
        ("a+8b-7c*2#2", True),
        ("a+8b-6c", False),
        ("a+8b-7c*3#3", False),
        ("a+8b-7c*2#3", False),
        ("a+8#2", False),
        ("a+8c", False),
        ("a-", False),
        ("a+8b-7c*2d", False),
        ("a+8 b", False),
        ("?8", False),
    ],
)
def test_soundness_of_unfinished_derivations(completion, sound):
    assert is_sound("7a+b-c*=", completion) is sound


# The split


@pytest.mark.parametrize("length", LENGTHS)
def test_draws_of_the_two_splits_share_no_prompt(length):
    train = {problem.prompt for problem in task.draw_problems(500, 0, [length], "train")}
    held_out = {problem.prompt for problem in task.draw_problems(500, 0, [length], "held_out")}
    assert train
    assert held_out
    assert train.isdisjoint(held_out)


# There are 10 * 3**n prompts of n moves; those held out were counted once, which pins the hash
@pytest.mark.parametrize(("length", "held_out"), [(2, 13), (3, 55), (4, 160), (5, 477)])
def test_about_one_prompt_in_five_is_held_out(length, held_out):
    prompts = [
        Problem(start, "".join(moves)).prompt
        for start in range(10)
        for moves in itertools.product(MOVES, repeat=length)
    ]
    assert len(set(prompts)) == 10 * 3**length
    assert sum(map(task.is_held_out, prompts)) == held_out


def test_small_world_is_drawn_whole():
    # 77 training prompts of length 2, 5000 draws: one is missed with probability below 77 * (76/77)**5000 < 1e-26
    assert len({problem.prompt for problem in task.draw_problems(5000, 0, [2], "train")}) == 77


def test_draws_are_a_function_of_the_seed():
    assert task.draw_problems(50, 3, LENGTHS, "train") == task.draw_problems(50, 3, LENGTHS, "train")
    assert task.draw_problems(50, 3, LENGTHS, "train") != task.draw_problems(50, 4, LENGTHS, "train")
    assert [len(p.moves) for p in task.draw_problems(5, 0, (2, 9), "train")] == [2, 9, 2, 9, 2]


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_draws_do_not_hang_on_the_hash_seed_and_the_task_needs_no_torch(hash_seed):
    # Run as a file of its own: the package imports torch, the task must not
    code = (
        f"import runpy, sys; names = runpy.run_path({task.__file__!r}); assert 'torch' not in sys.modules;"
        "print(names['draw_problems'](9, 0, names['LENGTHS'], 'train'))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
    )
    assert process.stdout == f"{task.draw_problems(9, 0, LENGTHS, 'train')}\n"


@pytest.mark.parametrize("length", [-1, 0, 1, 11])
def test_length_out_of_range_raises(length):
    with pytest.raises(ValueError, match="length must be in"):
        task.draw_problems(1, 0, [length], "train")
