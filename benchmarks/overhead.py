"""
What `DAPOTrainer` costs over `trl.GRPOTrainer` with every toggle off: a ratio of seconds, measured side by side.

Both trainers do the same work, bit for bit, so the runs of a pair differ in overhead and noise alone. Pairs alternate
in order, and the median of their ratios is reported with a bootstrap interval; CPU seconds stand beside wall seconds
because they say more on a machine that is shared.

    python benchmarks/overhead.py --pairs 12
"""

import argparse
import random
import statistics
import tempfile
import time
import warnings
from dataclasses import fields

import torch
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from trl_dapo import DAPOConfig, DAPOTrainer
from trl_dapo.arena import arena_accuracy, load_warm_start, train_dataset


BOUND = 1.02


def config(folder: str, rollouts: int) -> DAPOConfig:
    """GRPO without KL on the arena: 8 prompts of 8 generations, 4 updates per rollout."""
    return DAPOConfig.ladder_start(
        folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
        num_generations=8,
        per_device_train_batch_size=16,
        updates_per_rollout=4,
        max_completion_length=40,
        max_steps=4 * rollouts,
        learning_rate=1e-4,
    )


def seconds(trainer_class: type[GRPOTrainer], args: GRPOConfig) -> tuple[float, float, float]:
    """Trains from the warm start; returns wall seconds, CPU seconds and the final loss."""
    model, tokenizer = load_warm_start()
    trainer = trainer_class(
        model=model,
        reward_funcs=arena_accuracy,
        args=args,
        train_dataset=train_dataset(512),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.train()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall, cpu, trainer.state.log_history[-2]["loss"]


def pair(rollouts: int, ours_first: bool) -> tuple[float, float]:
    """Returns our wall and CPU seconds divided by TRL's, measured one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        ours = config(folder, rollouts)
        values = {own.name: getattr(ours, own.name) for own in fields(GRPOConfig) if own.init}
        theirs = GRPOConfig(**{**values, "generation_batch_size": None})
        runs = [("ours", DAPOTrainer, ours), ("theirs", GRPOTrainer, theirs)]
        measured = {name: seconds(cls, args) for name, cls, args in (runs if ours_first else runs[::-1])}
    if measured["ours"][2] != measured["theirs"][2]:
        raise SystemExit("the two trainers did not do the same work: their losses differ")
    return measured["ours"][0] / measured["theirs"][0], measured["ours"][1] / measured["theirs"][1]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Returns the median and its 95 % bootstrap interval."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return statistics.median(values), medians[50], medians[1949]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--rollouts", type=int, default=6)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(1)

    pair(1, ours_first=True)  # imports and caches
    ratios = [pair(options.rollouts, ours_first=bool(index % 2)) for index in range(options.pairs)]
    for name, values in zip(("wall", "CPU"), zip(*ratios, strict=True), strict=True):
        median, low, high = interval(list(values))
        print(f"{name} seconds, DAPOTrainer / GRPOTrainer, all toggles off: {median:.4f} ({low:.4f} to {high:.4f})")
    verdict = "within" if statistics.median(ratio[1] for ratio in ratios) <= BOUND else "ABOVE"
    print(f"{verdict} the bound of {BOUND} over {options.pairs} pairs of {options.rollouts} rollouts")


if __name__ == "__main__":
    main()
