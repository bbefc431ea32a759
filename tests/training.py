"""Runs a trainer and records all that two runs can be compared by."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from tiny import parity_reward, plain_dataset, scripted_rollout, snapshot, tiny_args, tiny_model, tiny_tokenizer
from trl_dapo import DAPOConfig, DAPOTrainer


@dataclass
class Run:
    """Losses and gradients of each optimizer step, the final parameters, the logs and the number of generations."""

    trainer: GRPOTrainer
    losses: list[float] = field(default_factory=list)
    gradients: list[dict[str, torch.Tensor]] = field(default_factory=list)
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    logs: list[dict[str, Any]] = field(default_factory=list)
    generations: int = 0


class _Recorder(TrainerCallback):
    def __init__(self, run_of: list[Run]) -> None:
        self.run_of = run_of

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        self.run_of[0].gradients.append(gradients)


def build(cls: type[GRPOTrainer], args: GRPOConfig, **kwargs: Any) -> GRPOTrainer:
    """A trainer on the tiny model; every argument of the constructor can be given."""
    tokenizer = kwargs.pop("processing_class", None) or tiny_tokenizer()
    kwargs.setdefault("train_dataset", plain_dataset())
    model = kwargs.pop("model", None)
    # Before 1.15, TRL starts an adapter from whatever random numbers come next
    set_seed(0 if args is None else args.seed)
    return cls(
        model=tiny_model(tokenizer) if model is None else model, args=args, processing_class=tokenizer, **kwargs
    )


def train(cls: type[GRPOTrainer], args: GRPOConfig, *, prepare=None, resume=None, **kwargs: Any) -> Run:
    """Trains and returns the record; `prepare(trainer)` is called before training."""
    holder: list[Run] = []
    callbacks = [_Recorder(holder), *kwargs.pop("callbacks", [])]
    run = Run(build(cls, args, callbacks=callbacks, **kwargs))
    holder.append(run)
    trainer = run.trainer
    host = GRPOTrainer._generate

    def counted(self, prompts):
        run.generations += 1
        return host(self, prompts)

    GRPOTrainer._generate = counted
    try:
        if prepare is not None:
            prepare(trainer)
        trainer.train(resume_from_checkpoint=resume)
    finally:
        GRPOTrainer._generate = host
    run.logs = [log for log in trainer.state.log_history if "loss" in log]
    run.losses = [log["loss"] for log in run.logs]
    run.parameters = snapshot(trainer.model)
    return run


def host_args(config: DAPOConfig) -> GRPOConfig:
    """The `GRPOConfig` that says what `config` says in TRL's own fields."""
    values = {own.name: getattr(config, own.name) for own in fields(GRPOConfig) if own.init}
    values.pop("generation_batch_size")
    return GRPOConfig(**values)


def dapo_args(output_dir: str | Path, **overrides: Any) -> DAPOConfig:
    """[`tiny_args`] as a `DAPOConfig`: 2 prompts of 4 generations a step, 2 updates per rollout."""
    settings = {} if {"steps_per_generation", "generation_batch_size"} & set(overrides) else {"updates_per_rollout": 2}
    return tiny_args(output_dir, cls=DAPOConfig, **{**settings, **overrides})


def assert_same_run(first: Run, second: Run) -> None:
    """Losses, gradients and parameters are equal bit for bit."""
    assert first.losses == second.losses
    assert len(first.gradients) == len(second.gradients) > 0
    for one, other in zip(first.gradients, second.gradients, strict=True):
        assert_same_tensors(one, other)
    assert_same_tensors(first.parameters, second.parameters)


def assert_same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def record_rollouts(trainer: GRPOTrainer) -> list[dict[str, Any]]:
    """The list that each rollout's output is appended to, with the rows' decoded prompts as `prompts`."""
    rollouts: list[dict[str, Any]] = []
    host = trainer._generate_and_score_completions

    def recorded(inputs):
        output = host(inputs)
        tokenizer = trainer._tokenizer
        prompts = [tokenizer.decode(ids[ids != tokenizer.pad_token_id]) for ids in output["prompt_ids"]]
        rollouts.append({**output, "prompts": prompts})
        return output

    trainer._generate_and_score_completions = recorded
    return rollouts


def loss_mask(rollout: dict[str, Any]) -> torch.Tensor:
    """Which tokens of a rollout enter the loss, shape `(B, T)`."""
    mask = rollout["completion_mask"]
    return mask * rollout["tool_mask"] if "tool_mask" in rollout else mask


def even(text: str) -> bool:
    """Of a prompt of `plain_dataset`, "0+1=", "1+2=", ...: whether its first number is even."""
    return int(text.split("+")[0]) % 2 == 0


def never(text: str) -> bool:
    return False


def run(tmp_path, rewardable=even, reward_funcs=parity_reward, dataset=None, cls=DAPOTrainer, args=None, **fields):
    """Trains on scripted rollouts; returns the run, its rollouts and the prompts of each generation call."""
    script = scripted_rollout(rewardable)
    recorded = []
    # A scripted row in three is truncated; without overlong filtering every row counts
    fields = {"overlong_filtering": False, "max_steps": 2, **fields}
    result = train(
        cls,
        args or dapo_args(tmp_path, **fields),
        prepare=lambda trainer: recorded.append(record_rollouts(trainer)),
        reward_funcs=reward_funcs,
        rollout_func=script,
        train_dataset=plain_dataset(32) if dataset is None else dataset,
    )
    return result, recorded[0], script.calls


def groups_of(prompts: list[str]) -> list[str]:
    """The prompts of the groups, each of which must be 4 equal rows in a row."""
    assert all(len(set(prompts[i : i + 4])) == 1 for i in range(0, len(prompts), 4))
    return prompts[::4]
