"""The diagnosis in two processes: they stop at one step, save one checkpoint, and the main one alone tells."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diagnosis_worker import SCENARIOS
from trl_dapo.host.checkpoints import damage
from trl_dapo.monitor.event_checkpoints import event_checkpoints
from trl_dapo.monitor.finding import read_findings


pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
# Rewards of 1 for all are told at the fourth rollout
TOLD, LAST = 4, 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("diagnosis")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE}:{HERE.parent}",
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    # Processes that do not agree wait for each other
    done = subprocess.run(
        [*command, str(HERE / "diagnosis_worker.py"), str(target)],
        env=environment, check=False, timeout=240, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return target


def ranks(folder: Path, name: str) -> list[dict]:
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_both_end_at_the_same_step_and_the_main_one_writes_once(folder, name):
    first, second = ranks(folder, name)
    stops = name in ("stops", "trl", "seen_by_the_first")
    assert first["step"] == second["step"] == (TOLD if stops else LAST)
    seen = name != "seen_by_the_second"
    assert first["written"] == ([1] if seen else [])
    assert second["written"] == []
    assert [one.step for one in read_findings(folder / name)] == ([TOLD] if seen else [])
    assert (first["shown"], second["shown"]) == (True, False)


@pytest.mark.parametrize("name", ["stops", "keeps", "trl"])
def test_their_findings_are_the_same(folder, name):
    first, second = ranks(folder, name)
    assert first["findings"] == second["findings"] == [["groups_all_right", 1, TOLD]]


def test_a_plug_in_that_logs_on_one_process_holds_up_nobody(folder):
    first, second = (sum("plugged/in" in row for row in rank["history"]) for rank in ranks(folder, "keeps"))
    assert (first, second) == (LAST, 0)


def test_where_one_process_sees_something_the_main_one_decides(folder):
    # Each process looks at its own log, from which a plug-in may have taken something
    first, second = ranks(folder, "seen_by_the_first")
    assert (len(first["findings"]), len(second["findings"])) == (1, 0)
    first, second = ranks(folder, "seen_by_the_second")
    assert (len(first["findings"]), len(second["findings"])) == (0, 1)
    assert not list((folder / "seen_by_the_second").glob("*-*"))


@pytest.mark.parametrize("name", ["stops", "trl", "seen_by_the_first"])
def test_a_run_that_is_stopped_has_a_whole_checkpoint_of_that_step(folder, name):
    assert [path.name for path in (folder / name).glob("checkpoint-*")] == [f"checkpoint-{TOLD}"]
    assert damage(folder / name / f"checkpoint-{TOLD}", online=name != "trl") is None


@pytest.mark.parametrize("name", ["keeps", "trl", "seen_by_the_first"])
def test_what_is_kept_holds_the_files_of_both(folder, name):
    ((step, kept),) = event_checkpoints(folder / name)
    assert step == TOLD
    assert {path.name for path in kept.glob("rng_state_*.pth")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert damage(kept, online=name != "trl") is None
    if name == "keeps":
        # Which the limit has left alone
        assert [path.name for path in (folder / name).glob("checkpoint-*")] == [f"checkpoint-{LAST}"]
