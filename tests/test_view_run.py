"""The live view in real runs of the five trainers: it changes nothing, prints once, and never ends a run."""

import io
import json
import logging
import math
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.utils import logging as host_logging

from five import FIVE, ONLINE, trainer
from tiny import parity_reward, snapshot
from trl_dapo import DAPOConfig, DiagnosisCallback, LiveView
from trl_dapo.cli.monitor_arguments import MonitoredScriptArguments, add_monitors
from trl_dapo.host.watch import Watch, Watches, watch_of
from trl_dapo.view import lines, screens
from trl_dapo.view.lines import LineScreen
from trl_dapo.view.streams import handlers_moved
from trl_dapo.view.terminal import TerminalScreen
from view_states import going


TIMES = ("seconds", "runtime", "per_second", "step_time")


class Logs(TrainerCallback):
    """What reaches the callbacks, loggers among them."""

    def __init__(self) -> None:
        self.entries: list[dict] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.entries.append(dict(logs))


class Told(Watch, TrainerCallback):
    """What a trainer tells who looks."""

    def __init__(self) -> None:
        self.judgements: list[tuple[int, int, int, int]] = []
        self.rows = 0

    def written(self, completion_ids):
        self.rows += len(completion_ids)

    def judged(self, kept, wanted, finished, most):
        self.judgements.append((kept, wanted, finished, most))


def numbers(one) -> list[dict]:
    """The log without what a clock has measured, as text: of two logs without a number, both say nan."""
    return [
        {name: repr(value) for name, value in entry.items() if not any(part in name for part in TIMES)}
        for entry in one.state.log_history
    ]


def completions_logged(name: str) -> dict:
    return {"log_completions": True, "num_completions_to_print": 2} if name in ONLINE else {}


@pytest.mark.parametrize("name", FIVE)
def test_training_is_the_same_with_it_and_everything_is_printed_once(name, tmp_path, capsys):
    random.seed(7)  # TRL draws the completions that it prints from Python's numbers
    plain = trainer(name, tmp_path / "plain", max_steps=3, logging_steps=1, **completions_logged(name))
    plain.train()
    after = random.random()
    capsys.readouterr()

    random.seed(7)
    seen = trainer(
        name, tmp_path / "seen", max_steps=3, logging_steps=1, callbacks=[LiveView()], **completions_logged(name)
    )
    kinds = [type(one) for one in seen.callback_handler.callbacks]
    seen.train()
    assert random.random() == after

    assert numbers(seen) == numbers(plain)
    for key, value in snapshot(plain.model).items():
        assert torch.equal(value, snapshot(seen.model)[key]), key
    out = capsys.readouterr().out
    told = [line for line in out.splitlines() if line.startswith("step ")]
    assert len(told) == 3
    assert "'loss'" not in out
    assert "Advantage" not in out
    assert out.splitlines()[-1].startswith("done: step 3 of 3")
    # What it took the place of is there again
    assert [type(one) for one in seen.callback_handler.callbacks] == kinds
    assert PrinterCallback in kinds or ProgressCallback in kinds


def test_a_panel_changes_no_number_and_leaves_the_streams_as_they_were(tmp_path, monkeypatch):
    plain = trainer("dapo", tmp_path / "plain", max_steps=2, logging_steps=1)
    plain.train()
    stream = io.StringIO()
    monkeypatch.setattr(screens, "Console", lambda **kwargs: Console(file=stream, force_terminal=True, width=80))
    before = sys.stdout, sys.stderr, set(threading.enumerate())
    seen = trainer("dapo", tmp_path / "seen", max_steps=2, logging_steps=1, callbacks=[LiveView(show="terminal")])
    seen.train()
    assert numbers(seen) == numbers(plain)
    assert (sys.stdout, sys.stderr) == before[:2]
    assert not [one for one in set(threading.enumerate()) - before[2] if one.name == "live view"]
    last = stream.getvalue().rsplit("DAPO", 1)[1]
    assert "step 2 of 2" in last
    assert "done" in last


