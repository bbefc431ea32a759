"""Runs of the five trainers that are killed in a checkpoint, interrupted and resumed, or over already."""

import datetime
import logging
import shutil
from collections import OrderedDict
from enum import IntEnum

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from five import FIVE, OFFLINE, Snapshots, architecture, trainer
from tiny import save_tiny_model, snapshot, tiny_lora, tiny_tokenizer
from training import assert_same_tensors
from trl_dapo.host.checkpoints import choose, damage
from trl_dapo.host.plain import is_plain, storable, stored


# -------------------------------------------------------------------------------------------- killed in a checkpoint


class Killed(Exception):
    """Stands for the kill: nothing of the trainer runs after it."""


def kill_in_checkpoint(made, step: int, method: str) -> None:
    """Lets the trainer die in the checkpoint of a step, before a method writes anything."""
    host = getattr(made, method)

    def dying(*args, **kwargs):
        if made.state.global_step == step:
            raise Killed
        return host(*args, **kwargs)

    setattr(made, method, dying)


@pytest.mark.parametrize("name", OFFLINE)
def test_killed_in_a_checkpoint_the_run_goes_on_from_the_one_before(tmp_path, caplog, name):
    killed = trainer(name, tmp_path)
    kill_in_checkpoint(killed, 2, "save_model" if name == "dpo" else "_save_rng_state")
    with pytest.raises(Killed):
        killed.train()
    resumed = trainer(name, tmp_path)
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=True)
    assert any(
        "checkpoint-2 is not whole (trainer_state.json is missing): resuming from checkpoint-1" in line
        for line in caplog.messages
    )
    assert resumed.state.global_step == 2
    assert damage(tmp_path / "checkpoint-2", online=False) is None


@pytest.mark.parametrize("name", FIVE)
def test_killed_in_its_first_checkpoint_a_run_starts_anew_and_keeps_what_is_there(tmp_path, caplog, name):
    whole = trainer(name, tmp_path / "whole")
    whole.train()
    folder = tmp_path / "parts"
    for _ in range(2):
        killed = trainer(name, folder)
        kill_in_checkpoint(killed, 1, "_save_rng_state")
        with pytest.raises(Killed):
            killed.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")))
    weights = next((folder / "torn-checkpoint-1").glob("*model.safetensors")).read_bytes()
    made = trainer(name, folder)
    with caplog.at_level(logging.WARNING):
        made.train(resume_from_checkpoint=True)
    assert_same_tensors(snapshot(made.model), snapshot(whole.model))
    assert any("checkpoint-1 was not finished" in line and "torn-checkpoint-1-2" in line for line in caplog.messages)
    assert any("holds no finished checkpoint: the run starts anew" in line for line in caplog.messages)
    # Nothing of it is deleted, by the removal of older checkpoints either
    assert next((folder / "torn-checkpoint-1").glob("*model.safetensors")).read_bytes() == weights
    assert sorted(path.name for path in folder.glob("*checkpoint-*")) == [
        "checkpoint-1",
        "checkpoint-2",
        "torn-checkpoint-1",
        "torn-checkpoint-1-2",
    ]


def test_killed_anew_before_any_checkpoint_the_run_starts_anew_again(tmp_path, caplog):
    (tmp_path / "torn-checkpoint-1").mkdir()
    with caplog.at_level(logging.WARNING):
        trainer("dpo", tmp_path, max_steps=1).train(resume_from_checkpoint=True)
    assert any("the run starts anew" in line for line in caplog.messages)


