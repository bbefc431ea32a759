"""Runs on the arena that are made to have one fault each, and the healthy run that they differ from.

A rollout has 8 prompts of 8 completions and feeds 4 updates; each is one row of the log.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from trl import GRPOConfig as HostConfig
from trl import GRPOTrainer as HostTrainer

from trl_dapo import (
    DAPOConfig,
    DAPOTrainer,
    DiagnosisCallback,
    GRPOConfig,
    GRPOTrainer,
    PPOConfig,
    PPOTrainer,
    RewardConfig,
    RewardTrainer,
)
from trl_dapo.arena import (
    arena_accuracy,
    held_out_dataset,
    load_reward_start,
    load_warm_start,
    preference_dataset,
    train_dataset,
)
from trl_dapo.evaluation.scorers import get_scorer
from trl_dapo.monitor.finding import Finding


CPU = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "lr_scheduler_type": "constant",
}
ONLINE = {
    **CPU,
    "num_generations": 8,
    "per_device_train_batch_size": 16,
    "max_completion_length": 40,
    "steps_per_generation": 4,
    "logging_steps": 4,
    "learning_rate": 2e-4,
}
LORA = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def online(folder: Path, cls: type, config: type, **given: Any) -> Any:
    """A trainer that generates, on the arena; arguments of the trainer and fields of its config."""
    fields = {name: given.pop(name) for name in list(given) if name in config.__dataclass_fields__}
    model, tokenizer = load_warm_start()
    given = {
        "model": model,
        "processing_class": tokenizer,
        "reward_funcs": arena_accuracy,
        "train_dataset": train_dataset(512),
        **given,
    }
    return cls(args=config(output_dir=str(folder), **{**ONLINE, **fields}), **given)


def grpo(folder: Path, **given: Any) -> Any:
    return online(folder, GRPOTrainer, GRPOConfig, **given)


def trl_grpo(folder: Path, **given: Any) -> Any:
    return online(folder, HostTrainer, HostConfig, **{"beta": 0.0, **given})


def plain_prompts(folder: Path) -> Any:
    """A tokenizer with a chat template, prompts that pass it over, and completions that do not end."""
    tokenizer = load_warm_start()[1]
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return trl_grpo(folder, processing_class=tokenizer, max_completion_length=2, max_steps=16)


def mostly_unscored(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
    """Right answers to one prompt in three count: the others' groups are all wrong."""
    right = arena_accuracy(prompts, completions)
    return [one * (sum(map(ord, prompt)) % 3 == 0) for prompt, one in zip(prompts, right, strict=True)]


def never(prompts: list[str], **kwargs: Any) -> list[float]:
    return [0.0] * len(prompts)


def always(prompts: list[str], **kwargs: Any) -> list[float]:
    return [1.0] * len(prompts)


def length_reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    return [len(ids) / 40 for ids in completion_ids]


def brevity_reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    return [-len(ids) / 10 for ids in completion_ids]


class SometimesLarge:
    """Accuracy, and fifty times that in one rollout of four: a scale that slips."""

    __name__ = "sometimes_large"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
        self.calls += 1
        times = 50.0 if self.calls > 6 and self.calls % 4 == 0 else 1.0
        return [times * one for one in arena_accuracy(prompts, completions)]


def unreadable(folder: Path) -> Any:
    """The scorer looks for an answer in another format than the policy writes."""
    rows = train_dataset(512)
    scorer = get_scorer("dapo_math")
    rows = rows.add_column("solution", rows["answer"])
    return grpo(folder, reward_funcs=[arena_accuracy, scorer], train_dataset=rows, max_steps=40)


def rounded_away(folder: Path) -> Any:
    """Weights in bfloat16 at the learning rate of the paper."""
    model = load_warm_start()[0].to(torch.bfloat16)
    return grpo(folder, model=model, learning_rate=1e-6, max_steps=40)


def by_heart(folder: Path) -> Any:
    """Few prompts, over and over."""
    return grpo(
        folder,
        train_dataset=train_dataset(8, lengths=(8, 9, 10)),
        eval_dataset=held_out_dataset(64),
        eval_strategy="steps",
        eval_steps=16,
        per_device_eval_batch_size=256,
        num_generations_eval=4,
        learning_rate=1e-3,
        max_steps=200,
    )


