"""Reading logs: of every form that a run leaves, and of none."""

import json
import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trl_dapo.monitor.diagnosis import run_through
from trl_dapo.monitor.event_checkpoints import event_checkpoints, keep
from trl_dapo.monitor.history import History, find_state
from trl_dapo.monitor.settings import Settings, read_settings


def state(folder, step=4, rows=None, **more):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": step, "loss": 0.1}] if rows is None else rows
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": rows, **more}))
    return folder / "trainer_state.json"


def test_numbers_are_read_and_everything_else_is_left_out():
    rows = [
        {"step": 1, "loss": None, "note": "text", "flags": [1], "grad_norm": float("nan"), "kl": 3, "huge": 10**400}
    ]
    (row,) = History.of(rows).rows
    assert row.step == 1
    assert row.values.keys() == {"grad_norm", "kl"}


def test_rows_of_one_step_stand_beside_each_other():
    assert len(History.of([{"step": 2, "loss": 1.0}, {"step": 2, "eval_reward": 0.5}]).rows) == 2


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ({"loss": 1}, "a log is a list"),
        ("loss", "a log is a list"),
        (5, "a log is a list"),
        ([1], r"log_history\[0\] is 1"),
        ([{"loss": 1.0}], "step=None: a whole number from 0 on"),
        ([{"step": 1.5}], "step=1.5"),
        ([{"step": True}], "step=True"),
        ([{"step": -1}], "step=-1"),
        ([{"step": 5}, {"step": 4}], "step=4 after step 5: these are the logs of several runs"),
    ],
)
def test_what_is_no_log_is_refused(log, said):
    with pytest.raises(ValueError, match=said):
        History.of(log)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"log_history": [{"step": 1, "lo', "is not whole, or no JSON"),
        ("", "is not whole, or no JSON"),
        ("[" * 100_000, "is not whole, or no JSON"),
        ("[]", "has no `log_history`"),
        ('{"epochs": 3}', "has no `log_history`"),
        ('{"log_history": null}', "a log is a list"),
    ],
)
def test_a_file_that_is_cut_off_or_foreign_is_refused_by_its_name(tmp_path, text, said):
    path = tmp_path / "trainer_state.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as refused:
        History.read(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 400 + len(str(path))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "trainer_state.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not whole, or no JSON"):
        History.read(tmp_path / "trainer_state.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
KEYS = [
    *("reward", "entropy", "grad_norm", "loss", "learning_rate", "kl", "objective/kl", "frac_reward_zero_std"),
    *("rewards/a/mean", "rewards/a/std", "rewards/b_length/mean", "rewards/b_length/std"),
    *("completions/mean_length", "completions/clipped_ratio", "clip_ratio/region_mean", "prompts/share_plain"),
    *("dapo/accuracy_generated", "dapo/frac_all_wrong", "dapo/exhausted", "dapo/refill_rounds", "trained/share_moved"),
    *("eval_reward", "eval_x_avg@8", "x/unparseable", "rollout/mismatch_k3", "value/explained_variance"),
]
VALUES = st.sampled_from([0.0, 1.0, 1e9, -1.0, 1e-9, math.nan, math.inf, -math.inf, 1e300, -1e300]) | JSON


HUGE = [{"reward": 0.0, "rewards/a/mean": 0.0, "rewards/a/std": 0.0, "rewards/b_length/std": 1e300}]


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES), max_size=30), st.integers(0, 2**32))
@example(HUGE, 0)
@settings(max_examples=200, deadline=None)
def test_whatever_values_a_log_has_it_is_judged(entries, seed):
    # A few kinds of rows, over and over: random ones have no observations in a row
    rows = [{**entry, "step": i} for i, entry in enumerate((entries * 4)[:60])]
    random.Random(seed).shuffle(rows)
    rows = [{**row, "step": i} for i, row in enumerate(rows)]
    for one in (
        None,
        Settings({"reward_weights": [1.0], "steps_per_generation": 4, "gradient_accumulation_steps": 1}),
    ):
        for finding in run_through(History.of(rows), one).findings:
            assert 0 <= finding.onset <= finding.step < len(rows)


def test_nan_as_python_writes_it_is_read(tmp_path):
    path = state(tmp_path, rows=[{"step": i, "grad_norm": float("nan"), "loss": 0.0} for i in range(3)])
    assert "NaN" in path.read_text()
    assert [one.rule for one in run_through(History.read(path)).findings] == ["not_finite"]


