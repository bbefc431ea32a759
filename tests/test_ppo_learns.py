"""PPO on the arena, from the warm start: final accuracy against that of the start, over seeds."""

import statistics

import pytest
from peft import LoraConfig
from transformers import PrinterCallback

from trl_dapo import PPOConfig, PPOTrainer
from trl_dapo.arena import arena_accuracy, load_warm_start, train_dataset
from trl_dapo.demo.run import held_out_score


SEEDS = (0, 1, 2)
ROLLOUTS, UPDATES = 8, 8
# Student's t for a two-sided interval of 95 % and 2 degrees of freedom
T_95 = 4.303


def final_accuracy(folder, seed: int) -> float:
    """Trains on 1024 completions, policy and critic as adapters of one base; returns the held-out accuracy."""
    model, tokenizer = load_warm_start()
    args = PPOConfig(
        str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        num_iterations=1,
        per_device_train_batch_size=16,
        steps_per_generation=UPDATES,
        max_completion_length=40,
        learning_rate=1e-3,
        critic_learning_rate=3e-3,
        lr_scheduler_type="constant",
        adam_beta2=0.99,
        seed=seed,
        max_steps=ROLLOUTS * UPDATES,
    )
    trainer = PPOTrainer(
        model,
        arena_accuracy,
        args,
        train_dataset(2048, seed=seed),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return held_out_score(trainer.model, tokenizer).accuracy


@pytest.mark.slow
def test_accuracy_rises_beyond_its_interval(tmp_path):
    start = held_out_score(*load_warm_start()).accuracy
    finals = [final_accuracy(tmp_path / str(seed), seed) for seed in SEEDS]
    mean, half = statistics.mean(finals), T_95 * statistics.stdev(finals) / len(finals) ** 0.5
    assert mean - half > start + 0.2, f"start {start:.3f}, final {mean:.3f} +- {half:.3f} ({finals})"
