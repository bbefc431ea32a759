"""A run that is stopped at a rollout's end and resumed is the run that was not stopped."""

import json
import logging

import pytest

from tiny import parity_reward, plain_dataset
from training import assert_same_tensors, dapo_args, train
from trl_dapo import DAPOTrainer
from trl_dapo.trainer import STATE_FILE


def run(tmp_path, steps, resume=None, **fields):
    # Rollouts of 2 updates: steps 2, 4, 6, ... end one
    args = dapo_args(
        tmp_path,
        **{"max_steps": steps, "save_strategy": "steps", "save_steps": 2, "overlong_filtering": False, **fields},
    )
    return train(DAPOTrainer, args, reward_funcs=parity_reward, train_dataset=plain_dataset(13), resume=resume)


@pytest.mark.parametrize("stop", [2, 6])
def test_resumed_at_a_rollouts_end_equals_not_stopped(tmp_path, stop):
    # 13 prompts and 4 per rollout: the stream has turned an epoch by the second stop
    whole = run(tmp_path / "whole", 10)
    run(tmp_path / "parts", stop)
    resumed = run(tmp_path / "parts", 10, resume=True)
    assert resumed.losses == whole.losses
    assert_same_tensors(resumed.parameters, whole.parameters)
    seconds = ("step_time", "dapo/generation_seconds", "dapo/update_seconds")
    for one, other in zip(resumed.logs, whole.logs, strict=True):
        assert {k: v for k, v in one.items() if k not in seconds} == {
            k: v for k, v in other.items() if k not in seconds
        }


def test_checkpoint_of_another_trainer_is_told(tmp_path, caplog):
    run(tmp_path, 2)
    (tmp_path / "checkpoint-2" / STATE_FILE).unlink()
    with caplog.at_level(logging.WARNING):
        run(tmp_path, 4, resume=True)
    assert any(f"has no {STATE_FILE}" in message for message in caplog.messages)


def test_checkpoint_of_another_version_is_refused(tmp_path):
    run(tmp_path, 2)
    path = tmp_path / "checkpoint-2" / STATE_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        run(tmp_path, 4, resume=True)


def test_checkpoint_of_a_longer_dataset_is_refused(tmp_path):
    fields = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, "overlong_filtering": False}
    train(DAPOTrainer, dapo_args(tmp_path, **fields), reward_funcs=parity_reward, train_dataset=plain_dataset(32))
    path = tmp_path / "checkpoint-2" / STATE_FILE
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "prompts": {"epoch": 0, "position": 20, "waiting": []}}))
    with pytest.raises(ValueError, match="prompt 20 of epoch 0, and the dataset has only 13 prompts"):
        run(tmp_path, 4, resume=True)
