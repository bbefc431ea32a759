"""Bad input of every kind on the command line: one line that names field, value and fix, and exit code 2."""

# ruff: noqa: F811
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from test_cli import model_dir, refused, settings, workspace, write  # noqa: F401
from test_cli_preferences import settings as pair_settings  # noqa: F401
from test_reward_adapter import reward_adapter
from trl_dapo.cli import demo
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.errors import UsageError
from trl_dapo.cli.launch_words import launch_words
from trl_dapo.cli.main import main
from trl_dapo.cli.reward_names import check_reward_names
from trl_dapo.cli.script import make_parser
from trl_dapo.cli.spelling import OTHER_NAMES, nearest
from trl_dapo.cli.unfinished import none_left


ROWS = [json.dumps({"prompt": f"{i}+{i}=", "answer": str(2 * i)}) for i in range(16)]
GOOD = ("\n".join(ROWS) + "\n").encode()


# --------------------------------------------------------------------------------------------------- types in the file


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"model_name_or_path": 7}, ["model_name_or_path: 7", "not text", "quotes"]),
        ({"dataset_name": 3}, ["dataset_name: 3", "quotes"]),
        ({"dataset_config": 2024}, ["dataset_config: 2024", "quotes"]),
        ({"reward_funcs": 5}, ["reward_funcs: 5", "a list"]),
        ({"reward_funcs": [1, 2]}, ["reward_funcs: [1, 2]", "entries"]),
        ({"reward_funcs": {"a": 1}}, ["reward_funcs", "a list"]),
        ({"resume_from_checkpoint": 12}, ["resume_from_checkpoint: 12", "quotes"]),
        ({"output_dir": 4}, ["output_dir: 4"]),
        ({"run_name": ["a"]}, ["run_name: ['a']", "not text"]),
        ({"per_device_train_batch_size": None}, ["per_device_train_batch_size: None", "Leave it out"]),
        ({"max_steps": 1.5}, ["max_steps: 1.5", "not an integer"]),
        ({"bf16": 7}, ["bf16: 7", "true or false"]),
        ({"reward_weights": 1.0}, ["reward_weights: 1.0", "a list"]),
        ({"reward_weights": ["x"]}, ["reward_weights: ['x']"]),
        ({"generation_kwargs": [1]}, ["generation_kwargs: [1]", "mapping"]),
        ({"model_init_kwargs": {1: 2}}, ["model_init_kwargs"]),
        ({"lora_target_modules": [3]}, ["lora_target_modules: [3]"]),
        ({"datasets": {"path": "json"}}, ["datasets", "not a list"]),
        ({"datasets": ["json"]}, ["datasets[0]: 'json'", "mapping"]),
        ({"datasets": [{"path": 3}]}, ["datasets[0].path: 3", "quotes"]),
        ({"datasets": [{"data_files": "x"}]}, ["datasets[0]: path is missing"]),
        ({"datasets": [{"path": "json", "fraction": "half"}]}, ["datasets[0].fraction: 'half'", "a number"]),
        ({"datasets": [{"path": "json", "split": None}]}, ["datasets[0].split: None"]),
    ],
)
def test_a_value_of_the_wrong_type_is_named(settings, capfd, fields, parts):
    line = refused(write_null({**settings, **fields}), capfd)
    assert all(part in line for part in parts), line


def write_null(values: dict) -> list[str]:
    import yaml

    Path("run.yaml").write_text(yaml.safe_dump(values))
    return ["--config", "run.yaml"]


