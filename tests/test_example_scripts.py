"""The scripts in `examples/scripts`: headers, commands of docstrings, and those for the CPU run for a few steps."""

import ast
import json
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from transformers import Trainer
from trl import TrlParser

from tiny import save_tiny_model, script_generation, tiny_tool_tokenizer, tool_call
from trl_dapo import arena
from trl_dapo.cli.merge import main as merge
from trl_dapo.host.checkpoint_seams import CheckpointSeams


ROOT = Path(__file__).parents[1]
SCRIPTS = {path.stem: path for path in sorted((ROOT / "examples" / "scripts").glob("*.py"))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The grammar of PEP 723
HEADER = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
EXTRA_OF_NAME = {"math_verify": "math", "four_bit": "quantization"}


def header(path: Path) -> dict:
    (match,) = [match for match in HEADER.finditer(path.read_text()) if match["type"] == "script"]
    return tomllib.loads("".join(line[2:] for line in match["content"].splitlines(keepends=True)))


def commands(name: str) -> list[list[str]]:
    """The words of each command in a script's docstring."""
    text = ast.get_docstring(ast.parse(SCRIPTS[name].read_text()))
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.S | re.M)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def on_a_cpu(name: str) -> list[list[str]]:
    """The words behind the script's name of those commands that need neither a GPU nor the Hub."""
    return [words[2:] for words in commands(name) if words[0] == "python" and "--use_cpu" in words]


class Parsed(Exception):
    """Stops a script once its arguments are parsed."""


def start(name: str, words: list[str], monkeypatch) -> None:
    """Runs a script as `python` does, in this process."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS[name]), *words])
    runpy.run_path(str(SCRIPTS[name]), run_name="__main__")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the scripts run: PPO finds the reward model that `reward_model.py` left there."""
    return tmp_path_factory.mktemp("scripts")


@pytest.fixture
def trainers(folder, monkeypatch):
    """The trainers that a script has trained, on few rows of the built-in task."""
    trained, host = [], CheckpointSeams.train
    pairs, questions = arena.preference_dataset, arena.held_out_dataset

    def train(self, *args, **kwargs):
        trained.append(self)
        return host(self, *args, **kwargs)

    monkeypatch.setattr(CheckpointSeams, "train", train)
    monkeypatch.setattr(arena, "preference_dataset", lambda size, **rest: pairs(min(size, 64), **rest))
    monkeypatch.setattr(arena, "held_out_dataset", lambda size: questions(min(size, 8)))
    monkeypatch.chdir(folder)
    return trained


def logged(trainer: Trainer) -> list[dict]:
    """What was logged, read from the file that the script leaves."""
    return json.loads((Path(trainer.args.output_dir) / "trainer_state.json").read_text())["log_history"]


def test_there_is_a_script_for_each_way_to_train():
    assert set(SCRIPTS) == {
        "dapo",
        "dpo",
        "environment",
        "grpo",
        "ppo_from_reward_model",
        "qlora",
        "resume",
        "reward_model",
        "several_rewards",
        "token_weights",
        "tools",
    }


