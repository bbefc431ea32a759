"""Weights that are NaN or infinite after the last update are told, and not saved, by all five trainers."""

import math

import pytest
import torch
from transformers import TrainerCallback

from ppo_runs import ppo_args
from preferences import pairs, preference_args, tiny_reward_model
from tiny import parity_reward, plain_dataset, scripted_rollout, tiny_args, tiny_lora, tiny_model, tiny_tokenizer
from training import build, dapo_args
from trl_dapo import (
    DAPOTrainer,
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    PPOTrainer,
    RewardConfig,
    RewardTrainer,
)


class Spoil(TrainerCallback):
    """Gives one gradient a value that is not finite in the last update, after clipping."""

    def __init__(self, value=math.nan, part=""):
        self.value, self.part = value, part

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == state.max_steps - 1:
            named = [p for name, p in model.named_parameters() if p.grad is not None and self.part in name]
            named[-1].grad.view(-1)[0] = self.value


def online(cls, args, **kwargs):
    # Two updates on scripted rollouts: what the first one moved is finite
    return build(
        cls,
        args,
        reward_funcs=parity_reward,
        rollout_func=scripted_rollout(),
        train_dataset=plain_dataset(32),
        **kwargs,
    )


def preferences(cls, model, args, **kwargs):
    return cls(model=model, args=args, train_dataset=pairs(16), processing_class=tiny_tokenizer(), **kwargs)


MAKERS = {
    "grpo": lambda folder, **f: online(GRPOTrainer, tiny_args(folder, cls=GRPOConfig, **f)),
    "dapo": lambda folder, **f: online(DAPOTrainer, dapo_args(folder, **f)),
    "dapo_lora": lambda folder, **f: online(DAPOTrainer, dapo_args(folder, **f), peft_config=tiny_lora()),
    "ppo": lambda folder, **f: online(PPOTrainer, ppo_args(folder, beta=0.0, **f)),
    "ppo_lora": lambda folder, **f: online(PPOTrainer, ppo_args(folder, **f), peft_config=tiny_lora()),
    "reward": lambda folder, **f: preferences(
        RewardTrainer, tiny_reward_model(), preference_args(RewardConfig, folder, **f)
    ),
    "dpo": lambda folder, **f: preferences(
        DPOTrainer, tiny_model(tiny_tokenizer()), preference_args(DPOConfig, folder, reference_free=True, **f)
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_run_whose_last_gradient_was_nan_ends_in_an_error_and_saves_no_such_weights(tmp_path, name):
    trainer = MAKERS[name](tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    trainer.add_callback(Spoil())
    with pytest.raises(ValueError, match=r"After optimizer step 2, [1-9]\d* of \d+ trained tensors hold NaN"):
        trainer.train()
    assert [path.name for path in sorted(tmp_path.glob("checkpoint-*"))] == ["checkpoint-1"]
    with pytest.raises(ValueError, match="they are not saved"):
        trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final").exists()


@pytest.mark.parametrize("name", MAKERS)
def test_a_run_that_saves_nothing_ends_in_the_error_too(tmp_path, name):
    trainer = MAKERS[name](tmp_path, max_steps=1)
    trainer.add_callback(Spoil(math.inf))
    with pytest.raises(ValueError, match=r"After optimizer step 1, .* hold NaN or infinity"):
        trainer.train()


@pytest.mark.parametrize("name", ["ppo", "ppo_lora"])
def test_the_critics_weights_are_looked_at(tmp_path, name):
    trainer = MAKERS[name](tmp_path, max_steps=1)
    trainer.train()
    with torch.no_grad():
        trainer.critic.parameters[-1].view(-1)[0] = math.nan
    with pytest.raises(ValueError, match=r"1 of \d+ trained tensors .*\(critic\."):
        trainer.save_model(str(tmp_path / "final"))


def test_frozen_weights_are_not_looked_at(tmp_path):
    # A mask of -inf in a buffer or a frozen parameter is nobody's gradient
    trainer = MAKERS["dapo_lora"](tmp_path, max_steps=1)
    with torch.no_grad():
        next(p for p in trainer.model.parameters() if not p.requires_grad).view(-1)[0] = -math.inf
    trainer.save_model(str(tmp_path / "final"))
    assert (tmp_path / "final" / "adapter_model.safetensors").is_file()