def test_null_that_trl_documents_and_true_for_the_last_checkpoint_are_taken(settings):
    argv = write_null({**settings, "top_k": None, "min_p": None, "resume_from_checkpoint": True})
    args = make_parser(COMMANDS["dapo"]).parse(argv).training_args
    assert (args.top_k, args.min_p, args.resume_from_checkpoint) == (None, None, True)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("1: 2\n", "the key 1 is not text"),
        ("true: 2\n", "the key True is not text"),
        ("? \n: 2\n", "the key None is not text"),
        ("2024-01-01: 2\n", "is not text"),
        ("[1, 2]: 3\n", "is not"),
        ("env: {1: 2}\n", "`env` has 1: 2"),
        ("env: {A=B: 2}\n", "`env` has 'A=B'"),
        ("env: {A: [1]}\n", "`env` has 'A': [1]"),
        ("a: 2024-13-45\n", "--config"),
        ("a: !!python/object:os.system x\n", "not valid YAML"),
        ("[" * 3000, "not valid YAML"),
        ("seed: !!binary aGVsbG8=\n", "seed: b'hello'"),
    ],
)
def test_a_file_that_is_no_mapping_of_fields_is_refused(workspace, capfd, text, part):
    Path("run.yaml").write_text(text)
    assert part in refused(["--config", "run.yaml"], capfd)


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--config", "."], "--config .:"),
        (["--config", "a", "--config=b"], "more than once"),
        (["--config", "a\0b"], "--config"),
        (["--num_processes", "0"], "num_processes must be at least 1, got 0"),
        (["--num_processes", "-3"], "num_processes must be at least 1, got -3"),
        (["--output_dir", "here/is/file/x", "--max_steps", "1"], "not a folder"),
        (["--output_dir", "a\0b"], "output_dir"),
        (["--learning_rate", "nan"], "`learning_rate`"),
        (["--per_device_train_batch_size", "0"], "`per_device_train_batch_size`"),
        (["--per_device_train_batch_size", "-4"], "`per_device_train_batch_size`"),
        (["--gradient_accumulation_steps", "0"], "`gradient_accumulation_steps`"),
        (["--num_generations", "0"], "`num_generations`"),
        (["--temperature", "-1"], "`temperature`"),
        (["--loss_type", "dappo"], "loss_type"),
        (["--deepspeed", "none.json", "--dry-run"], "deepspeed=none.json: there is no such file"),
        (["--model_init_kwargs", "{bad"], "model_init_kwargs: '{bad' is not valid JSON"),
        (["--generation_kwargs", "foo"], "generation_kwargs: 'foo' is not a mapping"),
        (["--pad_to_multiple_of", "x"], "pad_to_multiple_of: 'x'"),
        (["--lr_scheduler_kwargs", '{"foo": 1}'], "lr_scheduler_kwargs={'foo': 1}"),
        (
            ["--lr_scheduler_kwargs", '{"foo": 1}', "--lr_scheduler_type", "cosine"],
            "unexpected keyword argument 'foo'",
        ),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "lr_scheduler_type=cosine_with_min_lr"),
        (["--optim_args", "bogus"], "optim_args='bogus' (it is name=value"),
        (["--optim", "galore_adamw"], "optim=galore_adamw"),
        (["--use_liger_kernel"], "use_liger_kernel=True needs liger-kernel"),
        (["--gradient_checkpointing_kwargs", '{"foo": 1}'], "gradient_checkpointing_kwargs has 'foo'"),
        (["--quiet", "--num_cpu_threads_per_process", "x"], "--num_cpu_threads_per_process"),
    ],
)
def test_a_flag_that_cannot_be_meant_is_refused(workspace, capfd, argv, part):
    Path("here/is").mkdir(parents=True)
    Path("here/is/file").write_text("")
    assert part in refused(argv, capfd)