@pytest.mark.parametrize("name", ["dapo", "reward"])
def test_a_finished_checkpoint_that_was_damaged_later_is_not_set_aside(tmp_path, name):
    trainer(name, tmp_path, max_steps=1).train()
    (tmp_path / "checkpoint-1" / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-1 is not whole \(optimizer.pt is missing\)"):
        trainer(name, tmp_path).train(resume_from_checkpoint=True)
    assert (tmp_path / "checkpoint-1").is_dir()


@pytest.mark.parametrize("name", OFFLINE)
def test_a_folder_that_asks_for_itself_is_not_set_aside(tmp_path, name):
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(ValueError, match=r"checkpoint-1 is not whole \(trainer_state.json is missing\)"):
        trainer(name, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_an_older_end_of_a_checkpoint_does_not_make_a_torn_one_look_whole(tmp_path):
    trainer("reward", tmp_path).train()
    again = trainer("reward", tmp_path)
    kill_in_checkpoint(again, 2, "_save_rng_state")
    with pytest.raises(Killed):
        again.train()
    assert damage(tmp_path / "checkpoint-2", online=False) == "trainer_state.json is missing"


@pytest.mark.parametrize(
    "file", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "trainer_state.json"]
)
def test_checkpoints_without_a_state_file_are_held_against_what_transformers_writes(tmp_path, file):
    made = trainer("reward", tmp_path)
    made.train()
    newest = tmp_path / "checkpoint-2"
    assert choose(newest, online=False) == (newest, [])
    content = (newest / file).read_bytes()
    (newest / file).write_bytes(content[:-40])
    assert choose(newest, online=False)[0].name == "checkpoint-1"
    (newest / file).unlink()
    assert choose(newest, online=False)[0].name == "checkpoint-1"
    if file == "rng_state.pth":
        # Of two processes, of which the first left nothing
        shutil.copy(tmp_path / "checkpoint-1" / file, newest / "rng_state_1.pth")
        assert damage(newest, online=False) == "rng_state_0.pth is missing"


# ---------------------------------------------------------------------------------------- resumed in the same object


class Interrupt(TrainerCallback):
    """Interrupts a run once, in a moment of an update."""

    def __init__(self, moment: str, step: int) -> None:
        self.moment, self.step = moment, step

    def _at(self, moment: str, state) -> None:
        if self.moment == moment and state.global_step == self.step:
            self.moment = ""
            raise KeyboardInterrupt

    def on_substep_end(self, args, state, control, **kwargs):
        self._at("substep", state)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self._at("before the optimizer", state)


def without_times(logs):
    # The hosts of DPO and of reward models count tokens from 0 again
    return [
        {key: value for key, value in log.items() if "time" not in key and "second" not in key and key != "num_tokens"}
        for log in logs
        if "loss" in log
    ]


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("ppo", "substep"),
        ("ppo lora", "before the optimizer"),
        ("ppo lora", "substep"),
        ("dapo", "substep"),
        ("reward", "substep"),
    ],
)
def test_interrupted_and_resumed_in_the_same_object_equals_never_stopped(tmp_path, name, moment):
    fields = {"gradient_accumulation_steps": 2, "logging_steps": 2}
    fields |= {"peft_config": tiny_lora()} if name == "ppo lora" else {}
    name = name.split()[0]
    whole = trainer(name, tmp_path / "whole", **fields)
    whole.train()
    made = trainer(name, tmp_path / "parts", callbacks=[Interrupt(moment, 1)], **fields)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    made.train(resume_from_checkpoint=True)
    assert_same_tensors(snapshot(made.model), snapshot(whole.model))
    if name == "ppo":
        for one, other in zip(made.critic.parameters, whole.critic.parameters, strict=True):
            assert torch.equal(one, other)
        assert without_times(made.state.log_history) == without_times(whole.state.log_history)
    if name == "reward":
        # Its host does not save what it has not logged yet, so what is left of that is what a new process logs
        new = trainer(name, tmp_path / "parts", **fields)
        new.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-1"))
        assert without_times(made.state.log_history) == without_times(new.state.log_history)


# ----------------------------------------------------------------------------------------------------- over already


# 16 rows: with 2 prompts a step, online, an epoch has 8 steps, and with 4 pairs it has 4; both end in its midst
@pytest.mark.parametrize("name", FIVE)
def test_a_run_that_is_over_trains_no_further_step(tmp_path, name):
    whole = trainer(name, tmp_path)
    whole.train()
    again = trainer(name, tmp_path)
    assert again.train(resume_from_checkpoint=True).global_step == again.state.global_step == 2
    assert_same_tensors(snapshot(again.model), snapshot(whole.model))
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


def test_a_run_that_is_made_longer_goes_on_and_one_made_shorter_does_not(tmp_path):
    for asked, steps in ((2, 2), (1, 2), (3, 3)):
        made = trainer("reward", tmp_path, max_steps=asked)
        assert made.train(resume_from_checkpoint=steps != asked or steps == 3).global_step == steps


def test_a_run_of_half_an_epoch_that_is_over_trains_no_further_step(tmp_path):
    # 4 steps an epoch, hence 2
    for resume in (None, True, True):
        made = trainer("dpo", tmp_path, max_steps=-1, num_train_epochs=0.5)
        assert made.train(resume_from_checkpoint=resume).global_step == 2


# --------------------------------------------------------------------------------------------- a reference that moves


def moving_reference(name, folder, model, **fields):
    fields = {
        "max_steps": 4,
        "sync_ref_model": True,
        "ref_model_sync_steps": 1,
        "ref_model_mixup_alpha": 0.5,
        **fields,
    }
    if name == "dpo":
        fields |= {"reference_free": False}
        return trainer("dpo", folder, model=AutoModelForCausalLM.from_pretrained(model), **fields)
    return trainer(name, folder, model=AutoModelForCausalLM.from_pretrained(model), beta=0.1, **fields)


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), tiny_tokenizer())


@pytest.mark.parametrize("name", [name for name in FIVE if name != "reward"])
def test_a_reference_that_moves_is_resumed_where_it_was(tmp_path, saved_model, name):
    whole = moving_reference(name, tmp_path, saved_model)
    whole.train()
    resumed = moving_reference(name, tmp_path, saved_model)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same_tensors(snapshot(resumed.ref_model), snapshot(whole.ref_model))
    assert_same_tensors(snapshot(resumed.model), snapshot(whole.model))
    assert without_times(resumed.state.log_history) == without_times(whole.state.log_history)
    initial = snapshot(AutoModelForCausalLM.from_pretrained(saved_model))
    assert any(not torch.equal(value, initial[key]) for key, value in snapshot(whole.ref_model).items())


