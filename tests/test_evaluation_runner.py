"""An evaluation from prompts to files: what is counted, what is kept, and how a stopped one goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evaluations import PROTOCOL, LastNumber, SeededSampler, evaluated, questions
from trl_dapo.evaluation.judging import ScorerError
from trl_dapo.evaluation.results import ResultsFolder, file_name, read_results, read_samples
from trl_dapo.evaluation.runner import evaluate, make_problems
from trl_dapo.evaluation.samples import Sample, score_data_set
from trl_dapo.evaluation.scorers import number, reasoning_gym


HERE = Path(__file__).parent


def sample(question, number, answer, outcome, tokens=10, truncated=False):
    reward = 1.0 if outcome == "right" else -1.0
    return Sample(question, number, f"= {answer}", answer, outcome, reward, tokens, truncated, 0)


# Two questions of four samples
HAND = [
    sample("a", 0, "7", "right"),
    sample("a", 1, "7", "right", tokens=20),
    sample("a", 2, "8", "wrong", truncated=True),
    sample("a", 3, None, "unparseable", tokens=0),
    sample("b", 0, "5", "wrong"),
    sample("b", 1, "5", "wrong"),
    sample("b", 2, "6", "right"),
    sample("b", 3, "4", "wrong", tokens=30, truncated=True),
]


def test_scores_of_a_data_set_by_hand():
    score = score_data_set(HAND)
    first, second = score.questions
    # a: 2 of 4 right. pass@2 = 1 - C(2,2)/C(4,2) = 5/6. Majority 7, which is right
    assert first.metrics == pytest.approx(
        {
            "avg@4": 0.5,
            "pass@2": 5 / 6,
            "pass@4": 1.0,
            "maj@4": 1.0,
            "unparseable": 0.25,
            "timed_out": 0.0,
            "truncated": 0.25,
            "mean_length": 10.0,
            "mean_reward": 0.0,
        }
    )
    # b: 1 of 4 right. pass@2 = 1 - C(3,2)/C(4,2) = 1/2. Majority 5, which is wrong
    assert (second.right, second.metrics["pass@2"], second.metrics["maj@4"]) == (1, 0.5, 0.0)
    # Means over the two
    assert score.metrics["avg@4"].value == 0.375
    assert score.metrics["pass@2"].value == pytest.approx(2 / 3)
    assert score.metrics["maj@4"].value == 0.5
    assert score.metrics["unparseable"].value == 0.125
    assert score.metrics["truncated"].value == 0.25
    assert score.metrics["mean_length"].value == 12.5
    assert score.metrics["mean_reward"].value == -0.25
    assert score.metrics["pass@4"].reason == "all questions have the same score"
    assert score.metrics["avg@4"].interval == (0.25, 0.5)


def test_without_answers_there_is_no_majority():
    rows = [Sample("a", n, "", None, "wrong", 0.0, 1, False, 0) for n in range(2)]
    assert "maj@2" not in score_data_set(rows).metrics


def test_where_nothing_can_be_parsed_the_majority_is_wrong():
    rows = [Sample("a", n, "", None, "unparseable", -1.0, 1, False, 0) for n in range(2)]
    assert score_data_set(rows).metrics["maj@2"].value == 0.0


def test_an_unparseable_answer_never_wins_a_vote():
    rows = [Sample("a", n, "", "9", "unparseable", None, 1, False, 0) for n in range(3)]
    rows.append(sample("a", 3, "7", "right"))
    assert score_data_set(rows).metrics["maj@4"].value == 1.0


def test_files_hold_settings_samples_and_questions(tmp_path):
    score = evaluated(tmp_path, questions(3), model="m")
    content = read_results(tmp_path)
    assert (content["schema"], content["complete"], content["settings"]) == (1, True, {"k": 4, "model": "m"})
    numbers = content["data_sets"]["numbers"]
    assert (numbers["questions"], numbers["samples"]) == (3, 12)
    assert numbers["metrics"]["avg@4"]["value"] == score.metrics["avg@4"].value
    lines = [json.loads(line) for line in (tmp_path / "samples" / "numbers.jsonl").read_text().splitlines()]
    assert [(line["question_id"], line["sample"]) for line in lines] == [
        (f"q{q}", n) for q in range(3) for n in range(4)
    ]
    names = "question_id sample completion answer outcome reward tokens truncated seed timed_out"
    assert sorted(lines[0]) == sorted(names.split())
    asked = [json.loads(line) for line in (tmp_path / "questions" / "numbers.jsonl").read_text().splitlines()]
    assert [line["question_id"] for line in asked] == ["q0", "q1", "q2"]
    assert asked[1]["metrics"] == score.questions[1].metrics


@pytest.mark.parametrize("batches", range(4))
def test_a_stopped_evaluation_goes_on_and_ends_as_an_uninterrupted_one(tmp_path, batches):
    # 5 questions of 4, 8 at once: 3 batches
    whole = evaluated(tmp_path / "whole", questions())
    if batches < 3:
        with pytest.raises(KeyboardInterrupt):
            evaluated(tmp_path / "cut", questions(), SeededSampler(stop_after=batches))
        assert read_results(tmp_path / "cut")["complete"] is False
    else:
        evaluated(tmp_path / "cut", questions())
    rest = SeededSampler()
    assert evaluated(tmp_path / "cut", questions(), rest) == whole
    assert len(rest.calls) == 3 - batches
    for name in ("samples/numbers.jsonl", "questions/numbers.jsonl", "results.json"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.mark.parametrize("kept", [1, 25, -1, -30])
def test_a_torn_last_line_is_dropped_and_its_batch_drawn_again(tmp_path, kept):
    whole = evaluated(tmp_path / "whole", questions())
    evaluated(tmp_path / "cut", questions())
    file = tmp_path / "cut" / "samples" / "numbers.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    # Batches hold 1, 2 and 2 questions, so the second one has rows 4 to 11
    file.write_bytes(b"".join(lines[:7]) + lines[7][:kept])
    rest = SeededSampler()
    assert evaluated(tmp_path / "cut", questions(), rest) == whole
    assert len(rest.calls) == 2
    assert file.read_text() == (tmp_path / "whole" / "samples" / "numbers.jsonl").read_text()


def test_a_line_that_is_no_sample_is_named(tmp_path):
    evaluated(tmp_path, questions())
    file = tmp_path / "samples" / "numbers.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], '{"question_id": 3}', *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match=r"numbers.jsonl, line 2, is no sample"):
        evaluated(tmp_path, questions())


KILLED = """
import sys, time
from pathlib import Path
from evaluations import SeededSampler, evaluated, questions