# ---------------------------------------------------------------------------------------------------------- data files


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.jsonl", b"", ["a.jsonl is empty (0 bytes)"]),
        ("a.jsonl", b"\n\n", ["a.jsonl has no rows"]),
        ("a.jsonl", GOOD[:-9], ["a.jsonl, line 16: not valid JSON"]),
        ("a.jsonl", GOOD + '{"prompt": "é"}\n'.encode("latin-1"), ["a.jsonl, line 17: byte 0xe9 is not UTF-8"]),
        ("a.jsonl", b"\x80" * 99, ["a.jsonl, line 1: byte 0x80 is not UTF-8"]),
        ("a.jsonl", b"\0" * 99, ["a.jsonl, line 1", "not a text file"]),
        ("a.jsonl", GOOD + b"[1, 2]\n", ["a.jsonl, line 17: a row must be a JSON object, and this is a list"]),
        ("a.json", b"[" + b",\n".join(GOOD.split(b"\n")[:3]), ["a.json, line 3: not valid JSON"]),
        ("a.json", b'[{"prompt": "x"}, 3]', ["a.json, row 1: a row must be a JSON object, not a int"]),
        ("a.csv", "prompt,answer\né,1\n".encode("latin-1"), ["a.csv, line 2: byte 0xe9 is not UTF-8"]),
        ("a.csv", b"prompt,answer\n1,2\n1,2,3,4\n", ["Expected 2 fields in line 3, saw 4"]),
        ("a.parquet", b"PAR1" + b"x" * 99, ["a.parquet is cut short"]),
        ("a.parquet", b"hello", ["a.parquet is not a Parquet file"]),
        ("a.jsonl.gz", gzip.compress(GOOD)[:-12], ["a.jsonl.gz: Compressed file ended before"]),
        ("a.jsonl.gz", b"hello", ["a.jsonl.gz: Not a gzipped file"]),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_data_file_that_cannot_be_read_is_named_with_line_and_cause(
    settings,
    workspace,
    capfd,
    name,
    content,
    parts,
    streamed,
):
    for path in (workspace / "data").iterdir():
        path.unlink()
    (workspace / "data" / name).write_bytes(content)
    line = refused(write({**settings, "dataset_streaming": streamed}), capfd)
    assert "dataset_name=" in line
    assert all(part in line for part in parts), line


def test_an_empty_file_beside_others_is_not_left_out_in_silence(settings, workspace, capfd):
    (workspace / "data" / "train-2.jsonl").write_text("")
    assert "train-2.jsonl is empty (0 bytes)" in refused(write(settings), capfd)


def test_files_of_a_mixture_are_looked_at_too(settings, workspace, capfd):
    (workspace / "data" / "train.jsonl").write_bytes(GOOD[:-9])
    del settings["dataset_name"]
    for files in ("data/train.jsonl", ["data/*.jsonl"], {"train": "data/train.jsonl"}):
        line = refused(write({**settings, "datasets": [{"path": "json", "data_files": files}]}), capfd)
        assert "datasets cannot be loaded: data/train.jsonl, line 16: not valid JSON" in line


@pytest.mark.parametrize("command", ["reward", "dpo"])
@pytest.mark.parametrize("streamed", [False, True])
def test_preferences_that_cannot_be_read_are_named(pair_settings, capfd, command, streamed):
    with Path("data/train.jsonl").open("ab") as file:
        file.write(b"\n\xe9")
    capfd.readouterr()
    Path("data/train.jsonl").write_bytes(b"\xe9" + Path("data/train.jsonl").read_bytes())
    assert main([command, *write({**pair_settings, "dataset_streaming": streamed})]) == 2
    assert "train.jsonl, line 1: byte 0xe9 is not UTF-8" in capfd.readouterr().err