def test_completions_are_counted_once(tmp_path):
    told, view = Told(), LiveView(show="lines")
    # One prompt in two teaches, and a batch that is short of groups is filled by a second round
    one = trainer("dapo", tmp_path, max_steps=4, max_refill_rounds=3, callbacks=[told, view])
    one.train()
    assert told.rows == one.completions_generated == view.state.units
    wanted = told.judgements[0][1]
    assert told.judgements[0] == (0, wanted, 0, 4)
    assert all(kept <= wanted for kept, *_ in told.judgements)
    assert view.state.rollout.kept == told.judgements[-1][0]
    assert [sample.kind for sample in view.state.samples] == ["right", "wrong"]


@pytest.mark.parametrize("name", FIVE)
def test_no_logger_gets_a_name_without_a_number(name, tmp_path):
    logs = Logs()
    # A constant reward leaves no group that teaches, so every rollout is exhausted and no token is in the loss
    own = {"reward_funcs": lambda completions, **kwargs: [0.0] * len(completions)} if name in ONLINE else {}
    if name == "dapo":
        own |= {"max_refill_rounds": 1, "dynamic_sampling": True}
    one = trainer(name, tmp_path, max_steps=2, logging_steps=1, callbacks=[logs], **own)
    one.train()
    assert len(logs.entries) >= 3
    nothing = [key for entry in logs.entries for key, value in entry.items() if value is None]
    assert nothing == []
    if name == "dapo":
        assert logs.entries[0]["dapo/exhausted"] == 1.0
        assert "clip_ratio/high_mean" not in logs.entries[0] or math.isfinite(logs.entries[0]["clip_ratio/high_mean"])


def test_an_update_without_a_token_in_the_loss_logs_no_mean_over_tokens(tmp_path):
    # Untrained completions seldom end, so overlong filtering leaves some updates without any row
    one = trainer("dapo", tmp_path, max_steps=4, logging_steps=1, overlong_filtering=True)
    one.train()
    entries = one.state.log_history[:4]
    empty = [entry for entry in entries if entry["packing/live_rows"] == 0]
    assert 0 < len(empty) < len(entries)
    for entry in entries:
        means = [name for name in entry if name == "entropy" or name.startswith("clip_ratio/")]
        assert bool(means) == (entry not in empty)


def test_a_resumed_run_goes_on_with_its_series(tmp_path):
    first = trainer("dapo", tmp_path, max_steps=2, logging_steps=1)
    first.train()
    view = LiveView(show="lines")
    second = trainer("dapo", tmp_path, max_steps=4, logging_steps=1, callbacks=[view])
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert view.state.series["accuracy"].steps == [1, 2, 3, 4]
    assert view.state.units == second.completions_generated
    assert view.state.step == 4


def test_a_run_that_fails_has_its_last_state_printed(tmp_path, capsys):
    calls = []

    def breaks(completions, **kwargs):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return parity_reward(completions=completions, **kwargs)

    one = trainer("grpo", tmp_path, max_steps=9, logging_steps=1, reward_funcs=breaks, callbacks=[LiveView()])
    with pytest.raises(KeyboardInterrupt):
        one.train()
    assert capsys.readouterr().out.splitlines()[-1].startswith("stopped by KeyboardInterrupt: step ")
    assert any(isinstance(callback, PrinterCallback | ProgressCallback) for callback in one.callback_handler.callbacks)


def test_a_failure_of_the_view_is_told_once_and_ends_no_run(tmp_path, monkeypatch, caplog):
    def fails(state):
        raise ZeroDivisionError("no room")

    monkeypatch.setattr(lines, "log_line", fails)
    one = trainer("reward", tmp_path, max_steps=3, logging_steps=1, callbacks=[LiveView(show="lines")])
    with caplog.at_level(logging.WARNING):
        one.train()
    assert one.state.global_step == 3
    assert sum("The live view stops, and the run goes on" in record.getMessage() for record in caplog.records) == 1


