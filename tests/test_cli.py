"""The command line: what it trains, what it prints, and that each mistake is one line and exit code 2."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, PartialState
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, ModelConfig, ScriptArguments

import trl_dapo.arena
from tiny import save_tiny_model, tiny_tokenizer
from trl_dapo import DAPOConfig, __version__
from trl_dapo.cli import arena_defaults, built_in_task, hub, launch, script
from trl_dapo.cli.arguments import Arguments, CommandParser
from trl_dapo.cli.check_batch import check_batch
from trl_dapo.cli.command_file import LAUNCH_WORDS, read_starts
from trl_dapo.cli.commands import COMMANDS, Command
from trl_dapo.cli.dapo import make_parser, run_script
from trl_dapo.cli.errors import UsageError
from trl_dapo.cli.launch import without_words
from trl_dapo.cli.main import main
from trl_dapo.cli.online import DAPOParser
from trl_dapo.cli.reward_names import KNOWN, check_columns, reward_functions
from trl_dapo.dapo.config import TOGGLES
from trl_dapo.dapo.trainer import DAPOTrainer


ROOT = Path(__file__).parent.parent

REWARDS = """
def length(completion_ids, **kwargs):
    return [float(sum(ids) % 2) for ids in completion_ids]

def needs_solution(completions, solution, **kwargs):
    return [0.0] * len(completions)

def crash(completions, **kwargs):
    raise ValueError("the reward function has a defect")