class Slow(SeededSampler):
    def sample(self, prompts, seeds):
        print("batch", flush=True)
        time.sleep(0.05)
        return super().sample(prompts, seeds)

evaluated(Path(sys.argv[1]), questions(40), Slow())
"""


def test_a_process_that_is_killed_leaves_what_another_goes_on_from(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}"}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "cut")], stdout=subprocess.PIPE, env=environment, text=True
    )
    for _ in range(6):
        assert process.stdout.readline() == "batch\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(read_samples(tmp_path / "cut" / "samples" / "numbers.jsonl"))
    assert 0 < there < 160
    whole = evaluated(tmp_path / "whole", questions(40))
    rest = SeededSampler()
    assert evaluated(tmp_path / "cut", questions(40), rest) == whole
    assert sum(map(len, rest.calls)) == 160 - there


def test_two_evaluations_do_not_write_to_one_folder(tmp_path):
    first = ResultsFolder(tmp_path, {})
    with pytest.raises(ValueError, match="another evaluation is writing there"):
        ResultsFolder(tmp_path, {})
    first.close()
    ResultsFolder(tmp_path, {}).close()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"k": 4}, {"k": 8}, "results of k=4, not 8"),
        ({"model": "a"}, {"model": "b"}, "results of model=a, not b"),
        ({"data_sets": {"a": "1"}}, {"data_sets": {"b": "1"}}, "results of data_sets=a, not b"),
        ({"data_sets": {"a": "1"}}, {"data_sets": {"a": "2"}}, "results of data_sets=other a, not these"),
        ({"data_sets": {"a": "1"}}, {"data_sets": {"a": "1", "b": "1"}}, "results of data_sets=a, not a, b"),
        ({"k": 4}, {"k": 4, "new": 1}, "results of new=None, not 1"),
    ],
)
def test_results_of_something_else_are_not_overwritten(tmp_path, before, after, message):
    ResultsFolder(tmp_path, before).close()
    content = (tmp_path / "results.json").read_text()
    with pytest.raises(ValueError, match=message) as caught:
        ResultsFolder(tmp_path, after)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert (tmp_path / "results.json").read_text() == content


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 2, "settings": {}}', "\0"])
def test_a_foreign_results_file_is_not_overwritten(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results.json (cannot be read|is not of this)"):
        ResultsFolder(tmp_path, {})
    assert (tmp_path / "results.json").read_text() == content


class Raises(LastNumber):
    """Fails on one question, until it is mended."""

    broken = True

    def judge(self, completions, solutions, **columns):
        if self.broken and "3" in solutions:
            raise ZeroDivisionError("no\nnumber")
        return super().judge(completions, solutions, **columns)


def test_a_scorer_that_raises_is_named_with_question_and_sample_and_nothing_is_drawn_twice(tmp_path):
    scorer, sampler = Raises(), SeededSampler()
    problems = questions(scorer=scorer)
    message = "the scorer last_number raised ZeroDivisionError on question 'q3', sample 0: no number"
    for _ in range(2):
        with pytest.raises(ScorerError, match=message):
            evaluated(tmp_path, problems, sampler)
    assert len(sampler.calls) == 3
    scorer.broken = False
    assert evaluated(tmp_path, problems, sampler) == evaluated(tmp_path / "whole", questions())
    assert len(sampler.calls) == 3
    assert not (tmp_path / "unscored").exists()


def test_names_of_data_sets_become_files_within_the_folder(tmp_path):
    names = ["../evil/x.jsonl", "reasoning-gym:chain_sum?max_terms=2", "..", "a b", "a/b", "", "x" * 300, "\u0661"]
    for name in names:
        evaluated(tmp_path, questions(1, name=name), n=1)
    assert len({file_name(name) for name in names}) == len(names)
    assert file_name("aime-2024") == "aime-2024"
    assert {path.parent for path in tmp_path.rglob("*.jsonl")} == {tmp_path / "samples", tmp_path / "questions"}
    assert not (tmp_path.parent / "evil").exists()


def test_completions_that_are_no_utf8_or_have_line_breaks_are_kept(tmp_path):
    texts = iter(["\ud800 half", "a\u2028b\x85c\r\nd", "\0", "[red]7[/red]"])

    class Odd(SeededSampler):
        def sample(self, prompts, seeds):
            return [type(one)(next(texts), one.ids, one.truncated, one.seed) for one in super().sample(prompts, seeds)]

    evaluated(tmp_path, questions(1), Odd())
    found = read_samples(tmp_path / "samples" / "numbers.jsonl")
    assert [one.completion for one in found] == ["\ud800 half", "a\u2028b\x85c\r\nd", "\0", "[red]7[/red]"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no rows"),
        ([{"solution": "1"}], r"has no prompt \(its columns are solution\)"),
        ([{"prompt": "a"}], r"has no solution \(its columns are prompt\)"),
        ([{"prompt": "a", "solution": "1"}, {"prompt": "b", "solution": ""}], r"has no solution \(question '1'\)"),
        ([{"prompt": "a", "solution": "1", "question_id": "x"}] * 2, "has two questions with question_id='x'"),
    ],
)
def test_a_data_set_that_cannot_be_evaluated_on_is_refused(rows, message):
    with pytest.raises(ValueError, match=f"the data set numbers {message}"):
        make_problems("numbers", rows, LastNumber())


def test_a_reward_function_needs_no_solution():
    def right(completions, **columns):
        return [1.0] * len(completions)

    assert len(make_problems("numbers", [{"prompt": "a"}], right).rows) == 1


def test_progress_is_told_after_each_batch(tmp_path):
    told = []
    results = ResultsFolder(tmp_path, {})
    evaluate(SeededSampler(), [questions()], PROTOCOL, results, lambda *one: told.append(one))
    results.close()
    assert [(name, done, total) for name, done, total, _ in told] == [("numbers", n, 20) for n in (0, 4, 12, 20)]
    assert told[0][3] is None
    assert 0 <= told[-1][3] <= 1


@pytest.mark.parametrize(
    ("solutions", "said"),
    [
        (["3", ["3", "4"]], r"the data set quiz: solution: row 1 is \['3', '4'\] of type list.*Choose one"),
        ([1.0, float("nan")], "the data set quiz: solution: row 1 is nan, no answer"),
        ([True, False], "the data set quiz: solution: row 0 is True of type bool"),
        ([0, None], r"the data set quiz has no solution \(question '1'\)"),
        ([0, ""], r"the data set quiz has no solution \(question '1'\)"),
    ],
)
def test_a_solution_that_no_scorer_takes_is_refused_before_anything_is_drawn(solutions, said):
    rows = [{"prompt": "?", "solution": solution} for solution in solutions]
    with pytest.raises(ValueError, match=said):
        make_problems("quiz", rows, number)


def test_zero_is_an_answer():
    rows = [{"prompt": "1-1?", "solution": 0}, {"prompt": "1-0?", "solution": 1}]
    assert [row["solution"] for row in make_problems("quiz", rows, number).rows] == [0, 1]


def test_an_entry_that_is_none_of_reasoning_gym_is_refused_before_anything_is_drawn():
    with pytest.raises(ValueError, match=r"the data set quiz: entry: row 0 is .*names its task"):
        make_problems("quiz", [{"prompt": "?", "solution": "", "entry": "{}"}], reasoning_gym)
