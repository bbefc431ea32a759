"""Held-out accuracy during training: the metrics that are logged, and training that goes on as without it."""

import functools
import json
import tempfile

import pytest
from transformers import EarlyStoppingCallback
from trl import GRPOTrainer as HostTrainer
from trl import RLOOConfig, RLOOTrainer

from ppo_runs import ppo_args
from tiny import parity_reward, plain_dataset, snapshot, tiny_args
from training import assert_same_tensors, build, dapo_args, host_args
from trl_dapo import DAPOTrainer, EvaluationCallback, GRPOConfig, GRPOTrainer, PPOTrainer


# 2 accumulation steps an update, 2 updates a rollout: an evaluation after the first step is within a rollout
FIELDS = {
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 4,
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
}
HELD_OUT = plain_dataset(5).remove_columns("answer")


def trl_grpo(folder, **fields):
    return HostTrainer, host_args(dapo_args(folder, **{**FIELDS, "overlong_filtering": False, **fields}))


def rloo(folder, **fields):
    return RLOOTrainer, tiny_args(folder, cls=RLOOConfig, **{**FIELDS, "beta": 0.0, **fields})


def grpo(folder, **fields):
    return GRPOTrainer, tiny_args(folder, cls=GRPOConfig, **{**FIELDS, **fields})


def grpo_packed(folder, **fields):
    return grpo(folder, max_tokens_per_microbatch=60, **fields)


def dapo(folder, **fields):
    return DAPOTrainer, dapo_args(folder, **{**FIELDS, "overlong_filtering": False, "max_refill_rounds": 1, **fields})


def ppo(folder, **fields):
    return PPOTrainer, ppo_args(folder, **{**FIELDS, "num_iterations": 2, "beta": 0.0, **fields})


TRAINERS = [trl_grpo, rloo, grpo, grpo_packed, dapo, ppo]
every_trainer = pytest.mark.parametrize("make", TRAINERS, ids=lambda make: make.__name__)


def trainer_of(make, folder, **fields):
    cls, args = make(folder, **fields)
    evaluation = {"eval_dataset": plain_dataset(4)} if args.eval_strategy != "no" else {}
    return build(cls, args, reward_funcs=parity_reward, train_dataset=plain_dataset(32), **evaluation)


def with_callback(trainer, **fields):
    settings = {"k": 2, "every": 1, "batch_size": 6, "max_new_tokens": 5, **fields}
    callback = EvaluationCallback(trainer, {"held": HELD_OUT}, parity_reward, **settings)
    trainer.add_callback(callback)
    return callback


@functools.cache
def undisturbed(make):
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(make, folder)
        trainer.train()
        return snapshot(trainer.model), train_logs(trainer)


def train_logs(trainer):
    seconds = ("step_time", "dapo/generation_seconds", "dapo/update_seconds", "train_runtime")
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return [{name: value for name, value in log.items() if name not in seconds} for log in logs]


def evaluations(trainer, name="eval_held_avg@2"):
    return [log for log in trainer.state.log_history if name in log]


@every_trainer
def test_training_goes_on_bit_for_bit_as_without_the_callback(tmp_path, make):
    parameters, logs = undisturbed(make)
    trainer = trainer_of(make, tmp_path)
    callback = with_callback(trainer)
    trainer.train()
    assert_same_tensors(snapshot(trainer.model), parameters)
    assert len(logs) == 3
    for one, other in zip(train_logs(trainer), logs, strict=True):
        assert one == pytest.approx(other, nan_ok=True)
    found = evaluations(trainer)
    assert [log["step"] for log in found] == [0, 1, 2, 3]
    assert sorted(callback.results) == [0, 1, 2, 3]
    assert all(0 <= log["eval_held_avg@2"] <= log["eval_held_pass@2"] <= 1 for log in found)
    assert all(0 < log["eval_held_mean_length"] <= 5 for log in found)