def not_finite(folder: Path) -> Any:
    model, tokenizer = load_reward_start()
    args = RewardConfig(
        output_dir=str(folder), **CPU, per_device_train_batch_size=8, logging_steps=1, learning_rate=1e30, max_steps=12
    )
    return RewardTrainer(model, args=args, train_dataset=preference_dataset(128), processing_class=tokenizer)


def far(folder: Path) -> Any:
    return grpo(folder, peft_config=LORA, beta=1e-4, learning_rate=2e-2, max_steps=80)


def blind(folder: Path) -> Any:
    """The critic does not learn."""
    fields = {"critic_learning_rate": 1e-12, "beta": 0.0, "num_generations": 1, "num_iterations": 1}
    return online(folder, PPOTrainer, PPOConfig, peft_config=LORA, learning_rate=1e-3, max_steps=72, **fields)


@dataclass(frozen=True)
class Fault:
    """
    A run with a fault.

    Args:
        make (`Callable`):
            Makes its trainer in a folder.
        steps (`int`):
            Most steps from the onset of the fault, which is the start of the run unless `onset` says otherwise, until it
            is told.
        also (`dict[str, str]`):
            Other rules that find something in this run, each with why.
        onset (`int`):
            Step at which the fault begins.
    """

    make: Callable[[Path], Any]
    steps: int
    also: dict[str, str] = field(default_factory=dict)
    onset: int = 0


NO_SIGNAL = "rewards are all equal, so every gradient is 0"

FAULTS: dict[str, Fault] = {
    "truncated_at_start": Fault(lambda folder: grpo(folder, max_completion_length=2, max_steps=16), 8),
    "no_chat_template": Fault(
        plain_prompts, 8, {"truncated_at_start": "completions that miss the template do not end"}
    ),
    "groups_all_wrong": Fault(
        lambda folder: trl_grpo(folder, reward_funcs=never, max_steps=48), 16, {"zero_gradient": NO_SIGNAL}
    ),
    "groups_all_right": Fault(
        lambda folder: grpo(folder, reward_funcs=always, max_steps=48), 16, {"zero_gradient": NO_SIGNAL}
    ),
    "refill_cap": Fault(
        lambda folder: online(
            folder,
            DAPOTrainer,
            DAPOConfig,
            reward_funcs=mostly_unscored,
            max_refill_rounds=1,
            max_round_batches=1,
            max_steps=24,
        ),
        16,
    ),
    "clip_inert": Fault(
        lambda folder: grpo(
            folder, steps_per_generation=1, logging_steps=1, epsilon_high=0.28, learning_rate=1e-4, max_steps=20
        ),
        16,
    ),
    "entropy_collapse": Fault(lambda folder: grpo(folder, learning_rate=3e-3, max_steps=120), 120),
    "entropy_explosion": Fault(lambda folder: grpo(folder, entropy_coef=0.3, max_steps=80), 80),
    "zero_gradient": Fault(
        lambda folder: grpo(
            folder,
            train_dataset=train_dataset(512, lengths=(10,)),
            per_device_train_batch_size=8,
            logging_steps=1,
            max_steps=40,
        ),
        24,
    ),
    "length_growth": Fault(
        lambda folder: grpo(
            folder, reward_funcs=[arena_accuracy, length_reward], reward_weights=[0.0, 1.0], max_steps=120
        ),
        120,
        {"shaping_dominates": "the reward is length alone"},
    ),
    "shaping_dominates": Fault(
        lambda folder: grpo(
            folder, reward_funcs=[arena_accuracy, brevity_reward], reward_weights=[1.0, 2.0], max_steps=40
        ),
        32,
    ),
    "held_out_falls": Fault(by_heart, 200),
    "unparseable_answers": Fault(unreadable, 24),
    "gradient_spikes": Fault(
        lambda folder: grpo(
            folder, reward_funcs=SometimesLarge(), scale_rewards="none", learning_rate=2e-5, max_steps=96
        ),
        64,
        onset=28,
    ),
    "not_finite": Fault(not_finite, 4),
    "weights_not_moving": Fault(rounded_away, 24),
    "kl_runaway": Fault(far, 80),
    "critic_explains_nothing": Fault(blind, 72),
}


def findings_of(fault: Fault, folder: Path) -> tuple[tuple[Finding, ...], list[dict[str, Any]]]:
    """Trains and returns what was found, and the log."""
    trainer = fault.make(folder)
    callback = DiagnosisCallback()
    trainer.add_callback(callback)
    trainer.train()
    return callback.findings, trainer.state.log_history