def test_a_reference_that_has_moved_and_is_not_saved_is_refused(tmp_path, saved_model):
    moving_reference("dpo", tmp_path, saved_model).train()
    shutil.rmtree(tmp_path / "checkpoint-2" / "reference")
    with pytest.raises(ValueError, match=r"sync_ref_model=True, and the reference of .* cannot be resumed"):
        moving_reference("dpo", tmp_path, saved_model).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    # It has not moved yet where it is synced later
    later = moving_reference("dpo", tmp_path, saved_model, ref_model_sync_steps=3)
    assert later.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2")).global_step == 4


def test_a_reference_that_moved_stays_where_it_was_when_it_is_no_longer_synced(tmp_path, saved_model):
    whole = moving_reference("grpo", tmp_path, saved_model, max_steps=2)
    whole.train()
    fixed = moving_reference("grpo", tmp_path, saved_model, sync_ref_model=False)
    fixed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same_tensors(snapshot(fixed.ref_model), snapshot(whole.ref_model))


def test_a_torn_reference_is_recognised(tmp_path, saved_model):
    moving_reference("dpo", tmp_path, saved_model, max_steps=1).train()
    file = tmp_path / "checkpoint-1" / "reference" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    found = damage(tmp_path / "checkpoint-1", online=False)
    assert found.startswith("reference/model.safetensors is cut short or damaged")


# ---------------------------------------------------------------------------------------------- the completions table


class Level(IntEnum):
    HIGH = 3


EXTRA = {
    "float32": lambda i: np.float32(i / 3),
    "bool": lambda i: np.bool_(i % 2),
    "text": lambda i: np.str_(f"row {i}"),
    "array": lambda i: np.arange(i, i + 2, dtype=np.int16),
    "time": lambda i: np.datetime64("2024-05-01") + i,
    "plain": lambda i: i,
    "nested": lambda i: {"values": [np.float64(i)]},
}


def logging_numpy(completion_ids, log_extra, **kwargs):
    for name, value in EXTRA.items():
        log_extra(name, [value(sum(ids)) for ids in completion_ids])
    return [float(sum(ids) % 2) for ids in completion_ids]


@pytest.mark.parametrize("name", ["dapo", "grpo"])
def test_columns_of_any_value_are_in_the_table_of_a_resumed_run(tmp_path, name):
    fields = {
        "log_completions": True,
        "reward_funcs": logging_numpy,
        "logging_steps": 2,
        "num_completions_to_print": 0,
    }
    fields |= {"updates_per_rollout": 2} if name == "dapo" else {"steps_per_generation": 2}
    trainer(name, tmp_path, **fields).train()
    table = tmp_path / "completions" / "completions_00002.parquet"
    whole = pd.read_parquet(table)
    assert len(whole) == 16
    table.unlink()
    trainer(name, tmp_path, **fields).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    pd.testing.assert_frame_equal(pd.read_parquet(table), whole)


def test_values_of_numpy_come_back_as_they_were():
    left_out: set[str] = set()
    for name, value in EXTRA.items():
        there = storable([value(1), value(2)], left_out)
        assert is_plain(there)
        back = stored(there)
        assert [type(one) for one in back] == [type(value(1)), type(value(2))], name
        np.testing.assert_equal(back, [value(1), value(2)])
    assert not left_out
    empty = stored(storable(np.zeros((0, 2), np.int8), left_out))
    assert (empty.shape, empty.dtype) == ((0, 2), np.dtype(np.int8))


def test_what_cannot_be_saved_leaves_none_in_its_place():
    left_out: set[str] = set()
    given = [Level.HIGH, {1}, datetime.date(2024, 5, 1), OrderedDict(a=np.float32(0.5)), (1, b"x"), object()]
    assert stored(storable(given, left_out)) == [3, None, None, {"a": np.float32(0.5)}, (1, None), None]
    assert left_out == {"set", "date", "bytes", "object"}


# ----------------------------------------------------------------------------------------------------- PPO's critic


@pytest.mark.parametrize("peft", [False, True])
def test_the_best_policy_comes_with_its_critic(tmp_path, peft):
    fields = {"peft_config": tiny_lora()} if peft else {}
    critics = []

    class Noted(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            critics.append([parameter.detach().clone() for parameter in made.critic.parameters])

    snapshots = Snapshots()
    made = trainer("ppo", tmp_path, max_steps=3, callbacks=[snapshots, Noted()], **fields)
    made.train()
    made.state.best_model_checkpoint = str(tmp_path / "checkpoint-2")
    made._load_best_model()
    assert_same_tensors(snapshot(made.model), snapshots.at[2])
    assert any(not torch.equal(one, last) for one, last in zip(critics[1], critics[2], strict=True))
    for found, expected in zip(made.critic.parameters, critics[1], strict=True):
        assert torch.equal(found, expected)


def test_a_policy_that_is_taken_off_its_adapters_has_no_head_of_the_critic(tmp_path):
    made = trainer("ppo", tmp_path, max_steps=1, peft_config=tiny_lora())
    made.train()
    names = set(architecture("llama").state_dict())
    merged = made.model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    assert set(load_file(tmp_path / "merged" / "model.safetensors")) == names
    assert set(merged.state_dict()) == names
