"""The diagnosis during training: what it tells, keeps and stops, and that training goes on as without it."""

import json
import logging
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import TrainerCallback
from transformers.utils import logging as host_logging
from trl import DPOConfig as HostDPOConfig
from trl import DPOTrainer as HostDPOTrainer
from trl import GRPOConfig as HostConfig
from trl import GRPOTrainer as HostTrainer

from ppo_runs import ppo_args
from preferences import pairs, preference_args, tiny_reward_model
from tiny import (
    constant_reward,
    conversational_dataset,
    parity_reward,
    plain_dataset,
    scripted_rollout,
    snapshot,
    tiny_args,
    tiny_lora,
    tiny_model,
    tiny_tokenizer,
)
from training import assert_same_run, assert_same_tensors, dapo_args, even, train
from trl_dapo import DAPOTrainer, DiagnosisCallback, GRPOConfig, GRPOTrainer, PPOTrainer, RewardConfig, RewardTrainer
from trl_dapo.host.checkpoints import damage
from trl_dapo.host.fetching import EmptyRows, FetchedOnce
from trl_dapo.monitor import callback as callback_module
from trl_dapo.monitor.callback import _alert
from trl_dapo.monitor.event_checkpoints import event_checkpoints, keep
from trl_dapo.monitor.finding import Finding, read_findings, write_findings
from trl_dapo.monitor.movement import Movement
from trl_dapo.monitor.prompts import share_plain


# With one reward for all, every group is all right from the first rollout on, which is told at the fourth; each step
# is a rollout. Its completions are scripted, since those of a random model hardly end
TOLD = 4


def faulty(folder, **fields):
    return tiny_args(folder, cls=GRPOConfig, **{"max_steps": 7, "max_completion_length": 4, **fields})


def trained(folder, callbacks, reward=constant_reward, resume=None, **fields):
    args, script = faulty(folder, **fields), scripted_rollout(even)
    return train(
        GRPOTrainer, args, reward_funcs=reward, callbacks=callbacks, resume=resume, rollout_func=script
    ).trainer


def diagnosed(folder, callback, **fields):
    return trained(folder, [callback], **fields)


def rules(callback):
    return [one.rule for one in callback.findings]


# ------------------------------------------------------------------------------------------------- nothing is changed


@pytest.mark.parametrize(
    ("cls", "args"),
    [
        (HostTrainer, lambda folder: tiny_args(folder, cls=HostConfig)),
        (GRPOTrainer, lambda folder: tiny_args(folder, cls=GRPOConfig)),
        (DAPOTrainer, lambda folder: dapo_args(folder)),
        (PPOTrainer, lambda folder: ppo_args(folder, beta=0.0)),
    ],
    ids=["trl", "grpo", "dapo", "ppo"],
)
def test_a_run_is_the_same_with_the_diagnosis(cls, args, tmp_path):
    plain = train(cls, args(tmp_path / "plain"), reward_funcs=parity_reward)
    after_plain = torch.get_rng_state()
    watched = train(cls, args(tmp_path / "watched"), reward_funcs=parity_reward, callbacks=[DiagnosisCallback()])
    assert_same_run(plain, watched)
    assert torch.equal(after_plain, torch.get_rng_state())
    own = {"trained/share_moved", "prompts/share_plain"}
    assert [log.keys() - own for log in watched.logs] == [log.keys() for log in plain.logs]
    assert all(0 < log["trained/share_moved"] <= 1 for log in watched.logs)


def test_reward_models_and_preferences_are_watched_too(tmp_path):
    def run(callbacks):
        args = preference_args(RewardConfig, tmp_path, max_steps=3)
        trainer = RewardTrainer(
            tiny_reward_model(),
            args=args,
            train_dataset=pairs(),
            processing_class=tiny_tokenizer(),
            callbacks=callbacks,
        )
        trainer.train()
        return trainer

    watched = run([DiagnosisCallback()])
    assert_same_tensors(snapshot(run([]).model), snapshot(watched.model))
    assert watched.state.log_history[0]["trained/share_moved"] > 0
    trainer = HostDPOTrainer(
        tiny_model(tiny_tokenizer()),
        args=preference_args(HostDPOConfig, tmp_path),
        train_dataset=pairs(),
        processing_class=tiny_tokenizer(),
        peft_config=tiny_lora(),
        callbacks=[DiagnosisCallback()],
    )
    trainer.train()
    assert trainer.state.log_history[-2]["trained/share_moved"] > 0.5


# ---------------------------------------------------------------------------------------------------- what it tells