# ------------------------------------------------------------------------------------------------------- model folders


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("model.safetensors", "model.safetensors is cut short"),
        ("config.json", "config.json is not valid JSON"),
        ("tokenizer.json", "tokenizer.json is not valid JSON"),
    ],
)
def test_a_cut_file_of_a_model_is_named(settings, model_dir, capfd, command, file, part):
    Path("copy").mkdir()
    for path in Path(model_dir).iterdir():
        content = path.read_bytes()
        Path("copy", path.name).write_bytes(content[: len(content) // 2] if path.name == file else content)
    shared = ("dataset_name", "use_cpu", "bf16")
    own = settings if command in ("dapo", "grpo", "ppo") else {name: settings[name] for name in shared}
    capfd.readouterr()
    assert main([command, *write({**own, "model_name_or_path": "copy"})]) == 2
    assert f"model_name_or_path=copy: {part}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"use_peft": True, "lora_task_type": "BOGUS"}, "Invalid task type: 'BOGUS'"),
        ({"use_peft": True, "lora_r": -3}, "-3"),
        ({"model_init_kwargs": {"foo": 1}}, "'foo'"),
        ({"report_to": "wandb"}, "WandbCallback requires wandb to be installed"),
        ({"attn_implementation": "bogus"}, "bogus"),
        (
            {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
            | {"load_best_model_at_end": True, "metric_for_best_model": "bogus"},
            "metric_for_best_model",
        ),
    ],
)
def test_settings_that_a_trainer_trips_over_are_one_line(settings, capfd, fields, part):
    from trl_dapo.cli.grpo import run_script

    capfd.readouterr()
    assert run_script(write({**settings, **fields})) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("trl-dapo: error: ")
    assert part in last


def test_a_missing_shard_is_named(settings, model_dir, capfd):
    Path("copy").mkdir()
    Path("copy/config.json").write_text("{}")
    Path("copy/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "model-1-of-2.safetensors"}}))
    line = refused(write({**settings, "model_name_or_path": "copy"}), capfd)
    assert "model-1-of-2.safetensors, which model.safetensors.index.json names, is missing" in line


# ------------------------------------------------------------------------------------------------------ reward adapter


def test_a_reward_adapter_is_reward_enough(settings, workspace):
    reward_adapter(workspace / "reward-model")
    del settings["reward_funcs"]
    argv = [*write(settings), "--use_peft", "--reward_adapter", "reward-model", "--num_generations", "1"]
    from trl_dapo.cli import ppo

    assert ppo.run_script([*argv, "--lora_target_modules", "all-linear", "--max_steps", "1"]) == 0
    assert Path("out/adapter_config.json").is_file()


def test_on_the_built_in_task_a_reward_adapter_is_the_only_reward():
    script_args = make_parser(COMMANDS["ppo"]).parse(["--reward_adapter", "reward-model"]).script_args
    assert script_args.reward_funcs is None
    assert make_parser(COMMANDS["ppo"]).parse([]).script_args.reward_funcs == ["arena_accuracy"]


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--reward_adapter", "nowhere", "--use_peft"], "reward_adapter='nowhere'"),
        (["--reward_adapter", "reward-model"], "Add use_peft"),
        (["--reward_adapter", "cut", "--use_peft"], "reward_adapter=cut"),
        ([], "reward_model_name_or_path or reward_adapter"),
    ],
)
def test_a_reward_adapter_that_cannot_be_used_is_told_before_a_start(settings, workspace, capfd, argv, part):
    for name in ("reward-model", "cut"):
        reward_adapter(workspace / name)
    weights = workspace / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    del settings["reward_funcs"]
    line = refused([*write(settings), *argv], capfd, run=lambda words: main(["ppo", *words]))
    assert part in line


# ----------------------------------------------------------------------------------------------------------- launching


def launched(monkeypatch, argv: list[str]):
    seen = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", seen.append)
    assert main(["dapo", *argv]) == 0
    return seen[0]


@pytest.mark.parametrize("spelling", [["--accelerate_config=zero3"], ["--accelerate_config", "zero3"]])
def test_accelerate_config_of_a_flag_wins_over_the_files(settings, monkeypatch, spelling):
    settings |= {"accelerate_config": "zero2", "per_device_train_batch_size": 8}
    args = launched(monkeypatch, [*write(settings), *spelling, "--num_processes", "1"])
    assert Path(args.config_file).name == "zero3.yaml"
    assert not any("accelerate_config" in word for word in args.training_script_args)


def test_the_last_of_several_accelerate_configs_wins(settings, monkeypatch):
    words = ["--accelerate_config", "zero2", "--accelerate_config=zero3", "--num_processes", "1"]
    assert Path(launched(monkeypatch, [*write(settings), *words]).config_file).name == "zero3.yaml"


def test_other_options_of_accelerate_follow_the_same_order(settings, monkeypatch):
    settings |= {"num_processes": 4, "main_process_port": 1, "multi_gpu": False, "config_file": "no.yaml"}
    argv = [*write(settings), "--num_processes=1", "--accelerate_config=single_gpu"]
    args = launched(monkeypatch, argv)
    assert (args.num_processes, args.main_process_port, args.multi_gpu) == (1, 1, False)
    assert Path(args.config_file).name == "single_gpu.yaml"


