"""`trl-dapo rewind --find` with rules of the diagnosis, on runs of the built-in task whose faults are made."""

import json
from pathlib import Path

import pytest

from rewinding import here, rewind, train


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def found(run: Path) -> dict:
    return json.loads((run / "rewind" / "find.json").read_text())


def shown(run: Path) -> list[tuple[str, int, int]]:
    values = json.loads((run / "findings.json").read_text())["findings"]
    return [(one["rule"], one["onset"], one["step"]) for one in values]


def test_a_rule_is_followed_back_to_the_last_rollout_that_can_still_be_changed(tmp_path, monkeypatch, capsys):
    # With two tokens nothing ends. The rule looks at rollouts, which are drawn for updates 1, 3 and 5, and tells at
    # the second. A longer limit acts from the next rollout on, so update 2 is the last at which it prevents that
    here(monkeypatch)
    run = train(tmp_path / "run", max_completion_length="2", max_steps="4", save_steps="1")
    assert ("truncated_at_start", 1, 3) in shown(run)
    assert rewind(run, "--find", "truncated_at_start", "--set", "max_completion_length=24") == 0
    answer = found(run)
    assert (answer["rule"], answer["seen"]) == ("truncated_at_start", {"onset": 1, "told": 3})
    assert (answer["last_that_prevents"], answer["first_that_does_not"]) == (2, None)
    assert answer["asked"] == {"1": True, "2": True}
    said = capsys.readouterr()
    assert "max_completion_length=24 still prevents it by step 3 from step 2 on" in said.out
    # Each step is asked once, also where checkpoints and updates meet
    assert said.err.count("from step 2: does not show it") == 1
    # What has nothing to do with it prevents nothing
    assert rewind(run, "--find", "truncated_at_start", "--set", "epsilon=0.01") == 0
    answer = found(run)
    assert (answer["last_that_prevents"], answer["first_that_does_not"]) == (None, 1)
    assert "does not prevent it by step 3, not even from step 1 on" in capsys.readouterr().out


@pytest.mark.slow
def test_a_rate_that_becomes_hot_is_found_at_its_first_update(tmp_path, monkeypatch, capsys):
    # A schedule that rises at its end instead of falling: 1 up to update 9, from update 10 on thousands of times that,
    # which leaves no weight what it was. From update 11 on no completion is right and no update has a gradient; of 13
    # updates 3 are more than a fifth, and of 12 two are not
    here(monkeypatch)
    rising = {"num_decay_steps": 8, "decay_type": "linear", "min_lr_ratio": 1e5}
    run = train(
        tmp_path / "run", max_steps="16", save_steps="4", per_device_train_batch_size="32",
        max_completion_length="24", warmup_steps="0", lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs=json.dumps(rising), live_view="off",
    )  # fmt: skip
    rates = {row["step"]: row["learning_rate"] for row in _log(run) if "learning_rate" in row}
    assert max(rates[step] for step in range(1, 10)) * 1000 < rates[10]
    assert ("zero_gradient", 11, 13) in shown(run)
    level = json.dumps({**rising, "min_lr_ratio": 1.0})
    assert rewind(run, "--find", "zero_gradient", "--set", f"lr_scheduler_kwargs={level}") == 0
    answer = found(run)
    assert answer["seen"] == {"onset": 11, "told": 13}
    assert (answer["last_that_prevents"], answer["first_that_does_not"]) == (9, 10)
    assert answer["contradictions"] == []
    # The run has checkpoints of 4, 8 and 12; those between were made, and the neighbours of the answer were asked too
    assert {step: answer["asked"][step] for step in ("4", "8", "9", "10", "11", "12")} == {
        "4": True, "8": True, "9": True, "10": False, "11": False, "12": False,
    }  # fmt: skip
    assert "at step 10 it is too late" in capsys.readouterr().out


def _log(run: Path) -> list[dict]:
    return json.loads((run / "trainer_state.json").read_text())["log_history"]
