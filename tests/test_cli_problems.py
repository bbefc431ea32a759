"""Data sets by name, answer columns and scorers on the command line, and in YAML files of TRL's as before."""

# ruff: noqa: F811
import json
from pathlib import Path

import pytest
from datasets import load_dataset

from test_cli import flags, model_dir, parse, refused, settings, workspace, write  # noqa: F401
from test_problems import dapo_math, needs_gym
from tiny import save_tiny_model, tiny_tokenizer
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.data import load_data
from trl_dapo.cli.main import main
from trl_dapo.cli.online import online_arguments
from trl_dapo.evaluation.scorers import SCORERS, Scorer, get_scorer


LINE, BOXED = get_scorer("dapo_math").answer_format, get_scorer("boxed").answer_format
NESTED = [
    {"prompt": f"{i}+{i}?", "reward_model": {"ground_truth": str(2 * i), "style": "rule"}, "level": i}
    for i in range(16)
]


def write_lines(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture
def problems(settings, workspace) -> dict:
    """The tiny run on a file of problems with a nested answer, scored by the paper's rule."""
    name = write_lines(workspace / "problems.jsonl", NESTED)
    return {
        **settings,
        "dataset_name": name,
        "reward_funcs": ["dapo_math"],
        "answer_column": "reward_model.ground_truth",
    }


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Lets a named data set be read from files; returns a function that adds one."""
    files = {}
    monkeypatch.setattr("trl_dapo.cli.problem_data.check_dataset", lambda *args: None)
    monkeypatch.setattr(
        "trl_dapo.problems.sources.hub_rows",
        lambda hub_id, config, split, streaming: load_dataset(
            "json", data_files={split: files[hub_id, split]}, split=split, streaming=streaming
        ),
    )

    def add(hub_id, split, rows):
        files[hub_id, split] = write_lines(tmp_path / f"hub-{len(files)}.jsonl", rows)

    return add


def gsm8k(numbers) -> list[dict]:
    return [{"question": f"{i}+{i}?", "answer": f"It is so.\n#### {2 * i}"} for i in numbers]


def loaded(values: dict):
    script_args, training_args, _, dataset_args = parse(write(values))
    return load_data(script_args, training_args, dataset_args)


# -------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.slow
def test_a_file_with_a_nested_answer_trains(problems, workspace, capfd):
    assert main(["dapo", *flags(problems), "--live_view", "off"]) == 0
    out, _ = capfd.readouterr()
    assert "rewards/dapo_math/mean" in out
    assert (workspace / "out" / "config.json").is_file()


@pytest.mark.parametrize("command", ["dapo", "grpo", "ppo"])
def test_every_command_that_takes_prompts_reads_an_answer_column(problems, command, capfd):
    values = {key: value for key, value in problems.items() if key != "steps_per_generation" or command == "dapo"}
    assert main([command, *write(values), "--dry-run"]) == 0
    assert "answer_column: reward_model.ground_truth" in capfd.readouterr().out


@pytest.mark.parametrize("where", ["file", "folder", "mixture"])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_column_becomes_the_solution_wherever_the_rows_are(problems, workspace, where, streamed):
    write_lines(workspace / "data" / "train.jsonl", NESTED)
    (workspace / "data" / "test.jsonl").unlink()
    values = {**problems, "dataset_streaming": streamed}
    if where == "folder":
        values["dataset_name"] = "data"
    if where == "mixture":
        del values["dataset_name"]
        values["datasets"] = [{"path": "json", "data_files": "data/train.jsonl"}]
        values["streaming"] = streamed
    rows = list(loaded(values).train)
    assert [row["solution"] for row in rows] == [str(2 * i) for i in range(16)]
    # A prompt that is text stays text, and the other columns stay for the user's own reward functions
    assert rows[3]["prompt"] == f"3+3?\n\n{LINE}"
    assert rows[3]["level"] == 3


def test_a_file_of_trls_is_read_as_before_without_these_options(settings, workspace):
    rows = [{"prompt": f"{i}+{i}? Use \\boxed{{}}.", "solution": [i], "answer": ""} for i in range(16)]
    write_lines(workspace / "data" / "train.jsonl", rows)
    data = loaded(settings)
    assert data.train.to_list() == rows
    assert data.notes == ()


def test_questions_of_another_column_become_messages(problems, workspace):
    rows = [{"question": f"{i}?", "answer": i, "prompt": "old", "solution": "old"} for i in range(16)]
    name = write_lines(workspace / "questions.jsonl", rows)
    values = {**problems, "dataset_name": name, "answer_column": "answer", "prompt_column": "question"}
    data = loaded(values)
    assert data.train[1]["prompt"] == [{"role": "user", "content": f"1?\n\n{LINE}"}]
    assert data.train[1]["solution"] == "1"
    assert data.notes == (
        "the train split: its column `prompt` is replaced by `question`",
        "the train split: its column `solution` is replaced by `answer`",
    )


def test_a_template_of_the_users_is_the_whole_prompt(problems):
    data = loaded({**problems, "prompt_template": "{answer_format} Q: {question} {0}"})
    assert data.train[1]["prompt"] == f"{LINE} Q: 1+1? {{0}}"
    assert loaded({**problems, "prompt_template": "Q: {question}"}).train[1]["prompt"] == "Q: 1+1?"


def test_a_data_set_by_name_has_its_prompts_in_the_format_of_the_scorer(problems, hub):
    hub("openai/gsm8k", "train", gsm8k(range(16)))
    hub("openai/gsm8k", "test", gsm8k(range(14, 20)))
    del problems["answer_column"]
    values = {
        **problems,
        "dataset_name": "gsm8k",
        "reward_funcs": ["boxed"],
        "eval_strategy": "steps",
        "eval_steps": 1,
    }
    data = loaded(values)
    assert data.train.column_names == data.evaluation.column_names == ["prompt", "solution", "question_id"]
    assert data.train[3]["prompt"] == [{"role": "user", "content": f"3+3?\n\n{BOXED}"}]
    assert data.evaluation[0]["solution"] == "28"
    # 14 and 15 of 14 to 19
    assert data.notes == (
        "2 of 6 questions to evaluate on are also trained on: the evaluation is not of unseen problems",
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_the_papers_data_set_trains_by_name(problems, hub, streamed, capfd):
    hub("BytedTsinghua-SIA/DAPO-Math-17k", "train", dapo_math([(f"{i}+{i}?", str(2 * i)) for i in range(4)], copies=9))
    del problems["answer_column"]
    values = {**problems, "dataset_name": "dapo-math-17k", "dataset_streaming": streamed}
    data = loaded(values)
    assert [row["solution"] for row in data.train] == ["0", "2", "4", "6"]
    assert COMMANDS["dapo"].load("preflight")(parse(write(values))) is None


@pytest.mark.slow
@needs_gym
def test_a_task_of_reasoning_gym_trains(problems, capfd):
    del problems["answer_column"]
    name = "reasoning-gym:chain_sum?max_terms=2&size=16"
    assert (
        main(
            [
                "dapo",
                *flags({**problems, "dataset_name": name, "reward_funcs": ["reasoning_gym"]}),
                "--live_view",
                "off",
            ]
        )
        == 0
    )
    assert "rewards/reasoning_gym/mean" in capfd.readouterr().out


def test_a_folder_with_the_name_of_a_data_set_is_read_and_said(problems, workspace, capfd):
    (workspace / "gsm8k").mkdir()
    write_lines(workspace / "gsm8k" / "train.jsonl", NESTED)
    assert main(["dapo", *write({**problems, "dataset_name": "gsm8k"}), "--dry-run"]) == 0
    assert "note: dataset_name=gsm8k is the folder of that name here, not the data set" in capfd.readouterr().out


# ------------------------------------------------------------------------------------------------------------- scorers


def test_scorers_are_reward_functions_with_the_rewards_that_the_user_chose(problems):
    values = {**problems, "reward_funcs": [name for name in SCORERS if name != "reasoning_gym"]}
    rewards = online_arguments(parse(write({**values, "unparseable_reward": -0.5, "scorer_time_limit": 2})))[
        "reward_funcs"
    ]
    assert [reward.__name__ for reward in rewards] == values["reward_funcs"]
    assert {(reward.unparseable_reward, reward.time_limit) for reward in rewards} == {(-0.5, 2.0)}
    by_default, none = (
        online_arguments(parse(write({**problems, **given})))["reward_funcs"][0]
        for given in ({}, {"unparseable_reward": float("nan")})
    )
    assert isinstance(by_default, Scorer)
    assert (by_default.unparseable_reward, none.unparseable_reward) == (-1.0, None)


def test_scorers_that_read_different_formats_are_named(problems, capfd):
    assert (
        main(["dapo", *write({**problems, "reward_funcs": ["dapo_math", "math_verify", "boxed"]}), "--dry-run"]) == 0
    )
    assert "note: the prompts ask for the answer in the format of dapo_math" in capfd.readouterr().out


# ------------------------------------------------------------------------------------------------------------- dry run


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("gsm8k", "gsm8k is openai/gsm8k (main) on the Hub, split train; it was not read"),
        ("dapo-math-17k", "dapo-math-17k is BytedTsinghua-SIA/DAPO-Math-17k on the Hub, split train"),
        ("reasoning-gym:chain_sum", "reasoning-gym:chain_sum is made by reasoning-gym, split train"),
    ],
)
def test_a_dry_run_downloads_nothing_and_says_what_would_be_read(problems, monkeypatch, capfd, name, part):
    monkeypatch.setattr("trl_dapo.problems.load.source", lambda *args: pytest.fail("it was read"))
    monkeypatch.setattr("trl_dapo.cli.hub.huggingface_hub.HfApi", lambda: pytest.fail("the Hub was asked"))
    values = {**problems, "dataset_name": name, "reward_funcs": ["reasoning_gym"], "answer_column": None}
    assert main(["dapo", *write({key: one for key, one in values.items() if one is not None}), "--dry-run"]) == 0
    assert f"note: dataset_name={part}" in capfd.readouterr().out


def test_a_dry_run_needs_no_reasoning_gym(problems, monkeypatch, capfd):
    monkeypatch.setattr("trl_dapo.cli.problem_data.is_installed", lambda: False)
    values = {**problems, "dataset_name": "reasoning-gym:chain_sum", "reward_funcs": ["own_rewards.length"]}
    assert main(["dapo", *write(values), "--dry-run"]) == 0
    assert "was not checked: reasoning-gym is not installed here" in capfd.readouterr().out
    assert "pip install 'trl-dapo[gym]'" in refused(write(values), capfd)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"dataset_name": "gsm8k"}, ["dataset_name=gsm8k cannot be loaded", "openai/gsm8k", "Connect to the network"]),
        ({"dataset_name": "gsm8"}, ["dataset_name=gsm8", "Did you mean gsm8k?"]),
        ({"dataset_name": "reasoning_gym:x"}, ["dataset_name=reasoning_gym:x", "Did you mean reasoning-gym:<task>?"]),
        ({"dataset_name": "aime-2024"}, ["dataset_train_split=train: aime-2024", "it has test"]),
        ({"dataset_name": "dapo-math-17k", "eval_strategy": "steps"}, ["dataset_test_split=test", "it has train"]),
        ({"dataset_name": "gsm8k", "dataset_config": "socratic"}, ["dataset_config=socratic", "gsm8k has main"]),
        ({"dataset_name": "countdown"}, ["dapo_math compares with one right answer", "Use reasoning_gym"]),
        ({"answer_column": "reward_model.truth"}, ["answer_column=reward_model.truth", "reward_model.ground_truth"]),
        ({"answer_column": "reward_model"}, ["in row 0 of the train split", "is a mapping of ground_truth, style"]),
        ({"answer_column": "truth"}, ["answer_column=truth: there is no such column", "level"]),
        ({"answer_column": None, "dataset_name": "data", "prompt_column": "answr"}, ["prompt_column=answr"]),
        ({"prompt_template": "Solve it."}, ["prompt_template='Solve it.'", "{question}"]),
        pytest.param({"reward_funcs": ["reasoning_gym"]}, ["reasoning_gym needs the column 'entry'"], marks=needs_gym),
        ({"reward_funcs": ["dapo-math"]}, ["unknown reward function 'dapo-math'", "dapo_math"]),
        ({"unparseable_reward": float("inf")}, ["unparseable_reward=inf"]),
        ({"scorer_time_limit": 0}, ["scorer_time_limit=0", "above 0"]),
        ({"unparseable_reward": "low"}, ["--unparseable_reward", "low"]),
        ({"answer_column": 3}, ["answer_column: 3", "text"]),
        ({"model_name_or_path": None, "dataset_name": None}, ["answer_column=", "built-in task"]),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(problems, capfd, fields, parts):
    values = {name: value for name, value in {**problems, **fields}.items() if value is not None}
    line = refused(write(values), capfd)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize("streamed", [False, True])
def test_a_first_row_without_an_answer_is_named(problems, workspace, capfd, streamed):
    rows = [{**row, "reward_model": {"ground_truth": "" if place == 0 else "1"}} for place, row in enumerate(NESTED)]
    write_lines(workspace / "problems.jsonl", rows)
    line = refused(write({**problems, "dataset_streaming": streamed}), capfd)
    assert "answer_column=reward_model.ground_truth: in row 0 of the train split it is empty" in line


def test_messages_without_a_chat_template_are_refused_before_a_start(problems, workspace, capfd):
    name = write_lines(workspace / "q.jsonl", [{"question": f"{i}?", "answer": str(i)} for i in range(16)])
    model = save_tiny_model(workspace / "plain", tiny_tokenizer(chat=False))
    values = {**problems, "dataset_name": name, "answer_column": "answer", "model_name_or_path": str(model)}
    assert "has no chat template, and the prompts are messages" in refused(write(values), capfd)


@pytest.mark.parametrize("command", ["reward", "dpo"])
def test_a_command_that_learns_from_preferences_refuses_problems(settings, capfd, command):
    values = {"model_name_or_path": settings["model_name_or_path"], "dataset_name": "gsm8k", "output_dir": "out"}
    argv = write({**values, "use_cpu": True, "bf16": False})
    assert "has problems and answers" in refused(argv, capfd, run=lambda words: main([command, *words]))