def test_at_a_log_level_of_errors_the_lines_stay_and_the_last_one_names_what_was_found(tmp_path, capsys, caplog):
    verbosity = host_logging.get_verbosity()
    # All completions are right from the first rollout on, which is told at the fourth
    fields = {"max_steps": 5, "logging_steps": 1, "log_level": "error", "save_strategy": "no"}
    right = {"reward_funcs": lambda completions, **kwargs: [1.0] * len(completions)}
    callbacks = [DiagnosisCallback(), LiveView()]
    try:
        with caplog.at_level(logging.WARNING, logger="trl_dapo"):
            trainer("grpo", tmp_path, callbacks=callbacks, **fields, **right).train()
    finally:
        host_logging.set_verbosity(verbosity)
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("step ") for line in printed) == 5
    assert printed[-1].startswith("done: step 5 of 5, ")
    found = [one.rule for one in callbacks[0].findings]
    assert "groups_all_right" in found
    assert printed[-1].endswith(f"; found: {', '.join(found)}")
    assert "groups_all_right" not in caplog.text


def test_a_view_that_fails_says_nothing_at_a_log_level_of_errors(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lines, "log_line", lambda state: 1 / 0)
    verbosity = host_logging.get_verbosity()
    one = trainer(
        "reward", tmp_path, max_steps=2, logging_steps=1, log_level="error", callbacks=[LiveView(show="lines")]
    )
    try:
        with caplog.at_level(logging.WARNING):
            one.train()
    finally:
        host_logging.set_verbosity(verbosity)
    assert "The live view stops" not in caplog.text


def test_another_process_shows_nothing(capsys):
    view = LiveView(show="lines")
    state = SimpleNamespace(is_world_process_zero=False, global_step=0, log_history=[], max_steps=3)
    view.on_train_begin(SimpleNamespace(), state, None)
    view.on_step_end(SimpleNamespace(), state, None)
    view.on_log(SimpleNamespace(), state, None, logs={"loss": 1.0})
    view.written([[1]])
    view.on_train_end(SimpleNamespace(), state, None)
    assert view.state is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "part"), [({"show": "window"}, "show='window'"), ({"samples_every": -1}, "samples_every=-1")]
)
def test_wrong_arguments_are_refused(arguments, part):
    with pytest.raises(ValueError, match=part):
        LiveView(**arguments)


