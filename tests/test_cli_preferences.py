"""`trl-dapo reward` and `trl-dapo dpo`: what they train, and that each mistake is one line and exit code 2."""

import json
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl import ScriptArguments

from preferences import pairs, saved
from tiny import save_tiny_model, tiny_model, tiny_tokenizer
from trl_dapo import RewardModelFunction
from trl_dapo.arena import arena_accuracy, load_reward_start, preference_dataset
from trl_dapo.cli import built_in_task, dpo, reward
from trl_dapo.cli.launch import ON_CPU
from trl_dapo.cli.main import main
from trl_dapo.reward_model.statistics import RewardStatistics


SCRIPTS = {"reward": reward, "dpo": dpo}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), tiny_tokenizer())


@pytest.fixture
def settings(tmp_path, monkeypatch, model_dir):
    """A config for the tiny model and 16 pairs: 2 optimizer steps; the working folder is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "data"
    data.mkdir()
    for split, n in (("train", 16), ("test", 4)):
        (data / f"{split}.jsonl").write_text("\n".join(map(json.dumps, pairs(n))))
    yield {
        "model_name_or_path": model_dir,
        "dataset_name": str(data),
        "output_dir": str(tmp_path / "out"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 1e-3,
    }
    AcceleratorState._reset_state(reset_partial_state=True)


def write(values):
    Path("run.yaml").write_text(yaml.safe_dump(values))
    return ["--config", "run.yaml"]


def run(command, argv):
    return SCRIPTS[command].run_script(argv)


def refused(command, argv, capfd):
    capfd.readouterr()
    assert main([command, *argv]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("trl-dapo: error: ")
    assert err.count("\n") == 1, err
    assert not Path("out").exists()
    return err


def test_a_yaml_file_trains_a_reward_model(settings):
    assert run("reward", write({**settings, "eval_strategy": "steps", "eval_steps": 1})) == 0
    assert AutoModelForSequenceClassification.from_pretrained("out").config.num_labels == 1
    assert RewardStatistics.load("out").rows == 16
    assert len(RewardModelFunction("out", normalize=True)(["1+2="], ["3"])) == 1


@pytest.mark.parametrize("free", [False, True])
def test_a_yaml_file_trains_with_dpo(settings, free, model_dir):
    assert run("dpo", [*write(settings), *(["--reference_free"] if free else [])]) == 0
    before, after = AutoModelForCausalLM.from_pretrained(model_dir), AutoModelForCausalLM.from_pretrained("out")
    assert (before.lm_head.weight != after.lm_head.weight).any()


@pytest.mark.parametrize("command", SCRIPTS)
def test_an_adapter_on_a_quantized_base_with_trls_flags(settings, command, tmp_path):
    # With TRL's default, lora_task_type=CAUSAL_LM, TRL's own `trl reward` crashes
    settings["model_name_or_path"] = saved(tmp_path / "wide", tiny_model(tiny_tokenizer(), hidden=64))
    assert run(command, [*write(settings), "--load_in_4bit", "--use_peft"]) == 0
    config = json.loads(Path("out/adapter_config.json").read_text())
    assert config["task_type"] == {"reward": "SEQ_CLS", "dpo": "CAUSAL_LM"}[command]


@pytest.mark.parametrize("command", SCRIPTS)
def test_without_model_and_dataset_the_arena_trains(settings, monkeypatch, command):
    monkeypatch.setattr(built_in_task, "TRAINING_PAIRS", 64)
    monkeypatch.setattr(built_in_task, "EVALUATION_PAIRS", 16)
    argv = [
        "--max_steps",
        "1",
        "--output_dir",
        "out",
        "--eval_strategy",
        "steps",
        "--per_device_train_batch_size",
        "8",
    ]
    assert run(command, [*argv, "--disable_tqdm", "true"]) == 0
    assert Path("out/model.safetensors").is_file()


@pytest.mark.slow
def test_the_command_launches_the_script(settings):
    assert main(["reward", *write(settings), "--max_steps", "1", *ON_CPU]) == 0
    assert Path("out/reward_statistics.json").is_file()


def test_resume_goes_on(settings):
    settings |= {"save_strategy": "steps", "save_steps": 1}
    assert run("reward", write(settings)) == 0
    assert run("reward", [*write({**settings, "max_steps": 3}), "--resume_from_checkpoint", "true"]) == 0
    assert RewardStatistics.load("out").rows == 24


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_run_goes_on_from_the_adapter_of_another(settings, command):
    assert run(command, [*write(settings), "--use_peft"]) == 0
    before = load_file("out/adapter_model.safetensors")
    again = {**settings, "model_name_or_path": "out", "output_dir": "further", "learning_rate": 0.0}
    assert run(command, [*write(again), "--use_peft"]) == 0
    after = load_file("further/adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_dry_run_prints_the_config_and_trains_nothing(settings, capfd, command):
    assert main([command, *write({**settings, "adapter_dtype": "bfloat16"}), "--dry_run"]) == 0
    out = capfd.readouterr().out
    assert "adapter_dtype: bfloat16" in out
    assert "max_steps: 2" in out
    assert "# batch" not in out
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("command", "change", "message"),
    [
        ("dpo", {"beta": 0.0}, "`beta` must be a number above 0"),
        ("dpo", {"label_smoothing": 2.0}, "`label_smoothing` must be a number of at least 0 and below 0.5"),
        (
            "reward",
            {"center_rewards_coefficient": -0.1},
            "`center_rewards_coefficient` must be a number",
        ),
        ("reward", {"num_train_epochs": 0, "max_steps": -1}, "an untrained model would be saved"),
        ("dpo", {"datasets": [{"path": "data", "fraction": -0.5}]}, "datasets[0].fraction=-0.5"),
        ("dpo", {"loss_type": "ipo", "reference_free": True}, "loss_type='ipo' compares with a reference model"),
        ("reward", {"adapter_dtype": "float16"}, "adapter_dtype: 'float16' in the config file is none of"),
        ("reward", {"learning_rat": 1}, "Did you mean --learning_rate?"),
        ("dpo", {"dataset_name": None}, "dataset_name is missing"),
        ("reward", {"model_name_or_path": "./nowhere"}, "there is no such folder"),
        ("dpo", {"resume_from_checkpoint": "true"}, "there is no checkpoint in output_dir"),
        ("reward", {"dataset_train_split": "dev"}, "the dataset has no such split"),
    ],
)
def test_each_mistake_is_one_line(settings, capfd, command, change, message):
    values = {name: value for name, value in {**settings, **change}.items() if value is not None}
    assert message in refused(command, write(values), capfd)


@pytest.mark.parametrize("command", SCRIPTS)
def test_bad_preferences_are_told_before_a_model_is_loaded(settings, capfd, command):
    rows = [{**row, "chosen": None if i == 3 else row["chosen"]} for i, row in enumerate(pairs(16))]
    Path("data/train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "Row 3 of the train dataset: 'chosen' is None" in refused(command, write(settings), capfd)
    Path("data/test.jsonl").unlink()
    Path("data/train.jsonl").write_text("\n".join(json.dumps({"prompt": row["prompt"]}) for row in pairs(16)))
    assert "The train dataset has no column 'chosen'" in refused(command, write(settings), capfd)


def test_the_built_in_model_is_not_quantized(settings, capfd):
    assert "load_in_4bit=True has no effect" in refused("reward", ["--load_in_4bit", "--use_peft"], capfd)


def test_every_flag_of_trls_scripts_is_taken():
    from dataclasses import fields

    for script in SCRIPTS.values():
        options = {action.dest for action in script.make_parser()._actions}
        assert {own.name for own in fields(ScriptArguments)} <= options


# ----------------------------------------------------------------------------------------------------------- the arena


def test_the_right_completion_is_chosen():
    for split in ("train", "held_out"):
        rows = preference_dataset(90, split=split)
        assert arena_accuracy(list(rows["prompt"]), list(rows["chosen"])) == [1.0] * 90
        assert arena_accuracy(list(rows["prompt"]), list(rows["rejected"])) == [0.0] * 90


def test_preferences_are_a_function_of_the_arguments():
    assert preference_dataset(20, seed=1).to_list() == preference_dataset(20, seed=1).to_list()
    assert preference_dataset(20, seed=1).to_list() != preference_dataset(20, seed=2).to_list()
    assert not set(preference_dataset(90)["prompt"]) & set(preference_dataset(90, split="held_out")["prompt"])


def test_length_says_little_of_the_preference():
    rows = preference_dataset(2000)
    longer = sum(len(row["chosen"]) > len(row["rejected"]) for row in rows)
    shorter = sum(len(row["chosen"]) < len(row["rejected"]) for row in rows)
    assert longer / (longer + shorter) == pytest.approx(0.5, abs=0.05)


def test_a_reward_model_starts_from_the_warm_start():
    import torch

    from trl_dapo.arena import load_warm_start

    state = torch.get_rng_state()
    model, tokenizer = load_reward_start(seed=1)
    policy, _ = load_warm_start()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight, policy.model.layers[0].self_attn.q_proj.weight)
    assert torch.equal(model.score.weight, load_reward_start(seed=1)[0].score.weight)
    assert not torch.equal(model.score.weight, load_reward_start(seed=2)[0].score.weight)
    assert (model.config.num_labels, model.config.pad_token_id) == (1, tokenizer.pad_token_id)
