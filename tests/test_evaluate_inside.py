"""`evaluate()` inside of an update generates, answers for the evaluation batch, and leaves the training as it was."""

import functools
import tempfile

import pytest
import torch
from transformers import TrainerCallback

from ppo_runs import ppo_args
from tiny import parity_reward, plain_dataset, scripted_rollout, snapshot, tiny_args, tiny_lora
from training import assert_same_tensors, build, dapo_args
from trl_dapo import DAPOTrainer, GRPOConfig, GRPOTrainer, PPOTrainer


# 2 accumulation steps an update, 2 updates a rollout
FIELDS = {
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 4,
    "max_steps": 3,
    "per_device_train_batch_size": 4,
}


def grpo(folder, **fields):
    return GRPOTrainer, tiny_args(folder, cls=GRPOConfig, **{**FIELDS, **fields}), {}


def dapo(folder, **fields):
    return DAPOTrainer, dapo_args(folder, **{**FIELDS, "overlong_filtering": False, **fields}), {}


def ppo(folder, **fields):
    return PPOTrainer, ppo_args(folder, **{**FIELDS, "num_iterations": 2, "beta": 0.0, **fields}), {}


def ppo_lora(folder, **fields):
    cls, args, _ = ppo(folder, **{"beta": 0.1, "normalize_rewards": True, "kl_target": 1.0, **fields})
    return cls, args, {"peft_config": tiny_lora()}


TRAINERS = [grpo, dapo, ppo, ppo_lora]
every_trainer = pytest.mark.parametrize("make", TRAINERS, ids=lambda make: make.__name__)
packed_and_not = pytest.mark.parametrize("packed", [True, False], ids=["packed", "not_packed"])


def trainer_of(make, folder, packed, **fields):
    # Packed for certain: a bound on tokens packs whatever it saves
    fields |= {"max_tokens_per_microbatch": 60} if packed else {"compact_microbatches": False}
    cls, args, kwargs = make(folder, **fields)
    script = scripted_rollout()
    torch.manual_seed(0)
    trainer = build(
        cls,
        args,
        reward_funcs=parity_reward,
        rollout_func=script,
        train_dataset=plain_dataset(32),
        eval_dataset=plain_dataset(4),
        **kwargs,
    )
    return trainer, script


class Evaluates(TrainerCallback):
    """Evaluates at one event of the second update."""

    def __init__(self, event):
        self.found = []
        setattr(self, event, self._evaluate)

    def _evaluate(self, args, state, control, **kwargs):
        if state.global_step == 1 and not self.found:
            self.found.append(None)
            calls = len(self.script.calls)
            self.found[0] = self.trainer.evaluate(), len(self.script.calls) - calls


def trained(make, folder, packed, event=None):
    trainer, script = trainer_of(make, folder, packed)
    callback = None
    if event is not None:
        callback = Evaluates(event)
        callback.trainer, callback.script = trainer, script
        trainer.add_callback(callback)
    trainer.train()
    return trainer, callback


@functools.cache
def undisturbed(make, packed):
    with tempfile.TemporaryDirectory() as folder:
        return trained(make, folder, packed)[0]


def train_logs(trainer):
    seconds = ("step_time", "dapo/generation_seconds", "dapo/update_seconds", "num_tokens", "train_runtime")
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return [{name: value for name, value in log.items() if name not in seconds} for log in logs]


CASES = [(make, event, True) for make in TRAINERS for event in ("on_substep_end", "on_step_end")]
CASES += [(make, "on_substep_end", False) for make in TRAINERS]
CASES += [(dapo, event, True) for event in ("on_step_begin", "on_pre_optimizer_step", "on_optimizer_step")]


@pytest.mark.parametrize(("make", "event", "packed"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_evaluation_from_a_callback_generates_and_training_goes_on_as_without_it(tmp_path, make, event, packed):
    alone = undisturbed(make, packed)
    evaluated, callback = trained(make, tmp_path, packed, event)
    ((metrics, generations),) = callback.found
    assert generations == 2  # 4 prompts of 4 generations, 8 rows at a time
    assert 0 <= metrics["eval_reward"] <= 1
    assert metrics["eval_rewards/parity_reward/mean"] == 0.5
    assert "eval_loss" in metrics
    assert_same_tensors(snapshot(evaluated.model), snapshot(alone.model))
    for one, other in zip(train_logs(evaluated), train_logs(alone), strict=True):
        assert one == pytest.approx(other, nan_ok=True)


@every_trainer
@packed_and_not
def test_evaluation_after_an_interruption_within_an_update_generates(tmp_path, make, packed):
    trainer, script = trainer_of(make, tmp_path, packed)
    host, steps = trainer.training_step, []

    def interrupted(*args, **kwargs):
        if len(steps) == 3:  # in the middle of the second update
            raise KeyboardInterrupt
        steps.append(None)
        return host(*args, **kwargs)

    trainer.training_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    calls = len(script.calls)
    metrics = trainer.evaluate()
    assert len(script.calls) - calls == 2
    assert metrics["eval_rewards/parity_reward/mean"] == 0.5


@every_trainer
def test_an_evaluation_between_an_interruption_and_a_resume_changes_nothing(tmp_path, make):
    fields = {"save_strategy": "steps", "save_steps": 1}
    whole, _ = trainer_of(make, tmp_path / "whole", True, **fields)
    whole.train()
    trainer, _ = trainer_of(make, tmp_path / "cut", True, **fields)
    host, steps = trainer.training_step, []

    def interrupted(*args, **kwargs):
        steps.append(None)
        if len(steps) == 4:  # in the middle of the second update
            raise KeyboardInterrupt
        return host(*args, **kwargs)

    trainer.training_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.evaluate()
    trainer, _ = trainer_of(make, tmp_path / "cut", True, **fields)
    trainer.evaluate()
    trainer.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-1"))
    assert_same_tensors(snapshot(trainer.model), snapshot(whole.model))
