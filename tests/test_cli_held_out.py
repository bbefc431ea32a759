"""`--held_out`: accuracy on data sets that a training command does not train on."""

# ruff: noqa: F811
import json

import pytest
from datasets import Dataset

from test_cli import flags, model_dir, parse, refused, settings, workspace, write  # noqa: F401
from test_cli_problems import NESTED, hub, problems, write_lines  # noqa: F401
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.held_out import _asked_alike, held_out, when
from trl_dapo.cli.main import main


BEST = {
    "metric_for_best_model": "eval_others_avg@2",
    "eval_strategy": "steps",
    "eval_steps": 1,
    "held_out_every": None,
}
OTHERS = [{"prompt": f"{i}+1?", "reward_model": {"ground_truth": str(i + 1)}} for i in range(4)]


@pytest.fixture
def run(problems, workspace) -> dict:
    """The tiny run, measured on another file of the same shape."""
    name = write_lines(workspace / "others.jsonl", OTHERS)
    return {**problems, "held_out": [name], "held_out_k": 2, "held_out_every": "1", "max_steps": 2, "live_view": "off"}


def found(values: dict) -> dict:
    return held_out(parse(write(values))[0])


@pytest.mark.parametrize(
    "command", ["dapo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("grpo", "ppo"))]
)
def test_accuracy_is_logged_at_the_start_and_after_each_step(run, workspace, command, capfd):
    if command != "dapo":
        run = {name: value for name, value in run.items() if name != "updates_per_rollout"}
    assert main([command, *flags(run)]) == 0, capfd.readouterr().err
    assert "eval_others_avg@2" in capfd.readouterr().out
    folders = sorted(path.name for path in (workspace / "out" / "evaluations").iterdir())
    assert folders == ["step-0", "step-1", "step-2"]
    results = json.loads((workspace / "out" / "evaluations" / "step-2" / "results.json").read_text())
    # 4 questions, 2 completions each
    assert results["data_sets"]["others"]["samples"] == 8


def test_questions_are_asked_as_in_training(run):
    rows, scorer = found({**run, "prompt_template": "Q: {question} End with `Answer: ...`"})["others"]
    assert rows[0]["prompt"] == "Q: 0+1? End with `Answer: ...`"
    assert rows["solution"] == ["1", "2", "3", "4"]
    assert scorer.__name__ == "dapo_math"


@pytest.mark.parametrize(
    ("name", "fields", "scorer"),
    [
        ("others", {}, "dapo_math"),
        ("others", {"reward_funcs": ["think_format_reward", "number"]}, "number"),
        ("others", {"held_out_scorer": "boxed"}, "boxed"),
        ("others", {"reward_funcs": ["accuracy_reward"]}, "dapo_math"),
    ],
)
def test_the_scorer_is_the_one_that_is_trained_with(run, name, fields, scorer):
    assert found({**run, **fields})[name][1].__name__ == scorer


def test_the_scorer_has_the_options_of_training(run):
    scorer = found({**run, "reward_funcs": ["number"], "scorer_time_limit": 30, "unparseable_reward": -2})["others"][1]
    assert (scorer.time_limit, scorer.unparseable_reward) == (30.0, -2.0)


@pytest.mark.parametrize(
    ("trained", "held_out", "asked"),
    [
        ("prompt", "prompt", "0+1? Answer: ..."),
        ("prompt", "question", "0+1? Answer: ..."),
        ("question", "question", [{"role": "user", "content": "0+1? Answer: ..."}]),
        ("question", "prompt", [{"role": "user", "content": "0+1? Answer: ..."}]),
    ],
)
def test_text_stays_text_only_where_the_policy_is_trained_on_text(run, workspace, trained, held_out, asked):
    rows = [{held_out: "0+1? Answer: ...", "reward_model": {"ground_truth": "1"}}]
    others, _ = found({**run, "held_out": [write_lines(workspace / "more.jsonl", rows)]})["more"]
    prompt = "1?" if trained == "prompt" else [{"role": "user", "content": "1?"}]
    assert _asked_alike(others, Dataset.from_list([{"prompt": prompt}]))[0]["prompt"] == asked


def test_a_data_set_with_a_scorer_of_its_own_keeps_it(run):
    rows, scorer = found({**run, "held_out": ["arena"], "held_out_size": 5})["arena"]
    assert scorer.__name__ == "arena_accuracy"
    assert len(rows) == 5


@pytest.mark.parametrize(
    ("fields", "moment"),
    [
        ({"held_out_every": "7"}, 7),
        ({"held_out_every": "epoch"}, "epoch"),
        ({"held_out_every": None}, "epoch"),
        ({"held_out_every": None, "eval_strategy": "steps", "eval_steps": 2}, "eval"),
    ],
)
def test_the_moment_follows_the_trainers_evaluations(run, fields, moment):
    values = {name: value for name, value in {**run, **fields}.items() if value is not None}
    script_args, training_args, *_ = parse(write(values))
    assert when(script_args, training_args) == moment


@pytest.mark.slow
def test_the_best_model_is_chosen_by_held_out_accuracy(run, workspace, capfd):
    best = {**BEST, "load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1}
    values = {name: value for name, value in {**run, **best, "max_steps": 1}.items() if value is not None}
    assert main(["dapo", *flags(values), "--dataset_test_split", "train"]) == 0, capfd.readouterr().err
    state = json.loads((workspace / "out" / "checkpoint-1" / "trainer_state.json").read_text())
    measured = {row["step"]: row["eval_others_avg@2"] for row in state["log_history"] if "eval_others_avg@2" in row}
    assert state["best_metric"] == measured[1]


@pytest.mark.slow
def test_questions_that_are_also_trained_on_are_counted(run, workspace, capfd):
    # "1+1?" and "3+3?" are in the training set, "2+1?" and "3+1?" are not
    write_lines(workspace / "others.jsonl", [*OTHERS[1:], NESTED[3]])
    assert main(["dapo", *flags(run)]) == 0
    _, err = capfd.readouterr()
    assert "2 of its 4 questions are also trained on" in err, err


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"held_out_k": 0}, ["held_out_k=0", "at least 1"]),
        ({"held_out_size": 0}, ["held_out_size=0", "at least 1"]),
        ({"held_out_every": "0"}, ["held_out_every=0", "epoch, or eval"]),
        ({"held_out_every": "eval"}, ["held_out_every=eval", "eval_strategy"]),
        ({**BEST, "held_out_every": "1"}, ["metric_for_best_model=eval_others_avg@2", "held_out_every=1", "eval"]),
        ({**BEST, "held_out_k": 4}, ["metric_for_best_model=eval_others_avg@2", "held_out_k=4", "eval_others_avg@4"]),
        ({"held_out": ["arena", "arena"]}, ["arena twice"]),
        ({"held_out": ["gms8k"]}, ["held_out=gms8k", "gsm8k"]),
        ({"held_out": None}, ["held_out_k=2", "no effect without held_out"]),
        ({"held_out_scorer": "dapo_mth"}, ["dapo_mth", "dapo_math"]),
        ({"answer_column": "reward_model.truth"}, ["held_out=", "answer_column=reward_model.truth"]),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(run, workspace, capfd, fields, parts):
    values = {name: value for name, value in {**run, **fields}.items() if value is not None}
    line = refused(flags(values), capfd)
    assert all(part in line for part in parts), line
    assert not (workspace / "out").exists()


@pytest.mark.slow
def test_questions_that_the_policy_cannot_read_are_one_line(workspace, capfd):
    # The built-in task's tokenizer knows its own characters alone
    name = write_lines(workspace / "words.jsonl", [{"prompt": "How many?", "answer": "1"}])
    words = ["--held_out", name, "--max_steps", "1", "--output_dir", "out", "--use_cpu", "true", "--bf16", "false"]
    assert main(["dapo", *words]) == 2
    _, err = capfd.readouterr()
    assert "error: held_out=words: prompt: the model's tokenizer cannot read the prompts, such as 'How many?" in err
    assert "Traceback" not in err


def test_a_dry_run_downloads_nothing(run, capfd):
    assert main(["dapo", *flags({**run, "held_out": ["aime-2024"]}), "--dry_run"]) == 0
    assert "held_out=aime-2024 was not read" in capfd.readouterr().out


def test_commands_that_learn_from_preferences_have_no_such_option():
    assert [name for name, command in COMMANDS.items() if command.complete is None] == ["reward", "dpo"]