@pytest.mark.parametrize("content", ["", "- 1", "a: [", "num_processes: x", "\x00"])
def test_an_accelerate_config_that_cannot_be_read_is_one_line(workspace, capfd, content):
    Path("acc.yaml").write_text(content)
    code = main(["dapo", "--accelerate_config", "acc.yaml", "--dry-run"])
    assert code in (0, 2)
    assert "Traceback" not in capfd.readouterr().err


def test_a_flag_of_accelerate_in_the_file_is_true_or_false():
    from accelerate.commands.launch import launch_command_parser

    parser = launch_command_parser()
    assert launch_words(["--multi_gpu", "True", "--cpu", "False"], [], parser) == ["--multi_gpu"]
    with pytest.raises(UsageError, match="multi_gpu: '3'"):
        launch_words(["--multi_gpu", "3"], [], parser)


SLEEPER = """
import sys, subprocess, time
from pathlib import Path
from trl_dapo.cli.children import Ended, ended_with_us
{setup}
try:
    with ended_with_us():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path("pid").write_text(str(child.pid))
        child.wait()
except Ended as ended:
    sys.exit(128 + ended.number)
"""


def start_sleeper(folder: Path, setup: str = "") -> tuple[subprocess.Popen, psutil.Process]:
    # A job in the background inherits that SIGINT is ignored, and one under nohup that SIGHUP is
    heard = "import signal; [signal.signal(one, signal.SIG_DFL) for one in (signal.SIGHUP, signal.SIGINT)]"
    heard += "; signal.signal(signal.SIGINT, signal.default_int_handler)"
    process = subprocess.Popen([sys.executable, "-c", SLEEPER.format(setup=f"{heard}\n{setup}")], cwd=folder)
    while not (folder / "pid").is_file() or not (folder / "pid").read_text():
        time.sleep(0.02)
        assert process.poll() is None
    return process, psutil.Process(int((folder / "pid").read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_launcher_ends_what_it_launched(tmp_path, number):
    process, child = start_sleeper(tmp_path)
    process.send_signal(number)
    code = process.wait(20)
    assert code in ({128 + number} if number != signal.SIGINT else {1, -number})
    assert not child.is_running()


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    process, child = start_sleeper(tmp_path, "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    assert child.is_running()
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert not child.is_running()


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--num_processes", "2"]])
def test_a_real_run_ends_with_its_launcher(tmp_path, words):
    command = [str(Path(sys.executable).parent / "trl-dapo"), "dapo", "--max_steps", "100000", "--cpu", *words]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (below := psutil.Process(process.pid).children(recursive=True)) and time.time() < deadline:
        time.sleep(0.2)
    time.sleep(5)
    below = psutil.Process(process.pid).children(recursive=True)
    assert below
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


# ------------------------------------------------------------------------------------------------------------- hints


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("torch_dtype", "dtype"),
        ("evaluation_strategy", "eval_strategy"),
        ("learnin_rate", "learning_rate"),
        ("learning-rat", "learning_rate"),
        ("max_step", "max_steps"),
        ("numgenerations", "num_generations"),
        ("output_dri", "output_dir"),
        ("per_devise_train_batch_size", "per_device_train_batch_size"),
        # Each of these means something else than the option that looks like it
        ("torch_compiler_dtype", None),
        ("top_n", None),
        ("min_steps", None),
        ("tf16", None),
        ("bf32", None),
        ("load_in_2bit", None),
        ("adam_beta3", None),
        ("max_prompt_length", None),
        ("min_completion_length", None),
        ("skip_unsolved_above", None),
        ("epsilon_higher", None),
        ("bogus", None),
    ],
)
def test_a_hint_never_points_to_another_meaning(word, hint):
    options = {f"--{action.dest}" for action in make_parser(COMMANDS["dapo"])._actions}
    assert nearest(f"--{word}=3", options) == (hint and f"--{hint}")


def test_other_names_lead_to_fields():
    known = {action.dest for command in COMMANDS.values() for action in make_parser(command)._actions}
    assert set(OTHER_NAMES.values()) <= known
    assert not set(OTHER_NAMES) & known


# ------------------------------------------------------------------------------------------------------------- rewards


def test_looking_for_a_reward_imports_no_package(workspace):
    for folder in ("own_package", "own_package/inner", "loose/inner"):
        Path(folder).mkdir(parents=True)
    for file in ("own_package/__init__.py", "own_package/inner/__init__.py", "own_package/inner/rewards.py"):
        Path(file).write_text("raise RuntimeError('imported')")
    Path("loose/inner/rewards.py").write_text("raise RuntimeError('imported')")
    check_reward_names(["own_package.inner.rewards.f", "loose.inner.rewards.f"])
    assert not {"own_package", "loose"} & set(sys.modules)
    for wrong in ("own_package.none.f", "own_package.inner.rewards.deeper.f", "loose.none.f", "own_rewards.a.f"):
        with pytest.raises(UsageError, match=rf"'{wrong}' cannot be imported"):
            check_reward_names([wrong])


@pytest.mark.parametrize("name", [".x", "x.", "a..b", "..", "1.f", "a b.c", "__main__.x.y", "os.path.sep.x", ""])
def test_a_name_that_is_no_path_is_refused(workspace, name):
    with pytest.raises(UsageError, match="reward_funcs"):
        check_reward_names([name])


# ----------------------------------------------------------------------------------------------------------- the demo


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--seed", "-1"], "--seed must be between 0"),
        (["--seed", str(2**32)], "--seed must be between 0"),
        (["--seeds", "0"], "--seeds"),
        (["--learning_rate", "inf"], "--learning_rate"),
        (["--learning_rate", "nan"], "--learning_rate"),
        (["--output_dir", "file/x"], "file is a file, not a folder"),
        (["--output_dir", "file"], "file is a file, not a folder"),
        (["--output_dir", "link/x"], "link is a broken link"),
        (["--output_dir", "/proc/none/x"], "--output_dir /proc/none/x"),
        (["--output_dir", "x" * 300], "--output_dir"),
        (["--completions", "1e3"], "--completions"),
    ],
)
def test_the_demo_refuses_before_it_trains(tmp_path, monkeypatch, capfd, argv, part):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("link").symlink_to("nowhere")
    monkeypatch.setattr(demo, "_run", lambda options: pytest.fail("trained"))
    assert main(["demo", *argv]) == 2
    err = capfd.readouterr().err
    assert part in err
    assert err.count("\n") == 1


