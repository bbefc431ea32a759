"""`command.json`: what is kept of a start, what is left out, and what stands there after a resume."""

import json
import os
import socket

import psutil
import pytest

from rewinding import train
from trl_dapo.cli.command_file import FILE, LAUNCH_WORDS, Process, read_starts, start_at, started, write_start
from trl_dapo.cli.errors import UsageError


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def start(from_step: int = 0, **values):
    return started("dapo", values, {}, [], 1, from_step)


def test_a_run_writes_what_the_user_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(LAUNCH_WORDS, '["--num_processes", "1"]')
    (tmp_path / "run.yaml").write_text("epsilon_high: 0.3\nseed: 5\nenv:\n  SOME_TOKEN: abc\n  OTHER: 1\n")
    train("out", config="run.yaml", seed="7", max_steps="1", save_strategy="no", hub_token="hf_secret")
    (one,), process = read_starts(tmp_path / "out")
    # The command line over the file, with the types of the fields
    assert (one.command, one.values["epsilon_high"], one.values["seed"], one.values["max_steps"]) == (
        "dapo",
        0.3,
        7,
        1,
    )
    assert one.values["output_dir"] == str(tmp_path / "out")
    assert (one.folder, one.processes, one.threads, one.from_step) == (str(tmp_path), 1, 1, 0)
    assert (one.launch, one.env) == (["--num_processes", "1"], {"OTHER": "1"})
    assert set(one.versions) == {"trl_dapo", "trl", "transformers", "torch"}
    assert sorted(one.left_out) == ["SOME_TOKEN", "hub_token"]
    assert (process.pid, process.host) == (os.getpid(), socket.gethostname())
    assert "hf_secret" not in (tmp_path / "out" / FILE).read_text()
    assert "config" not in one.values


def test_a_start_at_a_checkpoint_stands_beside_the_first(tmp_path):
    folder = train(tmp_path / "out", max_steps="4", save_steps="2")
    train(folder, max_steps="6", save_steps="2", resume_from_checkpoint="true")
    starts, _ = read_starts(folder)
    assert [one.from_step for one in starts] == [0, 4]
    assert "resume_from_checkpoint" not in starts[1].values
    assert start_at(starts, 2) == (starts[0], 4)
    assert start_at(starts, 4) == (starts[1], None)
    # The same words once more: nothing to add
    train(folder, max_steps="6", save_steps="2", resume_from_checkpoint="true")
    assert len(read_starts(folder)[0]) == 2
    # Anew: the old ones are of another run
    train(folder, max_steps="1", save_strategy="no")
    assert [one.values["max_steps"] for one in read_starts(folder)[0]] == [1]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"hub_token": "x"}, ["hub_token"]),
        ({"push_to_hub_token": "x"}, ["push_to_hub_token"]),
        ({"model_init_kwargs": {"token": "x", "a": 1}}, ["token"]),
        ({"model_init_kwargs": '{"token": "x", "a": 1}'}, ["token"]),
        ({"run_name": "hf_abcdefghijklmnopqrstuvwxyz"}, ["run_name"]),
        ({"vllm_server_base_url": "http://me:pass@host/v1"}, ["vllm_server_base_url"]),
        ({"wandb_api_key": "x"}, ["wandb_api_key"]),
        ({"eos_token": "<end>", "pad_token": "<pad>", "max_tokens_per_microbatch": 9, "hub_token": None}, []),
    ],
)
def test_what_is_secret_is_left_out(values, names):
    one = start(**values)
    assert one.left_out == names
    text = json.dumps(one.values)
    assert not any(secret in text for secret in ('"x"', "hf_abc", "me:pass"))
    assert names or one.values == values


def test_paths_that_are_there_are_absolute_and_names_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("rows.jsonl", "gsm8k"):
        (tmp_path / name).mkdir()
    one = start(dataset_name="rows.jsonl", output_dir="out", reward_adapter="not/there")
    assert one.values == {
        "dataset_name": str(tmp_path / "rows.jsonl"),
        "output_dir": str(tmp_path / "out"),
        "reward_adapter": "not/there",
    }
    # A name of a data set, beside a folder that is called like it
    assert start(dataset_name="gsm8k").values == {"dataset_name": "gsm8k"}


def test_a_process_that_ended_is_not_running():
    parent = psutil.Process(os.getppid())
    own = Process(parent.pid, parent.create_time(), socket.gethostname())
    assert own.is_running
    assert not Process(own.pid, own.started - 1, own.host).is_running
    assert not Process(own.pid, own.started, "elsewhere").is_running
    assert not Process.this().is_running


def test_a_file_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trl_dapo.cli.command_file.write_whole", full)
    with pytest.raises(UsageError, match=r"command\.json cannot be written: No space left on device"):
        write_start(tmp_path, start(), Process.this())


@pytest.mark.parametrize("text", ["", "[]", '{"version": 9}', '{"version": 1, "starts": [{}], "process": {}}'])
def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UsageError, match="Give the run's command after --"):
        read_starts(tmp_path)