def test_a_finding_is_told_once_in_one_line_and_written(tmp_path, caplog):
    callback = DiagnosisCallback()
    with caplog.at_level(logging.WARNING, logger="trl_dapo.monitor.callback"):
        diagnosed(tmp_path, callback)
    assert rules(callback) == ["groups_all_right"]
    (told,) = [one.getMessage() for one in caplog.records if "groups_all_right" in one.getMessage()]
    assert told.removeprefix("[RANK 0] ").startswith(
        f"Step {TOLD}, groups_all_right since step 1: 100% of the groups are all right. Change "
    )
    assert "\n" not in told
    assert read_findings(tmp_path) == callback.findings
    assert (callback.findings[0].onset, callback.findings[0].step) == (1, TOLD)


@pytest.mark.parametrize(
    ("log_level", "stop_on", "told"),
    [
        ("passive", (), logging.WARNING),
        ("info", (), logging.WARNING),
        ("error", (), None),
        # Why a run ends is no warning
        ("passive", "any", logging.ERROR),
        ("error", "any", logging.ERROR),
        ("critical", "any", None),
    ],
)
def test_what_is_told_follows_the_log_level_and_the_file_is_written_anyway(tmp_path, caplog, log_level, stop_on, told):
    host = host_logging.get_verbosity()
    callback = DiagnosisCallback(stop_on=stop_on)
    try:
        with caplog.at_level(logging.WARNING, logger="trl_dapo.monitor.callback"):
            diagnosed(tmp_path, callback, log_level=log_level)
    finally:
        host_logging.set_verbosity(host)
    levels = [one.levelno for one in caplog.records if "groups_all_right" in one.getMessage()]
    assert levels == ([] if told is None else [told])
    assert read_findings(tmp_path) == callback.findings != ()


def test_a_healthy_run_writes_nothing(tmp_path):
    callback = DiagnosisCallback()
    diagnosed(tmp_path, callback, reward=parity_reward)
    assert callback.findings == ()
    assert not (tmp_path / "findings.json").exists()
    assert "entropy_collapse" in callback.undecided()
    # Each rollout feeds one update, and no upper clip bound is set
    assert "exact on-policy" in callback.notes[0]


def test_findings_of_an_earlier_run_in_the_folder_are_none_of_this_one(tmp_path):
    old = DiagnosisCallback()
    diagnosed(tmp_path, old)
    diagnosed(tmp_path, DiagnosisCallback(), reward=parity_reward)
    assert read_findings(tmp_path) == ()


def test_a_callback_that_trains_again_begins_anew(tmp_path):
    callback = DiagnosisCallback()
    diagnosed(tmp_path, callback)
    diagnosed(tmp_path, callback, reward=parity_reward)
    assert callback.findings == ()


