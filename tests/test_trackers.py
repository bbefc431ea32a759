"""What reaches TensorBoard and W&B of a run that is shown and diagnosed: its log, number for number, and no None."""

from pathlib import Path

import pytest

from five import ONLINE, trainer
from tracker_files import tensorboard_scalars, wandb_rows
from trl_dapo import DiagnosisCallback, LiveView


# What the callback adds to the log behind the trackers' backs, and what is no number
ADDED = {"step", "trained/share_moved", "prompts/share_plain"}
SUMMARY = "train_runtime"
STEPS = 6


def nothing_right(completions, **kwargs) -> list[float]:
    """A reward of which no group is informative, so that rollouts are exhausted."""
    return [0.0] * len(completions)


def watched(name: str, folder: Path, **fields):
    """A run, of which overlong filtering leaves some without a row in the loss."""
    own = {"overlong_filtering": True} if name == "dapo" else {}
    callbacks = [DiagnosisCallback(), LiveView(show="lines")]
    one = trainer(name, folder, max_steps=STEPS, logging_steps=1, callbacks=callbacks, **own, **fields)
    one.train()
    return one


def logged(one) -> dict[int, dict[str, float]]:
    """The run's log by step, as trackers are to have it."""
    return {
        entry["step"]: {f"train/{key}": value for key, value in entry.items() if key not in ADDED}
        for entry in one.state.log_history
        if SUMMARY not in entry
    }


def same(stored: dict[str, float], told: dict[str, float]) -> bool:
    # TensorBoard keeps 32 bits of a number
    return stored.keys() == told.keys() and all(
        stored[key] == pytest.approx(value, rel=1e-6, nan_ok=True) for key, value in told.items()
    )


@pytest.mark.parametrize("name", ["dapo", "ppo", "dpo"])
def test_tensorboard_gets_the_log_and_nothing_else(name, tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed: pip install tensorboardX")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    one = watched(name, tmp_path / "run", report_to="tensorboard")
    scalars = tensorboard_scalars(tmp_path / "board")
    for step, told in logged(one).items():
        # The summary of a run has the step of its last update
        stored = {key: value for key, value in scalars[step].items() if step < STEPS or key in told}
        assert same(stored, told), stored.keys() ^ told.keys()
    if name == "dapo":
        clipped = ["train/clip_ratio/region_mean" in scalars[step] for step in range(1, STEPS + 1)]
        assert any(clipped)
        assert not all(clipped)


@pytest.mark.parametrize("name", ["dapo", "dpo"])
def test_wandb_gets_the_log_and_nothing_else(name, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    for key, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(key, value)
    fields = {"log_completions": True} if name in ONLINE else {}
    try:
        one = watched(name, tmp_path / "run", report_to="wandb", **fields)
    finally:
        wandb.finish()
        # The next test has another folder
        wandb.teardown()
    rows = wandb_rows(tmp_path / "wandb")
    assert not [key for row in rows for key, value in row.items() if value is None]
    by_step = {row["train/global_step"]: row for row in rows if "train/loss" in row}
    for step, told in logged(one).items():
        stored = {key: value for key, value in by_step[step].items() if key.startswith("train/")}
        del stored["train/global_step"]
        assert same(stored, told), stored.keys() ^ told.keys()


def test_a_rollout_that_is_exhausted_draws_no_zero(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed: pip install tensorboardX")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    one = trainer(
        "dapo", tmp_path / "run", max_steps=2, logging_steps=1, report_to="tensorboard",
        reward_funcs=nothing_right, max_refill_rounds=1, callbacks=[DiagnosisCallback(), LiveView(show="lines")],
    )  # fmt: skip
    one.train()
    for step, scalars in tensorboard_scalars(tmp_path / "board").items():
        if step:
            assert scalars["train/dapo/exhausted"] == 1.0
            clipped = "train/clip_ratio/region_mean"
            assert (clipped in scalars) == (clipped.removeprefix("train/") in one.state.log_history[step - 1])