# ------------------------------------------------------------------------------------------------- where the log is


def test_the_latest_log_of_a_run_is_found(tmp_path):
    for step in (4, 12, 8):
        state(tmp_path / f"checkpoint-{step}", step)
    assert find_state(tmp_path).parent.name == "checkpoint-12"
    # What `save_state` wrote at the end goes further
    state(tmp_path, 14)
    assert find_state(tmp_path).parent == tmp_path
    state(tmp_path / "finding-zero_gradient-16", 16)
    assert find_state(tmp_path).parent.name == "finding-zero_gradient-16"
    assert find_state(tmp_path / "checkpoint-4").parent.name == "checkpoint-4"
    assert find_state(tmp_path / "checkpoint-4" / "trainer_state.json").is_file()


def test_a_damaged_log_gives_way_to_the_one_before(tmp_path):
    state(tmp_path / "checkpoint-4", 4)
    state(tmp_path / "checkpoint-8", 8).write_text('{"global_step": 8, "log_his')
    assert find_state(tmp_path).parent.name == "checkpoint-4"
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text("")
    with pytest.raises(ValueError, match="checkpoint-8, checkpoint-4 is cut short or no JSON"):
        find_state(tmp_path)


def test_a_run_without_a_log_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match="There is no run"):
        find_state(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no checkpoint with one"):
        find_state(tmp_path)


# ------------------------------------------------------------------------------------------------ settings of a run


def test_settings_come_from_the_command_file_beside_a_checkpoint(tmp_path):
    checkpoint = tmp_path / "checkpoint-4"
    state(checkpoint)
    assert read_settings(checkpoint) == Settings()
    starts = [{"values": {"epsilon_high": 0.2, "beta": 0.1}}, {"values": {"epsilon_high": 0.28, "dataset_name": "x"}}]
    (tmp_path / "command.json").write_text(json.dumps({"version": 1, "starts": starts}))
    # Those of the newest start
    assert dict(read_settings(checkpoint).values) == {"epsilon_high": 0.28}
    (tmp_path / "command.json").write_text(json.dumps({"config": {"beta": 0.1}}))
    assert dict(read_settings(checkpoint).values) == {"beta": 0.1}
    (tmp_path / "command.json").write_text("[1")
    assert read_settings(checkpoint) == Settings()


def test_updates_per_rollout_follow_from_the_batch():
    assert Settings().updates_per_rollout is None
    values = {"steps_per_generation": 16, "gradient_accumulation_steps": 4, "num_iterations": 2}
    assert Settings(values).updates_per_rollout == 8


# --------------------------------------------------------------------------------------------- checkpoints of findings


def test_a_checkpoint_is_kept_whole_and_apart(tmp_path):
    state(tmp_path / "checkpoint-8", 8)
    (tmp_path / "checkpoint-8" / "reference").mkdir()
    (tmp_path / "checkpoint-8" / "reference" / "model.safetensors").write_bytes(b"weights")
    kept = keep(tmp_path / "checkpoint-8", "zero_gradient", 8)
    assert kept == tmp_path / "finding-zero_gradient-8"
    assert (kept / "reference" / "model.safetensors").read_bytes() == b"weights"
    # The run writes its own checkpoint anew; the one that is kept stays as it was
    (tmp_path / "checkpoint-8" / "trainer_state.json").write_text("other")
    assert json.loads((kept / "trainer_state.json").read_text())["global_step"] == 8
    state(tmp_path / "checkpoint-4", 4)
    keep(tmp_path / "checkpoint-4", "kl_runaway", 4)
    (tmp_path / "finding-kl_runaway-6.part").mkdir()
    assert [(step, path.name) for step, path in event_checkpoints(tmp_path)] == [
        (4, "finding-kl_runaway-4"),
        (8, "finding-zero_gradient-8"),
    ]
    assert event_checkpoints(tmp_path / "nothing") == []


def test_a_full_disk_leaves_nothing_half_kept(tmp_path, monkeypatch):
    state(tmp_path / "checkpoint-8", 8)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    # What `copytree` copies a file with
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left on device"):
        keep(tmp_path / "checkpoint-8", "zero_gradient", 8)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-8"]
