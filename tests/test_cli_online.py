"""`trl-dapo grpo` and `trl-dapo ppo`: what they train, and that each mistake is one line and exit code 2."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import trl_dapo.arena
from preferences import saved, tiny_reward_model
from tiny import save_tiny_model, tiny_tokenizer
from trl_dapo import GRPOConfig, PPOConfig
from trl_dapo.arena import load_warm_start
from trl_dapo.cli import built_in_task, grpo, ppo
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.launch import ON_CPU
from trl_dapo.cli.main import main
from trl_dapo.cli.script import build_trainer
from trl_dapo.evaluation.models import find_policy, load_policy, load_tokenizer


SCRIPTS = {"grpo": grpo, "ppo": ppo}
CONFIGS = {"grpo": GRPOConfig, "ppo": PPOConfig}
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), tiny_tokenizer())


@pytest.fixture
def settings(tmp_path, monkeypatch, model_dir):
    """A config for the tiny model and 16 prompts: 2 optimizer steps; the working folder is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "data"
    data.mkdir()
    rows = [json.dumps({"prompt": f"{i}+{i}=", "answer": str(2 * i)}) for i in range(16)]
    (data / "train.jsonl").write_text("\n".join(rows))
    yield {
        "model_name_or_path": model_dir,
        "dataset_name": str(data),
        "reward_funcs": "get_soft_overlong_punishment",
        "output_dir": str(tmp_path / "out"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 1e-2,
    }
    AcceleratorState._reset_state(reset_partial_state=True)


def write(values):
    Path("run.yaml").write_text(yaml.safe_dump(values))
    return ["--config", "run.yaml"]


def script(command, argv):
    return SCRIPTS[command].run_script(argv)


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_yaml_of_trl_trains_unchanged(settings, command):
    assert script(command, write(settings)) == 0
    assert AutoModelForCausalLM.from_pretrained("out").config.model_type == "llama"
    assert (Path("out") / "value" / "model.safetensors").is_file() == (command == "ppo")


def test_flags_and_adapters_of_ppo(settings):
    argv = [*write(settings), "--use_peft", "--lora_target_modules", "all-linear", "--num_generations", "1"]
    assert script("ppo", [*argv, "--kl_estimator", "k3", "--critic_warmup_steps", "1"]) == 0
    base = AutoModelForCausalLM.from_pretrained(settings["model_name_or_path"])
    assert list(PeftModel.from_pretrained(base, "out").peft_config) == ["default"]
    assert (Path("out") / "value" / "adapter_model.safetensors").is_file()


def test_an_adapter_on_the_built_in_model_has_its_base_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--output_dir", "out", "--max_steps", "1", "--save_steps", "1", "--live_view", "off", "--disable_tqdm"]
    assert script("ppo", words) == 0
    start = load_warm_start()[0].state_dict()
    for folder in ("out", "out/checkpoint-1"):
        source = find_policy(folder)
        assert source.base == "out/base"
        policy = load_policy(source, load_tokenizer(source))
        saved_base = policy.unload().state_dict()
        assert saved_base.keys() == start.keys()
        assert all(torch.equal(saved_base[name], weight) for name, weight in start.items())


@pytest.fixture(scope="module")
def reward_dir(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("reward"), tiny_reward_model())


def test_a_reward_model_by_name_scores_as_it_was_trained(settings, reward_dir):
    # TRL reads the completion without the end token that reward models are trained with
    del settings["reward_funcs"]
    arguments = grpo.make_parser().parse(write({**settings, "reward_model_name_or_path": reward_dir}))
    trainer = build_trainer(COMMANDS["grpo"], arguments)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(reward_dir), tiny_tokenizer()
    ids = torch.tensor([tokenizer("1+1=2" + tokenizer.eos_token)["input_ids"]])
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits.item()
    assert trainer.reward_funcs[0](["1+1="], ["2"]) == [pytest.approx(expected, abs=1e-6)]


@pytest.mark.parametrize("command", SCRIPTS)
@pytest.mark.parametrize("dry", [False, True])
def test_a_causal_model_is_no_reward_model(settings, capfd, command, dry, model_dir):
    capfd.readouterr()
    argv = write({**settings, "reward_model_name_or_path": model_dir})
    assert main([command, *argv, *(["--dry-run"] if dry else [])]) == 2
    err = capfd.readouterr().err
    assert f"reward_model_name_or_path={model_dir}: The reward model" in err
    assert "its head would be random" in err
    assert not Path("out").exists()


@pytest.mark.parametrize("command", SCRIPTS)
def test_without_model_and_dataset_it_is_the_built_in_task(settings, monkeypatch, command):
    start = trl_dapo.arena.load_warm_start()
    monkeypatch.setattr(trl_dapo.arena, "load_warm_start", lambda: start)
    monkeypatch.setattr(built_in_task, "TRAINING_PROMPTS", 256)
    assert script(command, ["--max_steps", "1", "--max_completion_length", "8"]) == 0
    assert (Path(f"arena-{command.upper()}") / "tokenizer.json").is_file()


@pytest.mark.parametrize("command", SCRIPTS)
def test_the_shipped_yaml_parses(settings, command):
    path = ROOT / "examples" / f"{command}.yaml"
    arguments = SCRIPTS[command].make_parser().parse(["--config", str(path)])
    for name, value in yaml.safe_load(path.read_text()).items():
        found = [getattr(part, name) for part in arguments if hasattr(part, name)]
        assert any(getattr(one, "value", one) == value for one in found) or name == "lora_target_modules", name
    assert isinstance(arguments.training_args, CONFIGS[command])


@pytest.mark.parametrize("command", SCRIPTS)
def test_dry_run_prints_and_writes_nothing(settings, capfd, monkeypatch, command):
    monkeypatch.setattr("accelerate.commands.launch.launch_command", lambda args: pytest.fail("launched"))
    assert main([command, *write(settings), "--dry-run"]) == 0
    out, _ = capfd.readouterr()
    assert "learning_rate: 0.01" in out
    assert ("gamma: 1.0" in out) == (command == "ppo")
    assert not Path("out").exists()


@pytest.mark.parametrize("command", SCRIPTS)
def test_it_is_launched_as_a_script_of_its_own(settings, monkeypatch, command):
    launched = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", launched.append)
    assert main([command, *write(settings)]) == 0
    assert launched[0].training_script == f"trl_dapo.cli.{command}"
    assert launched[0].num_processes == int(ON_CPU[ON_CPU.index("--num_processes") + 1])


@pytest.mark.parametrize(
    ("command", "fields", "part"),
    [
        ("grpo", {"num_generations": 3}, "num_generations=3 does not divide"),
        ("ppo", {"gamma": 2.0}, "`gamma` must be in [0, 1], got 2.0"),
        ("ppo", {"reward_adapter": "nowhere"}, "reward_adapter='nowhere'"),
        ("ppo", {"per_device_train_batch_size": 80}, "`train_dataset` has 16 prompts"),
        ("grpo", {"adapter_dtype": "int8"}, "adapter_dtype: 'int8' in the config file is none of"),
        ("ppo", {"reward_funcs": ["unknown"]}, "unknown reward function 'unknown'"),
    ],
)
def test_a_mistake_is_one_line(settings, capfd, command, fields, part):
    argv = write({**settings, **fields})
    capfd.readouterr()
    assert script(command, argv) == 2
    _, err = capfd.readouterr()
    line = err.strip().splitlines()[-1]
    assert line.startswith("trl-dapo: error: ")
    assert part in line
    assert not Path("out").exists()


@pytest.mark.parametrize("command", SCRIPTS)
def test_bad_messages_and_the_models_own_folder_are_one_line(settings, capfd, command, model_dir):
    rows = [json.dumps({"prompt": [{"from": "human", "value": f"{i}+{i}="}]}) for i in range(16)]
    Path("data/train.jsonl").write_text("\n".join(rows))
    capfd.readouterr()
    assert main([command, *write(settings)]) == 2
    err = capfd.readouterr().err
    assert "Row 0 of the train dataset: 'prompt[0]' has 'from' and 'value'" in err
    assert err.count("\n") == 1