# --------------------------------------------------------------------------------------------------------- a full disk


def full_after(size: int):
    """No file of this process may grow beyond the size, as if the disk were full."""
    import resource
    from contextlib import contextmanager

    @contextmanager
    def limited():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited()


@pytest.mark.parametrize("saving", [{}, {"save_strategy": "steps", "save_steps": 1}])
def test_a_full_disk_leaves_no_folder_that_looks_like_a_model(settings, capfd, saving):
    from trl_dapo.cli.dapo import run_script

    argv = write({**settings, **saving, "report_to": "none"})
    capfd.readouterr()
    with full_after(4096):
        assert run_script(argv) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert "there is no room for what is saved there" in last
    # What the run needed, and nothing of a model
    left = {path.name for path in Path("out").rglob("*") if path.is_file()}
    assert left <= {"memory_and_time.json", "command.json", "findings.json"}


def test_files_of_before_and_whole_checkpoints_stay(tmp_path):
    out = tmp_path / "out"
    for name in ("checkpoint-1", "checkpoint-2"):
        (out / name).mkdir(parents=True)
    (out / "checkpoint-1" / "trainer_state.json").write_text("{}")
    (out / "notes.txt").write_text("mine")

    def fail():
        (out / "config.json").write_text("{}")
        (out / "checkpoint-3").mkdir()
        raise OSError(5, "other")

    with pytest.raises(OSError, match="other"), none_left(out, "model"):
        fail()
    # checkpoint-2 was torn before: it is not this run's to remove
    assert sorted(os.listdir(out)) == ["checkpoint-1", "checkpoint-2", "notes.txt"]