constant = 3
"""


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("model"), tiny_tokenizer())


@pytest.fixture
def workspace(tmp_path, monkeypatch, model_dir) -> Path:
    """An empty folder to run in, with a dataset, a module of rewards, and caches of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(sys, "path", [*sys.path])
    for module in ("own_rewards", "broken_rewards"):
        sys.modules.pop(module, None)
    data = tmp_path / "data"
    data.mkdir()
    rows = [json.dumps({"prompt": f"{i}+{i}=", "answer": str(2 * i)}) for i in range(16)]
    (data / "train.jsonl").write_text("\n".join(rows))
    (data / "test.jsonl").write_text("\n".join(rows[:4]))
    (tmp_path / "own_rewards.py").write_text(REWARDS)
    yield tmp_path
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def settings(workspace, model_dir) -> dict:
    """A `trl grpo` config for the tiny model: 2 groups of 4, 2 optimizer steps."""
    return {
        "model_name_or_path": model_dir,
        "dataset_name": str(workspace / "data"),
        "reward_funcs": ["own_rewards.length"],
        "output_dir": str(workspace / "out"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "steps_per_generation": 1,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 1e-2,
    }


def write(settings: dict, name: str = "run.yaml") -> list[str]:
    Path(name).write_text(yaml.safe_dump(settings))
    return ["--config", name]


def parse(argv: list[str]) -> Arguments:
    return make_parser().parse(argv)


def flags(settings: dict) -> list[str]:
    words = []
    for name, value in settings.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def refused(argv: list[str], capfd, run=None) -> str:
    """Runs the command, and returns the one line that it must print; nothing may be left behind."""
    before = {path for path in Path().iterdir() if path.name != "cache"}
    capfd.readouterr()
    code = (run or (lambda words: main(["dapo", *words])))(argv)
    out, err = capfd.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("trl-dapo: error: ")
    assert err.count("\n") == 1, err
    assert {path for path in Path().iterdir() if path.name != "cache"} - {Path("__pycache__")} == before
    return err


# ------------------------------------------------------------------------------------------------------ the command


@pytest.mark.parametrize("argv", [[], ["--help"], ["--version"]])
def test_help_and_version_import_no_torch(argv):
    code = (
        "import sys; from trl_dapo.cli.main import main; "
        f"code = main({argv!r}); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("demo" in done.stdout and "dapo" in done.stdout) or __version__ in done.stdout


def test_reading_the_table_imports_no_torch():
    code = "import sys, trl_dapo.cli.commands; sys.exit('torch' in sys.modules or 'trl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_every_name_in_the_table_is_an_object_of_its_kind(command):
    named = [one.name for one in fields(Command) if one.name not in ("name", "summary")]
    # Commands that learn from preferences do nothing to the trainer before it trains
    assert (command.complete is None) == (command.name in ("reward", "dpo"))
    loaded = {name: command.load(name) for name in named if getattr(command, name) is not None}
    assert issubclass(loaded["config"], loaded["host_config"])
    assert issubclass(loaded["parser"], CommandParser)
    assert issubclass(loaded["script_arguments"], ScriptArguments)
    # A misspelt default would be written into the parsed values and never be read
    kinds = (loaded["config"], loaded["script_arguments"], ModelConfig)
    assert set(loaded["arena_defaults"]) <= {own.name for kind in kinds for own in fields(kind)}
    assert all(callable(loaded[name]) for name in ("preflight", "checkpoint", "trainer_arguments", "print_dry_run"))
    module = import_module(command.module)
    assert all(callable(getattr(module, name)) for name in module.__all__)


def test_unknown_command_is_one_line(workspace, capfd):
    assert "'sft' is not a command" in refused(["sft"], capfd, run=main)


def test_demo_is_dispatched_with_its_arguments(monkeypatch):
    seen = []
    module = type(sys)("trl_dapo.cli.demo")
    module.main = lambda argv: seen.append(argv) or 7
    monkeypatch.setitem(sys.modules, "trl_dapo.cli.demo", module)
    assert main(["demo", "--seed", "3"]) == 7
    assert seen == [["--seed", "3"]]


def test_help_of_the_command_lists_trl_and_dapo_options(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["dapo", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: trl-dapo dapo")
    assert all(option in text for option in ("dynamic_sampling", "--num_generations", "--dry_run", "--lora_r"))


def test_parser_can_be_a_subparser(workspace):
    parser = DAPOParser([])
    make_parser(parser.add_subparsers(dest="command", parser_class=DAPOParser))
    parser.set_defaults_with_config(loss_type="grpo")
    values = parser.parse_known_args(["dapo", "--max_steps", "3"])[0]
    assert (values.max_steps, values.token_level_loss) == (3, False)


# ------------------------------------------------------------------------------------------- TRL's fields and toggles

TRL_FIELDS = {
    "loss_type": "grpo",
    "epsilon_high": 0.2,
    "mask_truncated_completions": False,
    "lr_scheduler_type": "linear",
    "beta": 0.01,
}


def test_fields_of_trl_turn_off_the_toggles_that_they_contradict(settings):
    args = parse(write({**settings, **TRL_FIELDS}))
    config = args.training_args
    assert {toggle: getattr(config, toggle) for toggle in TOGGLES} == {
        "overlong_filtering": False,
        "clip_higher": False,
        "soft_overlong_punishment": True,
        "token_level_loss": False,
        "dynamic_sampling": True,
    }
    assert (config.loss_type, config.epsilon_high, config.mask_truncated_completions) == ("grpo", 0.2, False)
    assert (config.lr_scheduler_type, config.warmup_steps, config.beta) == ("linear", 0, 0.01)
    assert [note.split(" ")[0] for note in args.script_args.notes] == [
        "overlong_filtering",
        "clip_higher",
        "token_level_loss",
        "warmup_steps",
    ]
    assert args.script_args.notes[1:3] == [
        "clip_higher is off: epsilon_high=0.2 was given",
        "token_level_loss is off: loss_type=grpo was given",
    ]


def test_flags_count_as_given_like_the_file(settings):
    from_file, from_flags = parse(write({**settings, **TRL_FIELDS})), parse(flags({**settings, **TRL_FIELDS}))
    for own in GRPOConfig.__dataclass_fields__:
        if own != "accelerator_config":
            assert getattr(from_file.training_args, own) == getattr(from_flags.training_args, own), own
    assert from_file.script_args.notes == from_flags.script_args.notes


def test_without_fields_of_trl_all_toggles_are_on(settings):
    args = parse(write(settings))
    assert all(getattr(args.training_args, toggle) for toggle in TOGGLES)
    assert (args.training_args.epsilon_high, args.training_args.loss_type) == (0.28, "dapo")
    assert args.script_args.notes == []


@pytest.mark.parametrize(
    ("fields", "toggle"),
    [
        ({"epsilon_high": None}, "clip_higher"),  # TRL's default, written out
        ({"epsilon": 0.3}, "clip_higher"),  # above the paper's 0.28
        ({"loss_type": "cispo"}, "clip_higher"),
        ({"loss_type": "sapo"}, "token_level_loss"),
        ({"reward_funcs": ["get_soft_overlong_punishment"]}, "dynamic_sampling"),
        ({"reward_funcs": "get_soft_overlong_punishment"}, "dynamic_sampling"),
    ],
)
def test_one_field_turns_off_one_toggle(settings, fields, toggle):
    config = parse(write({**settings, **fields})).training_args
    assert [name for name in TOGGLES if not getattr(config, name)] == [toggle]


@pytest.mark.parametrize(
    "fields", [{"loss_type": "dapo"}, {"mask_truncated_completions": True}, {"epsilon_high": 0.3}, {"epsilon": 0.1}]
)
def test_agreeing_fields_turn_nothing_off(settings, fields):
    assert all(getattr(parse(write({**settings, **fields})).training_args, toggle) for toggle in TOGGLES)


@pytest.mark.parametrize(
    ("toggle", "rival", "value"),
    [
        ("clip_higher", "epsilon_high", 0.2),
        ("token_level_loss", "loss_type", "grpo"),
        ("overlong_filtering", "mask_truncated_completions", False),
    ],
)
def test_given_toggle_and_contradicting_field_are_refused(settings, capfd, toggle, rival, value):
    line = refused(write({**settings, toggle: True, rival: value}), capfd)
    assert f"{toggle}=True" in line
    assert rival in line


def test_toggles_off_by_flag_override_the_file(settings):
    argv = [*write(settings), "--no_dynamic_sampling", "--clip-higher", "false"]
    config = parse(argv).training_args
    assert (config.dynamic_sampling, config.clip_higher, config.epsilon_high) == (False, False, None)


def test_flag_without_a_value_means_true(settings):
    assert parse([*write(settings), "--mask_truncated_completions"]).training_args.mask_truncated_completions is True


def test_warm_up_that_was_given_stays(settings):
    config = parse(write({**settings, "lr_scheduler_type": "cosine", "warmup_steps": 5})).training_args
    assert config.warmup_steps == 5


# ---------------------------------------------------------------------------------------------------------- training


def test_yaml_of_trl_trains_unchanged(settings, monkeypatch, caplog):
    """Fields, a mixture of datasets, `env:`, LoRA and evaluation, in one file that `trl grpo` would take."""
    monkeypatch.delenv("SET_BY_THE_FILE", raising=False)
    del settings["dataset_name"]
    entry = {"path": "json", "data_files": "data/train.jsonl", "columns": ["prompt"]}
    file = {
        **settings,
        **TRL_FIELDS,
        "datasets": [entry, entry],
        "test_split_size": 0.25,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "env": {"SET_BY_THE_FILE": 1},
        "use_peft": True,
        "lora_r": 4,
        "lora_target_modules": ["q_proj", "v_proj"],
    }
    trainers = []
    built = script.build_trainer
    monkeypatch.setattr(script, "build_trainer", lambda *args: trainers.append(built(*args)) or trainers[0])
    assert run_script(write(file)) == 0
    trainer = trainers[0]
    assert trainer.state.global_step == 2
    assert any("eval_reward" in log for log in trainer.state.log_history)
    assert len(trainer.train_dataset) == 24
    assert Path("out/adapter_config.json").is_file()
    assert trainer.args.loss_type == "grpo"
    monkeypatch.delenv("SET_BY_THE_FILE")


def test_full_model_is_saved_and_has_moved(settings, model_dir):
    assert run_script(write(settings)) == 0
    before = AutoModelForCausalLM.from_pretrained(model_dir).state_dict()
    after = AutoModelForCausalLM.from_pretrained("out").state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_run_resumes_from_its_checkpoint(settings, capfd):
    saving = [*write(settings), "--save_strategy", "steps", "--save_steps", "1"]
    resuming = [*saving, "--max_steps", "2", "--resume_from_checkpoint", "true"]
    assert "no checkpoint in output_dir" in refused(resuming, capfd)
    assert run_script([*saving, "--max_steps", "1"]) == 0
    assert run_script(resuming) == 0
    assert Path("out/checkpoint-2/trainer_state.json").is_file()
    for number in (1, 2):
        Path(f"out/checkpoint-{number}/optimizer.pt").unlink()
    assert "checkpoint-2 is not whole (optimizer.pt is missing)" in refused(resuming, capfd)
    # None of them was ever finished: a new run starts, and keeps them
    for number in (1, 2):
        Path(f"out/checkpoint-{number}/trainer_state.json").unlink()
    assert run_script(resuming) == 0
    assert Path("out/checkpoint-2/trainer_state.json").is_file()
    assert Path("out/torn-checkpoint-2").is_dir()


def test_checkpoint_of_another_trainer_is_one_line(settings, capfd):
    Path("out/checkpoint-1").mkdir(parents=True)
    Path("out/checkpoint-1/trainer_state.json").write_text("{}")
    assert "not written by DAPOTrainer" in refused([*write(settings), "--resume_from_checkpoint", "true"], capfd)


def test_launched_run_trains(settings, workspace, monkeypatch, capfd):
    assert main(["dapo", *write(settings), "--max_steps=1", "--no_dynamic_sampling", *launch.ON_CPU]) == 0
    assert (workspace / "out" / "model.safetensors").is_file()
    assert "Model saved to" in capfd.readouterr().out
    # Its processes know the words of the launcher; a run that this process trains itself later does not
    assert read_starts(workspace / "out")[0][0].launch == list(launch.ON_CPU)
    assert LAUNCH_WORDS not in os.environ


def test_mistake_found_by_the_launched_process_is_one_line(settings, workspace, capfd):
    code = main(["dapo", *write({**settings, "reward_funcs": ["own_rewards.missing"]})])
    err = capfd.readouterr().err
    assert code == 2
    assert "trl-dapo: error: reward_funcs: 'own_rewards.missing': the module 'own_rewards' has no function" in err
    assert "Traceback" not in err
    assert "CalledProcessError" not in err
    assert not (workspace / "out").exists()


def test_crash_keeps_its_traceback(settings, workspace):
    with pytest.raises(RuntimeError, match=r"'crash' failed on row 0 .*the reward function has a defect"):
        run_script(write({**settings, "reward_funcs": ["own_rewards.crash"]}))


@pytest.mark.parametrize(("returned", "expected"), [(1, 1), (2, 2), (-9, 137)])
def test_exit_code_is_that_of_the_launched_process(settings, monkeypatch, returned, expected):
    def fail(args):
        raise subprocess.CalledProcessError(returned, ["python"])

    monkeypatch.setattr("accelerate.commands.launch.launch_command", fail)
    assert main(["dapo", *write(settings)]) == expected


# ------------------------------------------------------------------------------------------------- without arguments


@pytest.fixture
def arena(monkeypatch):
    """The arena with random weights: what the warm start can do is not the command's concern."""
    start = (trl_dapo.arena.build_model(), trl_dapo.arena.build_tokenizer())
    monkeypatch.setattr(trl_dapo.arena, "load_warm_start", lambda: start)
    monkeypatch.setattr(built_in_task, "TRAINING_PROMPTS", 64)


def test_no_arguments_train_on_the_arena(workspace, monkeypatch, arena):
    monkeypatch.setitem(arena_defaults.DAPO, "max_steps", 1)
    monkeypatch.setitem(arena_defaults.DAPO, "max_completion_length", 8)
    seen = []
    train = DAPOTrainer.train
    monkeypatch.setattr(DAPOTrainer, "train", lambda self, **kwargs: seen.append(self) or train(self, **kwargs))
    assert run_script(["--disable_tqdm", "--max_refill_rounds", "0"]) == 0
    trainer = seen[0]
    assert trainer.reward_func_names[0] == "arena_accuracy"
    assert trainer.args.generation_batch_size == 16 * 8
    assert trainer.state.global_step == 1
    assert (workspace / "arena-DAPO" / "model.safetensors").is_file()
    # Its log too, for `trl-dapo diagnose`
    log = json.loads((workspace / "arena-DAPO" / "trainer_state.json").read_text())["log_history"]
    assert log[0]["step"] == 1


def test_arena_settings_give_way_to_flags(workspace):
    argv = ["--generation_batch_size=64", "--learning_rate=1e-3", "--num_train_epochs=1", "--output_dir=here"]
    config = parse(argv).training_args
    assert (config.generation_batch_size, config.learning_rate, config.max_steps) == (64, 1e-3, -1)
    assert (config.output_dir, config.use_cpu, config.updates_between_generations) == ("here", True, 4)
    # It saves where it is told how often
    assert [parse(words).training_args.save_strategy for words in ([], ["--save_steps=8"])] == ["no", "steps"]


def test_two_dashes_are_no_value(workspace, capfd):
    assert "--output_dir: expected one argument" in refused(["--output_dir=--"], capfd)


def test_arena_is_evaluated_on_held_out_prompts(workspace, arena):
    config = parse(["--eval_strategy=steps", "--eval_steps=1"]).training_args
    source = built_in_task.problems(config)
    assert len(source.evaluation) == built_in_task.EVALUATION_PROMPTS
    assert all(trl_dapo.arena.is_held_out(prompt) for prompt in source.evaluation["prompt"])


def test_no_arguments_are_launched_on_the_cpu_in_one_process(workspace, monkeypatch):
    launched = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", launched.append)
    assert main(["dapo", "--max_steps", "8"]) == 0
    (args,) = launched
    assert (args.cpu, args.num_processes, args.module) == (True, 1, True)
    assert args.training_script_args == ["--max_steps", "8"]


# ------------------------------------------------------------------------------------------------------------ dry run


@pytest.mark.parametrize("flag", ["--dry-run", "--dry_run"])
def test_dry_run_prints_the_config_and_the_batch_and_writes_nothing(settings, workspace, capfd, monkeypatch, flag):
    monkeypatch.setattr("accelerate.commands.launch.launch_command", lambda args: pytest.fail("launched"))
    argv = write({**settings, "loss_type": "grpo", "temperature": 1.0})
    before = sorted(path for path in workspace.iterdir() if path.name != "cache")
    capfd.readouterr()
    assert main(["dapo", *argv, flag]) == 0
    out = capfd.readouterr().out
    lines = out.splitlines()
    assert {f"{toggle}: {toggle != 'token_level_loss'}" for toggle in TOGGLES} <= set(lines)
    assert {"num_generations: 4", "loss_type: grpo", "max_steps: 2", "learning_rate: 0.01"} <= set(lines)
    assert not any(line.startswith(("temperature:", "beta:", "seed:")) for line in lines)
    assert any(
        line.startswith("overlong_penalty_factor: None (half of the distance between a wrong") for line in lines
    )
    assert any(line.startswith("rollout      2 prompts x 4 generations = 8 completions") for line in lines)
    assert "learning_rate: 0.01 (paper: 1e-06, §4.1)" in lines[lines.index("# otherwise than the paper") :]
    assert any(line.startswith("note: token_level_loss is off") for line in lines)
    assert sorted(path for path in workspace.iterdir() if path.name != "cache") == before


def test_dry_run_counts_the_processes_that_would_be_launched(settings, capfd):
    argv = write({**settings, "per_device_train_batch_size": 1, "num_processes": 4})
    assert main(["dapo", *argv, "--dry-run"]) == 0
    assert "1 per device x 4 processes x 1 accumulation steps = 4 completions" in capfd.readouterr().out


def test_dry_run_is_a_table_on_a_terminal(settings, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["dapo", *write(settings), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "┏━━━" in out
    assert all(column in out for column in ("paper", "here", "section", "note"))
    assert "rollout      2 prompts" in out


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_yaml_parses(path, workspace):
    values = yaml.safe_load(path.read_text())
    module = import_module(f"trl_dapo.cli.{path.stem}")
    parser = module.make_parser()
    from_file, _ = parser.unknown_words(["--config", str(path)])
    launch._launch_args(from_file, [], parser, module.__name__)
    config = parser.parse(["--config", str(path), "--use_cpu"]).training_args
    checked = {"max_steps", "learning_rate", "num_generations", "reference_free"} & set(values)
    assert {name: getattr(config, name) for name in checked} == {name: values[name] for name in checked}


# ------------------------------------------------------------------------------------------------------------ rewards


def test_every_known_reward_is_a_function():
    config = DAPOConfig(use_cpu=True, bf16=False, max_completion_length=1280)
    functions = dict(zip(KNOWN, reward_functions(KNOWN, config), strict=True))
    assert all(callable(function) for function in functions.values())
    # At TRL's 1280 and 256: nothing up to 1024 tokens, -1 at 1280, half way -0.5
    penalty = functions["get_soft_overlong_punishment"]
    assert penalty(completion_ids=[[0] * 1024, [0] * 1152, [0] * 1280]) == [0.0, -0.5, -1.0]


def test_length_penalty_has_the_widths_of_the_config():
    config = DAPOConfig(use_cpu=True, bf16=False, max_completion_length=100, soft_punish_cache=50)
    (penalty,) = reward_functions(["get_soft_overlong_punishment"], config)
    assert penalty(completion_ids=[[0] * 50, [0] * 75, [0] * 100]) == [0.0, -0.5, -1.0]


def test_dotted_path_leads_to_the_users_function(workspace):
    config = DAPOConfig(use_cpu=True, bf16=False)
    (function,) = reward_functions(["own_rewards.length"], config)
    assert function(completion_ids=[[1, 2], [1, 1]]) == [1.0, 0.0]


def test_module_that_fails_on_import_keeps_its_error(workspace):
    (workspace / "broken_rewards.py").write_text("import no_such_dependency\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        reward_functions(["broken_rewards.reward"], DAPOConfig(use_cpu=True, bf16=False))


def test_missing_column_of_a_users_reward_is_named(workspace):
    functions = reward_functions(["own_rewards.needs_solution"], DAPOConfig(use_cpu=True, bf16=False))
    with pytest.raises(
        UsageError, match="needs_solution needs the column 'solution', and the dataset has the columns"
    ):
        check_columns(functions, ["prompt", "answer"])
    check_columns(functions, ["prompt", "solution"])


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"model_name_or_path": "./no/model"}, ["model_name_or_path=./no/model", "no such folder"]),
        ({"model_name_or_path": "data"}, ["model_name_or_path=data", "config.json"]),
        ({"model_name_or_path": "org/not-cached"}, ["model_name_or_path=org/not-cached", "cannot be reached"]),
        ({"model_name_or_path": None}, ["model_name_or_path is missing"]),
        ({"dataset_name": None}, ["dataset_name is missing"]),
        ({"dataset_name": "/no/data"}, ["dataset_name=/no/data", "no such folder"]),
        ({"dataset_name": "own_rewards.py"}, ["dataset_name=own_rewards.py is no file of rows", ".jsonl", ".parquet"]),
        ({"dataset_name": "data/tain.jsonl"}, ["dataset_name=data/tain.jsonl", "no such file"]),
        ({"dataset_name": "org/not-cached"}, ["dataset_name=org/not-cached", "cannot be loaded"]),
        ({"datasets": [{"path": "json", "data_files": "no.jsonl"}]}, ["datasets cannot be loaded", "no.jsonl"]),
        ({"datasets": [{"pth": "json"}]}, ["pth"]),
        ({"dataset_train_split": "trian"}, ["dataset_train_split=trian", "it has train, test"]),
        ({"eval_strategy": "steps", "dataset_test_split": "eval"}, ["dataset_test_split=eval", "test_split_size"]),
        ({"reward_funcs": ["acuracy_reward"]}, ["'acuracy_reward'", *KNOWN]),
        ({"reward_funcs": ["no_module.reward"]}, ["'no_module.reward'", "no module 'no_module'"]),
        ({"reward_funcs": None}, ["reward_funcs is missing"]),
        ({"reward_funcs": ["accuracy_reward"]}, ["accuracy_reward needs the column 'solution'", "prompt, answer"]),
        ({"reward_model_name_or_path": "no/such/model"}, ["reward_model_name_or_path=no/such/model"]),
        ({"num_generations": 3}, ["num_generations=3", "8 completions", "2, 4, 8"]),
        ({"generation_batch_size": 10, "steps_per_generation": None}, ["num_generations=4", "generation_batch_size"]),
        ({"num_generations": "four"}, ["--num_generations", "invalid int value: 'four'"]),
        ({"max_steps": [2]}, ["max_steps", "[2]", "not an integer"]),
        ({"num_generations": True}, ["num_generations", "True", "not an integer"]),
        ({"dtype": "float33"}, ["dtype", "'float33'", "bfloat16"]),
        ({"eval_strategy": False}, ["eval_strategy: False", "quotes"]),
        ({"lr_scheduler_type": "cosinus"}, ["cosinus", "constant_with_warmup"]),
        ({"bf16": "maybe"}, ["--bf16", "maybe"]),
        ({"learnin_rate": 1e-6}, ["--learnin_rate", "Did you mean --learning_rate?"]),
        ({"accelerate_config": "zero9"}, ["--accelerate_config", "zero9"]),
        ({"steps_per_generation": 16}, ["16 prompts", "32 different ones", "steps_per_generation"]),
        ({"soft_punish_cache": 0}, ["`soft_punish_cache`", "0"]),
        ({"updates_per_rollout": 2}, ["updates_per_rollout", "steps_per_generation"]),
        ({"dataset_streaming": True, "max_steps": -1}, ["max_steps=-1", "no length"]),
        ({"resume_from_checkpoint": "gone"}, ["resume_from_checkpoint=gone", "no such folder"]),
        ({"use_cpu": False, "bf16": True}, ["bf16"]),
    ],
)
def test_mistake_in_a_field_is_one_line(settings, capfd, fields, parts):
    values = {name: value for name, value in {**settings, **fields}.items() if value is not None}
    line = refused(write(values), capfd)
    assert all(part in line for part in parts), line


def test_dataset_without_prompts_is_refused(settings, workspace, capfd):
    (workspace / "data" / "train.jsonl").write_text('{"question": "1+1="}')
    (workspace / "data" / "test.jsonl").write_text('{"question": "1+1="}')
    line = refused(write(settings), capfd)
    assert "no column `prompt`; it has question" in line


def test_data_that_is_not_json_is_refused(settings, workspace, capfd):
    (workspace / "data" / "train.jsonl").write_text("prompt; answer\nno json")
    assert "cannot be loaded" in refused(write(settings), capfd)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [1", "not valid YAML"),
        ("- one\n- two", "a list"),
        ("", "nothing"),
        ("env: 3\n", "`env` must be a mapping"),
    ],
)
def test_malformed_config_file_is_refused(workspace, capfd, text, part):
    Path("run.yaml").write_text(text)
    assert part in refused(["--config", "run.yaml"], capfd)
    assert part in refused(["--config=run.yaml"], capfd)


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--config"], "--config needs the path"),
        (["--config", "none.yaml"], "--config none.yaml: No such file"),
        (["--max_steps", "many"], "--max_steps: invalid int value: 'many'"),
        (["--learnin_rate", "3"], "Did you mean --learning_rate?"),
        (["stray"], "stray"),
        (["--beta", "0.1"], "beta=0.1 needs a reference model"),
        (["--load_in_4bit", "--use_peft"], "load_in_4bit=True has no effect"),
        (["--num_processes", "x"], "--num_processes"),
    ],
)
def test_mistake_in_a_flag_is_one_line(workspace, capfd, argv, part):
    assert part in refused(argv, capfd)