@pytest.mark.parametrize("name", SCRIPTS)
def test_dependencies_are_the_packages_that_are_imported(name):
    tree, script = ast.parse(SCRIPTS[name].read_text()), header(SCRIPTS[name])
    modules, names = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            modules.add(node.module.split(".")[0])
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
    required = [Requirement(word) for word in script["dependencies"]]
    assert sorted(one.name.replace("-", "_") for one in required) == sorted(modules - set(sys.stdlib_module_names))
    (own,) = [one for one in required if one.name == "trl-dapo"]
    assert own.extras == {EXTRA_OF_NAME[one] for one in names & set(EXTRA_OF_NAME)}
    assert own.extras <= set(PROJECT["optional-dependencies"])
    assert script["requires-python"] == PROJECT["requires-python"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short_and_in_the_shape_of_trl(name):
    text = SCRIPTS[name].read_text()
    assert len(text.splitlines()) <= 90
    (main,) = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    assert [argument.arg for argument in main.args.args][:2] == ["script_args", "training_args"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_commands_in_docstrings_are_parsed(name, monkeypatch, tmp_path):
    host, parsed = TrlParser.parse_args_and_config, []

    def parse(self):
        parsed.append(host(self))
        raise Parsed

    monkeypatch.setattr(TrlParser, "parse_args_and_config", parse)
    own = [words for words in commands(name) if words[0] == "python"]
    assert own
    for words in own:
        assert (ROOT / words[1]) == SCRIPTS[name]
        assert "--output_dir" in words
        # bfloat16 is the default, and refused where there is no card
        with pytest.raises(Parsed):
            start(name, [*words[2:], "--use_cpu", "--bf16", "false"], monkeypatch)
    # A model from the Hub is shown in each, and no word is left over, which TRL's parser would raise for
    assert any("--model_name_or_path" in words for words in own)
    assert len(parsed) == len(own)


def test_reward_model_then_ppo_against_it(trainers, monkeypatch):
    (words,), (policy_words,) = on_a_cpu("reward_model"), on_a_cpu("ppo_from_reward_model")
    start("reward_model", [*words, "--max_steps", "2"], monkeypatch)
    assert {"eval_accuracy", "eval_calibration_error"} <= set(
        json.loads(Path("arena-reward/eval_results.json").read_text())
    )
    start("ppo_from_reward_model", [*policy_words, "--max_steps", "2", "--steps_per_generation", "2"], monkeypatch)
    _, policy = trainers
    assert policy.reward_func_names == ["arena-reward"]
    assert policy.reward_funcs[0].clip == 3.0
    assert policy.state.global_step == 2
    # The critic is an adapter of its own beside the policy's
    assert set(policy.model.peft_config) == {"default", "value"}
    assert Path("arena-PPO/adapter_model.safetensors").is_file()
    with pytest.raises(SystemExit, match="reward_model_name_or_path"):
        start("ppo_from_reward_model", ["--use_cpu", "--bf16", "false"], monkeypatch)


def test_dapo_with_its_view_and_diagnosis(trainers, monkeypatch, capsys):
    (words,) = on_a_cpu("dapo")
    start("dapo", [*words, "--max_steps", "2", "--updates_per_rollout", "2", "--logging_steps", "1"], monkeypatch)
    (trainer,) = trainers
    logs = [log for log in logged(trainer) if "loss" in log]
    assert len(logs) == 2
    assert all(log["dapo/groups_kept"] == 4 for log in logs)
    assert "done: step 2 of 2" in capsys.readouterr().out
    assert {"LiveView", "DiagnosisCallback"} <= {type(one).__name__ for one in trainer.callback_handler.callbacks}


def test_grpo_measures_held_out_accuracy(trainers, monkeypatch):
    (words,) = on_a_cpu("grpo")
    start("grpo", [*words, "--max_steps", "2", "--steps_per_generation", "2"], monkeypatch)
    measured = [log["step"] for log in logged(trainers[0]) if "eval_held_out_avg@4" in log]
    assert measured == [0, 1, 2]
    assert Path("arena-GRPO/evaluations/step-2").is_dir()


@pytest.mark.parametrize("further", [[], ["--reference_free", "--loss_type", "sigmoid", "sft"]])
def test_dpo_with_a_reference_and_without(trainers, monkeypatch, further):
    (words,) = on_a_cpu("dpo")
    # What the docstring says of the second way
    assert " ".join(further) in SCRIPTS["dpo"].read_text()
    start("dpo", [*words, *further, "--max_steps", "1", "--output_dir", f"dpo-{len(further)}"], monkeypatch)
    (trainer,) = trainers
    assert (trainer.ref_model is None) == bool(further)
    assert trainer.args.reference_free == bool(further)
    assert trainer.state.global_step == 1


def test_qlora_trains_an_adapter_that_is_merged(trainers, monkeypatch, capsys):
    pytest.importorskip("bitsandbytes")
    (words,) = on_a_cpu("qlora")
    start("qlora", [*words, "--max_steps", "2", "--updates_per_rollout", "2"], monkeypatch)
    (trainer,) = trainers
    assert trainer.model.is_loaded_in_4bit
    assert {str(one.dtype) for one in trainer.model.parameters() if one.requires_grad} == {"torch.float32"}
    merges = [words for words in commands("qlora") if words[:2] == ["trl-dapo", "merge"]]
    assert len(merges) == 2
    (prompts,) = [words for words in commands("qlora") if words[0] == "echo"]
    Path(prompts[-1]).write_text(prompts[1])
    assert merge(merges[1][2:]) == 0
    assert Path("arena-served/config.json").is_file()


def test_several_rewards_and_the_one_that_decides(trainers, monkeypatch):
    (words,) = on_a_cpu("several_rewards")
    start("several_rewards", [*words, "--max_steps", "1", "--logging_steps", "1"], monkeypatch)
    (trainer,) = trainers
    (log,) = [log for log in logged(trainer) if "loss" in log]
    assert trainer.reward_func_names[:2] == ["arena_accuracy", "concise"]
    # Of lengths that differ, `concise` differs too; only accuracy decides what is informative
    assert log["rewards/concise/std"] > 0
    assert log["dapo/frac_informative"] < 1 or log["dapo/accuracy_generated"] in (0.25, 0.5, 0.75)
    assert log["longest"] <= 40


def test_concise_is_half_at_twice_the_mean():
    concise = runpy.run_path(str(SCRIPTS["several_rewards"]))["concise"]
    # Mean length 20: 2 / (2 + 40 / 20) = 0.5 and 2 / (2 + 0 / 20) = 1
    assert concise([[0] * 40, []], log_metric=lambda name, value: None) == [0.5, 1.0]


def test_token_weights_are_those_of_the_function(trainers, monkeypatch):
    (words,) = on_a_cpu("token_weights")
    start("token_weights", [*words, "--max_steps", "1"], monkeypatch)
    (trainer,) = trainers
    # 1 + 0 / 4, 1 + 1 / 4, ...
    assert trainer._token_importance_func([[5, 6, 7, 8], [9]]) == [[1.0, 1.25, 1.5, 1.75], [1.0]]
    assert trainer.args.token_level_scope == "prompt"
    assert trainer.state.global_step == 1


def test_a_resumed_run_has_the_weights_of_a_whole_one(trainers, monkeypatch, capsys):
    printed, written = [], []
    for words in on_a_cpu("resume"):
        start("resume", words, monkeypatch)
        printed.append(capsys.readouterr().out.splitlines()[-1])
        written.append(Path("arena-stopped/checkpoint-3/trainer_state.json").stat().st_mtime_ns)
    assert [line.split(",")[0] for line in printed] == ["step 7", "step 12", "step 12"]
    assert printed[1] == printed[2] != printed[0]
    # It went on inside a rollout of four updates: step 3 was not trained again
    assert written[0] == written[1]
    assert Path("arena-stopped/checkpoint-6").is_dir()


@pytest.fixture
def tool_model(folder):
    """The name of a folder with a tiny model that the template of Qwen3 can call tools with."""
    save_tiny_model(folder / "tool-model", tiny_tool_tokenizer())
    return "tool-model"


def multiplies(context: str, row: int) -> str:
    """One row of a group multiplies and says so; the others answer at once."""
    if "<tool_response>" in context:
        product = re.findall(r"<tool_response>\n(\d+)", context)[-1]
        return f"It is {product}."
    a, b = re.findall(r"What is (\d+) \* (\d+)\?", context)[-1]
    return tool_call("multiply", a=int(a), b=int(b)) if row == 0 else f"It is {row}."


def searches(context: str, row: int) -> str:
    """One row of a group halves the range until the number is found; the others give up at once."""
    if "<tool_response>" not in context and row != 0:
        return "I give up."
    low, high = 1, 20
    answers = re.findall(r"<tool_response>\n(\w+)", context)
    for guess, answer in zip(re.findall(r'"number": (\d+)', context), answers, strict=True):
        if answer == "found":
            return f"It is {guess}."
        low, high = (int(guess) + 1, high) if answer == "higher" else (low, int(guess) - 1)
    return tool_call("guess", number=(low + high) // 2)


@pytest.mark.parametrize(("name", "turns"), [("tools", multiplies), ("environment", searches)])
def test_tools_and_environments(trainers, tool_model, monkeypatch, name, turns):
    host = CheckpointSeams.train

    def train(self, *args, **kwargs):
        script_generation(self, turns)
        return host(self, *args, **kwargs)

    monkeypatch.setattr(CheckpointSeams, "train", train)
    (words,) = commands(name)
    small = [
        "--max_steps",
        "1",
        "--per_device_train_batch_size",
        "8",
        "--num_generations",
        "4",
        "--logging_steps",
        "1",
    ]
    here = ["--model_name_or_path", tool_model, "--use_cpu", "--bf16", "false", "--updates_per_rollout", "1"]
    start(name, [*words[2:], *here, *small], monkeypatch)
    (trainer,) = trainers
    (log,) = [log for log in logged(trainer) if "loss" in log]
    # One row in four earns something: 1 for a product; for a number, 1 for one guess, 1/5 for five
    assert log["dapo/groups_kept"] == 2
    assert log["tools/call_frequency"] > 0
    assert log["tools/failure_frequency"] == 0
    share = log["reward"]
    assert share == pytest.approx(0.25, abs=1e-6) if name == "tools" else 0.25 / 5 <= share <= 0.25


@pytest.mark.parametrize("name", ["tools", "environment"])
def test_a_model_is_asked_for(monkeypatch, tmp_path, name):
    with pytest.raises(SystemExit, match="model_name_or_path"):
        start(name, ["--use_cpu", "--bf16", "false", "--output_dir", str(tmp_path)], monkeypatch)


def test_fewer_guesses_earn_more():
    episode = runpy.run_path(str(SCRIPTS["environment"]))["HiddenNumber"]()
    episode.reset(answer=7)
    assert [episode.guess(10), episode.guess(5)] == ["lower", "higher"]
    assert episode.get_reward() == 0.0
    assert episode.guess(7) == "found"
    assert episode.get_reward() == pytest.approx(1 / 3)
    # What is guessed after that costs nothing
    episode.guess(1)
    assert episode.get_reward() == pytest.approx(1 / 3)
