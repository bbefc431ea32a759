"""`trl-dapo ablate` as processes: runs, results, a second start, failures, Ctrl-C and kill -9."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from trl_dapo.ablation.results import find_results, read_result


# Two rows, and two rollouts of 4 x 4 completions each
SMALL = [
    *("--vary", "dynamic_sampling=false,true", "--seeds", "1", "--samples", "32", "--match", "samples", "steps"),
    *("--steps", "3", "--held_out_size", "6", "--held_out_k", "2", "--num_generations", "4"),
    *("--per_device_train_batch_size", "8", "--updates_per_rollout", "2", "--save_steps", "1"),
]


def words(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "trl_dapo.cli.main", "ablate", *SMALL, "--output_dir", str(folder), *more]


def run(folder: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(words(folder, *more), capture_output=True, text=True, timeout=300)


def without_seconds(value):
    if isinstance(value, dict):
        unlike = ("second", "step_time", "_dir", "ablation_run", "resume_from_checkpoint", "commit")
        kept = {name: one for name, one in value.items() if not any(part in name for part in unlike)}
        return {name: without_seconds(one) for name, one in kept.items()}
    return [without_seconds(one) for one in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, dict]:
    files = sorted(folder.glob("runs/*/seed-*/result.json"))
    return {str(file.relative_to(folder)): without_seconds(json.loads(file.read_text())) for file in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    done = run(folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Report:" in done.stdout
    return folder


@pytest.mark.slow
def test_a_run_leaves_its_result_config_and_log(finished):
    folders = sorted(finished.glob("runs/*/seed-0"))
    assert [folder.parent.name.split("-")[0] for folder in folders] == [
        "dynamic_sampling_False",
        "dynamic_sampling_True",
    ]
    for folder in folders:
        assert {"config.yaml", "run.json", "result.json", "log.txt"} <= {path.name for path in folder.iterdir()}
        assert not (folder / "training").exists()
        result = read_result(folder / "result.json")
        assert set(result.ends) == {"samples", "steps"}
        assert result.ends["steps"].steps == 3
        assert result.ends["samples"].completions >= 32
        assert len(result.ends["samples"].data_sets["arena"].questions) == 6
        assert result.start == "default-0"
        assert result.environment["torch"]
        assert result.config["learning_rate"] == 2e-4
        assert "dapo/weight_moved" in result.manipulation
    names = {path.name for path in (finished / "report").iterdir()}
    assert {"table.md", "table.csv", "table.tex", "results.json", "index.html", "figures"} <= names


@pytest.mark.slow
def test_a_second_start_runs_nothing_and_reports_the_same(finished):
    table, stamps = (finished / "report" / "table.md").read_text(), {}
    for file in finished.glob("runs/*/*/result.json"):
        stamps[file] = file.stat().st_mtime_ns
    again = run(finished)
    assert again.returncode == 0, again.stderr[-2000:]
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps
    assert (finished / "report" / "table.md").read_text() == table


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(tmp_path):
    assert run(tmp_path, "--prepare").returncode == 0
    broken = next(tmp_path.glob("runs/dynamic_sampling_False*/seed-0"))
    (broken / "training").mkdir()
    # A checkpoint that was finished once and is damaged
    (broken / "training" / "checkpoint-1").mkdir()
    (broken / "training" / "checkpoint-1" / "trainer_state.json").write_text("{}")
    done = run(tmp_path)
    assert done.returncode == 1
    assert "failed: dynamic_sampling=False, seed 0" in done.stderr
    assert len(find_results(tmp_path / "runs").runs) == 1


def runs_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "trl_dapo.cli.ablate_run" in line and any(str(folder) in word for word in line):
            found.append(process)
    return found


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path, finished):
    process = subprocess.Popen(words(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not runs_of(tmp_path):
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err[-2000:]
    assert "The same command goes on." in out
    assert runs_of(tmp_path) == []
    assert run(tmp_path).returncode == 0
    assert contents(tmp_path) == contents(finished)


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_with_the_same_table(tmp_path, finished):
    rng = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(
            words(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        # From the imports to the report; once runs are finished, the report alone
        try:
            assert process.wait(timeout=rng.uniform(5, 25)) == 0
        except subprocess.TimeoutExpired:
            # The whole group half of the time, else the runner alone: its runs end by themselves
            os.killpg(process.pid, signal.SIGKILL) if rng.random() < 0.5 else process.kill()
            process.wait()
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert contents(tmp_path) == contents(finished)
    assert (tmp_path / "report" / "table.md").exists()


@pytest.mark.slow
def test_two_processes_share_a_run(tmp_path):
    assert run(tmp_path, "--prepare", "--match", "samples", "steps", "seconds", "--seconds", "1").returncode == 0
    folder = next(tmp_path.glob("runs/dynamic_sampling_True*/seed-0"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = ["-m", "trl_dapo.cli.ablate_run", "--config", str(folder / "config.yaml")]
    done = subprocess.run([*launch, *script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    result = read_result(folder / "result.json")
    assert result.environment["processes"] == 2
    assert set(result.ends) == {"samples", "steps", "seconds"}
    # 8 rows on each of two processes and 2 updates: a batch has 32 completions
    assert result.ends["samples"].completions >= 32
    assert result.ends["seconds"].seconds >= 1
    assert len(result.ends["samples"].data_sets["arena"].questions) == 6
