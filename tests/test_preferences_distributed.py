"""The trainers of preferences on two processes over gloo: the numbers of one process with the same batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trl_dapo.reward_model.statistics import RewardStatistics


pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
OURS = {
    "reward": ["calibration_error", "brier_score", "ties", "reward_length_correlation"],
    "dpo": ["implicit_advantage/mean", "implicit_advantage/frac_below_0.05"],
    "free": ["implicit_advantage/mean", "implicit_advantage/frac_below_0.05"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("distributed")
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    worker = [str(HERE / "preference_worker.py"), str(target)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for command in ([sys.executable, *worker], [*launcher, *worker]):
        ended = subprocess.run(command, env=environment, timeout=300, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr[-4000:]
    return target


def result(folder, name, processes, rank=0):
    return json.loads((folder / f"{name}-{processes}-{rank}.json").read_text())


@pytest.mark.parametrize("name", OURS)
def test_two_processes_agree_with_one(folder, name):
    one, first, second = result(folder, name, 1), result(folder, name, 2), result(folder, name, 2, rank=1)
    assert first["parameters"] == second["parameters"]
    for key, values in one["parameters"].items():
        assert first["parameters"][key] == pytest.approx(values, abs=1e-5)
    for alone, shared in zip(one["logs"], first["logs"], strict=True):
        for metric in ("loss", *OURS[name]):
            assert shared[metric] == pytest.approx(alone[metric], abs=1e-4, nan_ok=True)


def test_an_evaluation_counts_each_pair_once(folder):
    # 7 pairs on two processes are 8 rows, one of them twice
    for metric in OURS["reward"]:
        alone, shared = (result(folder, "reward", processes)["evaluation"] for processes in (1, 2))
        assert shared[f"eval_{metric}"] == pytest.approx(alone[f"eval_{metric}"], abs=1e-4)


def test_the_statistics_are_of_the_rows_of_both(folder):
    alone, shared = (RewardStatistics.load(folder / f"reward-{processes}") for processes in (1, 2))
    assert shared.rows == alone.rows == 24
    assert (shared.mean, shared.std) == pytest.approx((alone.mean, alone.std), abs=1e-5)
