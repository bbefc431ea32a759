"""Rewinding a run of two processes: branches of two processes are the run bit for bit, others are refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rewinding import WORDS, rewind
from trl_dapo.cli.command_file import FILE


pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
TWO = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
LAUNCHED = [*TWO, "--dynamo_backend", "no", "--main_process_port", "0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two processes, with a checkpoint inside a rollout and one at the end of another."""
    folder = tmp_path_factory.mktemp("rewind") / "run"
    words = {**WORDS, "max_steps": "6", "per_device_train_batch_size": "8", "live_view": "off"}
    own = [word for name, value in words.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "trl_dapo.cli.main", "dapo", "--output_dir", str(folder), *own, *LAUNCHED]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=_environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    for name, value in _environment().items():
        monkeypatch.setenv(name, value)
    return Path(shutil.copytree(trained, tmp_path / "run"))


def _environment() -> dict[str, str]:
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}


def _change_start(run: Path, **values) -> None:
    written = json.loads((run / FILE).read_text())
    written["starts"][0] |= values
    (run / FILE).write_text(json.dumps(written))


def test_the_unchanged_branch_of_two_processes_is_the_run_bit_for_bit(run, capsys):
    start = json.loads((run / FILE).read_text())["starts"][0]
    assert (start["processes"], start["launch"]) == (2, LAUNCHED)
    # From the middle of a rollout, of which each process holds its own rows
    assert {path.name for path in (run / "checkpoint-3").glob("dapo_rank_*")} == {"dapo_rank_0.pt", "dapo_rank_1.pt"}
    assert rewind(run, "--to", "3", "--set", "epsilon=0.01") == 0, capsys.readouterr().err
    report = json.loads((run / "rewind" / "3-report" / "futures.json").read_text())
    proof = report["proof"]
    assert report["causal"] is True, proof["difference"]
    assert (proof["base"], proof["last"], proof["checkpoints"], proof["difference"]) == (3, 6, [6], None)
    branch = run / "rewind" / "3-as-it-was" / "run" / "checkpoint-6"
    assert {path.name for path in branch.glob("dapo_rank_*")} == {"dapo_rank_0.pt", "dapo_rank_1.pt"}
    assert "is the run, bit for bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "words", "told"),
    [
        # Started by torchrun, which leaves no words of `accelerate launch`
        ({"launch": []}, [], "the run had 2 processes, and its command starts 1 here: another launcher"),
        ({"launch": [*LAUNCHED, "--num_machines", "2"]}, [], "the run had 2 machines, and a rewind starts all"),
        (
            {},
            ["--", "dapo", "--max_steps", "6", "--updates_per_rollout", "2"],
            "was saved by 2 processes, and the run's command starts 1: it would not go on with the same random",
        ),
    ],
)
def test_another_number_of_processes_is_refused_in_one_line(run, capsys, values, words, told):
    _change_start(run, **values)
    before = sorted(run.rglob("*"))
    assert rewind(run, "--to", "3", "--set", "epsilon=0.01", *words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len([line for line in error.splitlines() if line.startswith("trl-dapo: error:")]) == 1
    assert sorted(run.rglob("*")) == before