def test_script_refuses_unknown_flags_by_itself(workspace, capfd):
    assert "unrecognized arguments: --bogus" in refused(["--bogus", "1"], capfd, run=run_script)


def test_trainer_that_refuses_leaves_no_folder(settings, workspace, capfd):
    assert run_script(write({**settings, "dynamic_sampling_metric": "accuracy"})) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("trl-dapo: error: dynamic_sampling_metric='accuracy' must name one reward function")
    assert not (workspace / "out").exists()


def test_console_script_reports_a_missing_file(workspace):
    command = [str(Path(sys.executable).parent / "trl-dapo"), "dapo", "--config", "none.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "trl-dapo: error: --config none.yaml: No such file or directory. Give the path of a YAML file.\n"
    )


def test_unreachable_hub_makes_the_run_offline(settings, capfd, monkeypatch):
    import datasets
    import huggingface_hub

    for place in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    class Unreachable:
        def repo_info(self, *args, **kwargs):
            assert kwargs["timeout"] <= 10
            raise ConnectionError("no route to host")

    monkeypatch.setattr(hub.huggingface_hub, "HfApi", Unreachable)
    line = refused(write({**settings, "model_name_or_path": "org/not-cached"}), capfd)
    assert "the Hub cannot be reached" in line
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    assert datasets.config.HF_HUB_OFFLINE


def test_other_ranks_of_a_machine_stay_silent(workspace, capfd, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run_script(["--max_steps", "many"]) == 2
    assert capfd.readouterr().err == ""


def test_batch_of_all_processes_counts():
    values = {
        "generation_batch_size": None,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": None,
        "updates_per_rollout": 2,
        "num_generations": 8,
    }
    check_batch(values, processes=4)
    with pytest.raises(UsageError, match=r"2 completions \(per_device_train_batch_size 1 x 1 processes x 2 steps"):
        check_batch(values, processes=1)


def test_words_for_accelerate_are_taken_out_in_order():
    words = ["--seed", "2", "--num_processes", "2", "--max_steps", "2"]
    assert without_words(words, ["--num_processes", "2"]) == ["--seed", "2", "--max_steps", "2"]


def test_launcher_leaves_the_device_alone(settings, monkeypatch):
    parser = make_parser()
    parser.plan_for(4)
    PartialState._reset_state()
    config = parser.parse(write({**settings, "per_device_train_batch_size": 1})).training_args
    assert config.world_size == 4
    assert PartialState._shared_state == {}