def test_findings_that_cannot_be_written_do_not_end_the_run(tmp_path, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trl_dapo.monitor.callback.write_findings", full)
    callback = DiagnosisCallback()
    with caplog.at_level(logging.WARNING, logger="trl_dapo.monitor.callback"):
        trainer = diagnosed(tmp_path, callback)
    assert trainer.state.global_step == 7
    assert rules(callback) == ["groups_all_right"]
    assert "Findings are not written" in caplog.text


def test_a_row_of_a_plug_in_that_is_no_log_is_passed_over(tmp_path):
    class Writes(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            state.log_history.append({"no": "step"})

    callback = DiagnosisCallback()
    trainer = trained(tmp_path, [Writes(), callback])
    assert trainer.state.global_step == 7
    assert rules(callback) == ["groups_all_right"]


# --------------------------------------------------------------------------------------------------------- trackio


FOUND = Finding("kl_runaway", 3, 5, "far.", {"kl": 2.0}, ("beta=0.1",), "Turn back.", "docs")


def test_a_finding_is_an_alert_where_trackio_reports(monkeypatch):
    sent = []

    # Title, text, level and webhook_url, as in its version 0.43
    def alert(title, text=None, level=None, webhook_url=None):
        sent.append((title, text))

    monkeypatch.setitem(sys.modules, "trackio", types.SimpleNamespace(alert=alert))
    _alert(FOUND, types.SimpleNamespace(report_to=["tensorboard"]))
    assert sent == []
    _alert(FOUND, types.SimpleNamespace(report_to=["tensorboard", "trackio"]))
    assert sent == [("kl_runaway at step 5", "far. Turn back.")]
    # A version without alerts
    monkeypatch.setitem(sys.modules, "trackio", types.SimpleNamespace())
    _alert(FOUND, types.SimpleNamespace(report_to=["trackio"]))


def test_a_tracker_that_is_down_does_not_end_the_run(monkeypatch):
    def down(**kwargs):
        raise RuntimeError("Call trackio.init() before trackio.alert().")

    monkeypatch.setitem(sys.modules, "trackio", types.SimpleNamespace(alert=down))
    PartialState()
    _alert(FOUND, types.SimpleNamespace(report_to=["trackio"]))


# ------------------------------------------------------------------------------------------- stopping and checkpoints


@pytest.mark.parametrize("stop_on", [["groups_all_right"], "any", ["not_finite", "any"], "groups_all_right"])
def test_a_run_ends_at_a_finding_with_a_checkpoint(tmp_path, stop_on):
    trainer = diagnosed(tmp_path, DiagnosisCallback(stop_on=stop_on))
    assert trainer.state.global_step == TOLD
    assert damage(tmp_path / f"checkpoint-{TOLD}") is None


def test_a_rule_that_is_not_named_does_not_end_the_run(tmp_path):
    assert diagnosed(tmp_path, DiagnosisCallback(stop_on=["kl_runaway"])).state.global_step == 7
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_process_does_what_the_main_one_has_decided(tmp_path, monkeypatch):
    # As on another process, of which the main one has seen nothing
    monkeypatch.setattr(callback_module, "broadcast_object_list", lambda values: [None])
    callback = DiagnosisCallback(stop_on="any", save_on_finding=True)
    assert diagnosed(tmp_path, callback).state.global_step == 7
    assert rules(callback) == ["groups_all_right"]
    assert not list(tmp_path.glob("checkpoint-*")) + event_checkpoints(tmp_path)


def test_processes_decide_at_what_the_trainer_logs_on_all_of_them():
    assert callback_module._logged_by_all({"loss": 0.1, "step": 1})
    assert callback_module._logged_by_all({"eval_reward": 0.1, "step": 1})
    assert not callback_module._logged_by_all({"plugged/in": 1.0, "train_loss": 0.1, "step": 1})


@pytest.mark.parametrize("name", ["groups_all_rigt", "loss", 3, ""])
def test_an_unknown_rule_is_refused_with_the_nearest(name):
    with pytest.raises(ValueError, match=r"is no rule\..*The rules are not_finite") as refused:
        DiagnosisCallback(stop_on=[name])
    assert ("Did you mean 'groups_all_right'?" in str(refused.value)) == (name == "groups_all_rigt")


def test_the_checkpoint_of_a_finding_outlives_the_limit_and_resumes(tmp_path):
    fields = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
    first = diagnosed(tmp_path, DiagnosisCallback(save_on_finding=True), **fields)
    ((step, kept),) = event_checkpoints(tmp_path)
    assert (step, kept.name) == (TOLD, f"finding-groups_all_right-{TOLD}")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-7"]
    assert damage(kept) is None
    again = DiagnosisCallback()
    resumed = diagnosed(tmp_path / "resumed", again, resume=str(kept))
    assert resumed.state.global_step == 7
    assert_same_tensors(snapshot(first.model), snapshot(resumed.model))
    assert rules(again) == ["groups_all_right"]


def test_a_run_that_saves_nothing_keeps_the_checkpoint_of_its_finding(tmp_path):
    diagnosed(tmp_path, DiagnosisCallback(save_on_finding=True))
    assert [step for step, _ in event_checkpoints(tmp_path)] == [TOLD]


@pytest.mark.parametrize("at", [2, 3, 6])
def test_a_run_that_resumes_tells_no_finding_twice_and_keeps_those_before(tmp_path, at):
    fields = {"save_strategy": "steps", "save_steps": 1}
    whole = DiagnosisCallback()
    first = diagnosed(tmp_path, whole, **fields)
    for path in tmp_path.glob("checkpoint-*"):
        if int(path.name.split("-")[1]) > at:
            shutil.rmtree(path)
    resumed = DiagnosisCallback()
    again = diagnosed(tmp_path, resumed, resume=True, **fields)
    assert resumed.findings == whole.findings == read_findings(tmp_path)
    own = ("trained/share_moved", "prompts/share_plain")
    logs = [[{key: log.get(key) for key in own} for log in run.state.log_history] for run in (first, again)]
    assert logs[0] == logs[1]


def test_a_run_that_resumes_before_a_finding_forgets_it_until_it_comes(tmp_path):
    fields = {"save_strategy": "steps", "save_steps": 2}
    diagnosed(tmp_path, DiagnosisCallback(), **fields)
    seen = []

    class Reads(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            seen.append(len(read_findings(tmp_path)))

    trained(tmp_path, [DiagnosisCallback(), Reads()], resume=str(tmp_path / "checkpoint-2"), **fields)
    assert seen == [0, 0, 1, 1, 1]


def test_on_a_full_disk_no_checkpoint_is_begun_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with caplog.at_level(logging.WARNING, logger="trl_dapo.monitor.callback"):
        trainer = diagnosed(tmp_path, DiagnosisCallback(save_on_finding=True))
    assert trainer.state.global_step == 7
    assert not list(tmp_path.glob("checkpoint-*")) + event_checkpoints(tmp_path)
    assert f"No checkpoint at groups_all_right, step {TOLD}: 0.00 GB are free" in caplog.text


def test_a_disk_that_fills_up_while_a_checkpoint_is_kept_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trl_dapo.monitor.callback.keep", full)
    with caplog.at_level(logging.WARNING, logger="trl_dapo.monitor.callback"):
        trainer = diagnosed(tmp_path, DiagnosisCallback(save_on_finding=True))
    assert trainer.state.global_step == 7
    assert f"The checkpoint of groups_all_right at step {TOLD} is not kept" in caplog.text


def test_of_a_copy_that_fails_nothing_is_left(tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint-4"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")

    def half(source, target):
        target.mkdir()
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])

    monkeypatch.setattr("shutil.copytree", half)
    with pytest.raises(OSError, match="No space left on device"):
        keep(checkpoint, "kl_runaway", 4)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


# ------------------------------------------------------------------------------------ what only the callback can see


def test_prompts_are_plain_where_a_template_is_passed_over():
    tokenizer = tiny_tokenizer()
    assert share_plain(plain_dataset(), tokenizer) == 1.0
    assert share_plain(plain_dataset(), tiny_tokenizer(chat=False)) == 0.0
    assert share_plain(conversational_dataset(), tokenizer) == 0.0
    templated = Dataset.from_dict({"prompt": ["<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\n", "1+2="]})
    assert share_plain(templated, tokenizer) == 0.5


def test_prompts_are_seen_behind_what_the_loader_reads():
    tokenizer = tiny_tokenizer()
    assert share_plain(EmptyRows(8, plain_dataset()), tokenizer) == 1.0
    assert share_plain(FetchedOnce(plain_dataset(), 2), tokenizer) == 1.0
    assert share_plain(EmptyRows(8), tokenizer) is None


@pytest.mark.parametrize(
    "dataset",
    [
        None,
        plain_dataset().to_iterable_dataset(),
        plain_dataset().rename_column("prompt", "text"),
        plain_dataset().with_transform(lambda rows: rows),
        plain_dataset().select([]),
    ],
    ids=["none", "stream", "no-prompt", "transformed", "empty"],
)
def test_prompts_that_cannot_be_read_without_disturbing_the_run_are_not(dataset):
    assert share_plain(dataset, tiny_tokenizer()) is None


@pytest.mark.parametrize("cls", [HostTrainer, GRPOTrainer, DAPOTrainer])
def test_plain_prompts_are_logged_once_by_each_trainer(cls, tmp_path):
    args = dapo_args(tmp_path) if cls is DAPOTrainer else tiny_args(tmp_path, cls=HostConfig)
    run = train(cls, args, reward_funcs=parity_reward, callbacks=[DiagnosisCallback()])
    assert [log.get("prompts/share_plain") for log in run.logs] == [1.0, None, None]


def test_a_step_that_is_rounded_away_moves_no_entry():
    # Half of the distance from 1 to the next number of bfloat16 is 2^-8 = 0.0039
    weights = torch.nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
    movement = Movement([("weights", weights)])
    assert movement.share_moved() is None
    movement.update_begins()
    weights.data[:500] += 0.001
    weights.data[500:750] += 0.01
    # Every third entry is looked at: 0, 3, ..., 999, of which 501, ..., 747 have moved
    assert movement.share_moved() == pytest.approx(83 / 334)
    assert movement.share_moved() is None


def test_second_matrices_of_adapters_are_looked_at_only_where_there_are_no_others():
    first, second = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.zeros(4))
    frozen = torch.nn.Parameter(torch.ones(4), requires_grad=False)
    named = [("q.lora_A.default.weight", first), ("q.lora_B.default.weight", second), ("q.weight", frozen)]
    both, alone = Movement(named), Movement(named[1:])
    for one in (both, alone):
        one.update_begins()
    second.data += 1e-30
    assert both.share_moved() == 0.0
    assert alone.share_moved() == 1.0
    assert Movement(named[2:]).share_moved() is None


def test_findings_survive_their_file(tmp_path):
    callback = DiagnosisCallback()
    diagnosed(tmp_path, callback)
    write_findings(tmp_path / "copy", callback.findings)
    assert read_findings(tmp_path / "copy") == callback.findings
    assert json.loads((Path(tmp_path) / "copy" / "findings.json").read_text())["version"] == 1
