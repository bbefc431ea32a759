"""
The classical RLHF path on the built-in task: collect preferences between completions of the policy, train a reward
model on them, and train the policy against it with PPO.

The reward model never sees whether a completion is right, only which of two is preferred. The policy sees only the
reward model. The result is measured with the task's own reward on held-out prompts:

    python examples/preferences_to_ppo.py
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig
from transformers import PrinterCallback

from trl_dapo import PPOConfig, PPOTrainer, RewardConfig, RewardModelFunction, RewardTrainer
from trl_dapo.arena import (
    held_out_dataset,
    load_reward_start,
    load_warm_start,
    preference_dataset,
    sample,
    train_dataset,
)
from trl_dapo.arena.settings import CPU_FIELDS
from trl_dapo.demo.run import held_out_score


# Student's t for a two-sided 95 % interval, by degrees of freedom
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
QUIETLY_ON_CPU = {**CPU_FIELDS, "report_to": "none", "disable_tqdm": True}


def own_preferences(prompts: int, seed: int, split: str = "train") -> Dataset:
    """Pairs of completions by the warm start, a right one and a wrong one for the same prompt."""
    model, tokenizer = load_warm_start()
    problems = train_dataset(prompts, seed=seed) if split == "train" else held_out_dataset(prompts)
    groups: dict[str, tuple[list[str], list[str]]] = {}
    for one in sample(model, tokenizer, problems, samples=4, seed=seed):
        groups.setdefault(one.prompt, ([], []))[int(one.accuracy == 0)].append(one.completion)
    rows = [(prompt, *pair) for prompt, (right, wrong) in groups.items() for pair in zip(right, wrong, strict=False)]
    return Dataset.from_list([{"prompt": prompt, "chosen": yes, "rejected": no} for prompt, yes, no in rows])


def reward_model(folder: Path, prompts: int, steps: int) -> RewardModelFunction:
    """Trains a reward model on preferences, prints its accuracy on held-out ones, and saves it."""
    model, tokenizer = load_reward_start()
    trainer = RewardTrainer(
        model,
        args=RewardConfig(
            str(folder),
            per_device_train_batch_size=64,
            per_device_eval_batch_size=64,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            warmup_steps=20,
            max_steps=steps,
            logging_steps=steps,
            save_strategy="no",
            **QUIETLY_ON_CPU,
        ),
        train_dataset=concatenate_datasets([own_preferences(prompts, seed=100), preference_dataset(32 * steps)]),
        eval_dataset=own_preferences(400, seed=101, split="held_out"),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    scores = trainer.evaluate()
    print(f"reward model: right on {scores['eval_accuracy']:.1%} of held-out preferences")
    trainer.save_model(str(folder))
    return RewardModelFunction(str(folder), chunk_size=128, normalize=True, clip=3.0)


def policy(folder: Path, reward: RewardModelFunction, rollouts: int, seed: int) -> float:
    """Trains the warm start against the reward model; returns its accuracy on held-out problems."""
    model, tokenizer = load_warm_start()
    trainer = PPOTrainer(
        model,
        reward,
        PPOConfig(
            str(folder),
            num_iterations=1,
            per_device_train_batch_size=16,
            steps_per_generation=8,
            max_completion_length=40,
            beta=0.05,
            learning_rate=1e-3,
            critic_learning_rate=3e-3,
            lr_scheduler_type="constant",
            adam_beta2=0.99,
            max_steps=8 * rollouts,
            logging_steps=8,
            save_strategy="no",
            seed=seed,
            **QUIETLY_ON_CPU,
        ),
        train_dataset(2048, seed=seed),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    scores = [log["objective/scores"] for log in trainer.state.log_history if "objective/scores" in log]
    solved = held_out_score(trainer.model, tokenizer).accuracy
    print(f"PPO, seed {seed}: reward {scores[0]:.2f} -> {scores[-1]:.2f}, held-out accuracy {solved:.3f}")
    return solved


def main(argv: list[str] | None = None) -> tuple[float, list[float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=2048, help="prompts with completions to compare")
    parser.add_argument("--reward_steps", type=int, default=200)
    parser.add_argument("--rollouts", type=int, default=8)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    started = time.perf_counter()
    start = held_out_score(*load_warm_start()).accuracy
    print(f"warm start: held-out accuracy {start:.3f}")
    with tempfile.TemporaryDirectory() as folder:
        reward = reward_model(Path(folder) / "reward", options.prompts, options.reward_steps)
        finals = [policy(Path(folder) / "ppo", reward, options.rollouts, seed) for seed in range(options.seeds)]
    if len(finals) > 1:
        half = T_95[min(len(finals) - 1, 4)] * statistics.stdev(finals) / len(finals) ** 0.5
        print(f"PPO: {statistics.mean(finals):.3f} ± {half:.3f} over {len(finals)} seeds, from {start:.3f}")
    print(f"{time.perf_counter() - started:.0f} s")
    return start, finals


if __name__ == "__main__":
    main()