# ------------------------------------------------------------------------------------------------- terminals, streams


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_warnings_go_above_the_panel(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    logger = logging.getLogger("test_view")
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    screen = TerminalScreen(Console(file=stream, width=80, height=40), threading.RLock(), pytest.fail)
    try:
        screen.begin(going())
        mark = len(stream.getvalue())
        logger.warning("careful")
        written = stream.getvalue()[mark:]
        # The panel is wiped first, and drawn again below
        assert written.index("\x1b[2K") < written.index("careful") < written.index("step 40 of 100")
        screen.end(going())
    finally:
        logger.removeHandler(handler)
    assert handler.stream is sys.stdout is sys.stderr is stream
    assert stream.getvalue().endswith("\n") or stream.getvalue().rstrip("\x1b[?25h").endswith("\n")


def test_handlers_that_write_to_a_file_are_left_alone(monkeypatch):
    old, new, file = io.StringIO(), io.StringIO(), io.StringIO()
    logger = logging.getLogger("test_view_files")
    to_screen, to_file = logging.StreamHandler(old), logging.StreamHandler(file)
    logger.handlers[:] = [to_screen, to_file]
    monkeypatch.setattr(sys, "stderr", new)
    try:
        with handlers_moved((sys.stdout, old)):
            assert (to_screen.stream, to_file.stream) == (new, file)
        assert to_screen.stream is old
    finally:
        logger.handlers.clear()


def test_a_stream_that_cannot_spell_gets_question_marks():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    state = going()
    state.ended = "done…"
    LineScreen(stream).end(state)
    assert stream.buffer.getvalue().startswith(b"done?: step 40")


def test_where_a_run_is_shown(monkeypatch, tmp_path):
    args = DAPOConfig(str(tmp_path), disable_tqdm=False, use_cpu=True, bf16=False)

    def kind(show="auto"):
        return type(screens.make_screen(show, args, threading.RLock(), print, lambda: 0.0)).__name__

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert kind() == "LineScreen"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert kind() == "TerminalScreen"
    monkeypatch.setenv("TERM", "dumb")
    assert kind() == "LineScreen"
    assert (kind("terminal"), kind("notebook")) == ("TerminalScreen", "NotebookScreen")
    monkeypatch.setenv("TERM", "xterm")
    args.disable_tqdm = True
    assert kind() == "LineScreen"


# ------------------------------------------------------------------------------------------------------------ watching


def test_all_that_look_are_told():
    first, second = Told(), Told()
    both = Watches([first, second])
    with both.training(None), both.generation():
        both.written([[1], [2]])
        both.judged(1, 2, 3, 4)
        both.logs({})
        both.evaluates("x", 1, 2)
    assert first.rows == second.rows == 2
    assert first.judgements == second.judgements == [(1, 2, 3, 4)]
    handler = SimpleNamespace(callbacks=[first, PrinterCallback(), second])
    assert watch_of(SimpleNamespace(callback_handler=handler)).each == (first, second)
    assert type(watch_of(SimpleNamespace())) is Watch


def test_an_evaluation_on_held_out_questions_shows_how_far_it_is(tmp_path):
    from tiny import plain_dataset
    from trl_dapo import EvaluationCallback

    calls = []

    class Evaluations(Told):
        def evaluates(self, name, done, total):
            calls.append((name, done, total))

    one = trainer("grpo", tmp_path, max_steps=1, callbacks=[Evaluations()])
    EvaluationCallback(one, {"sums": plain_dataset(3)}, parity_reward, k=2, batch_size=4, every=1).samples()
    # Three questions, two samples each, in batches of at most four
    assert calls[0] == ("sums", 0, 6)
    assert calls[-1] == ("sums", 6, 6)
    assert len(calls) == 3


@pytest.mark.parametrize(("word", "count"), [("auto", 1), ("on", 1), ("off", 0)])
def test_the_commands_add_it(word, count, tmp_path):
    one = trainer("reward", tmp_path)
    add_monitors(one, MonitoredScriptArguments(live_view=word, diagnose=False))
    assert sum(isinstance(callback, LiveView) for callback in one.callback_handler.callbacks) == count


@pytest.mark.parametrize("name", ["dapo", pytest.param("dpo", marks=pytest.mark.slow)])
def test_trackio_gets_the_same_numbers_beside_the_view(name, tmp_path):
    pytest.importorskip("trackio", reason="trackio is not installed: pip install trackio")
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, Path(__file__).with_name("trackio_worker.py"), name, tmp_path / "run"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    steps = {entry["train/global_step"]: entry for entry in found["stored"] if "train/loss" in entry}
    assert set(steps) == set(range(1, 9))
    for entry in found["history"][:8]:
        for key in ("loss", "grad_norm", "learning_rate"):
            assert steps[entry["step"]][f"train/{key}"] == pytest.approx(entry[key])
    assert not [key for entry in found["stored"] for key, value in entry.items() if value is None]
    # No completion is right, which the diagnosis tells, and an alert says
    assert bool(found["findings"]) == (name == "dapo")
    assert [one["title"] for one in found["alerts"]] == found["findings"]
    assert all(one["text"] and "None" not in one["text"] for one in found["alerts"])


def test_the_probe_of_a_model_is_reported_to_no_tracker(tmp_path, monkeypatch):
    # It runs while the trainer is made, when no run of the tracker has begun, and trackio raises then
    one = trainer("grpo", tmp_path)
    one.args.report_to = ["trackio"]
    profiling = sys.modules["trl.extras.profiling"]
    monkeypatch.setattr(profiling, "is_trackio_available", lambda: True, raising=False)
    monkeypatch.setattr(profiling, "trackio", SimpleNamespace(log=lambda *a, **k: pytest.fail("told")), raising=False)
    assert one.host.probe_logps(one.model).numel() > 0
    assert one.args.report_to == ["trackio"]
