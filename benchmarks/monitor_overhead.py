"""
What the live view and the diagnosis cost together, as a share of a step on the arena.

Two measurements in one run. The first is accounted: the CPU seconds that the callbacks and the drawing thread take
themselves, as a share of those of the whole training. The second is paired: runs with and without them alternate, and
the median of the ratios of their CPU seconds is reported with a bootstrap interval. The first is precise on a machine
that is shared; the second would also see what the accounts miss.

    python benchmarks/monitor_overhead.py --pairs 8
"""

import argparse
import functools
import io
import random
import statistics
import tempfile
import time
import warnings
from collections import Counter
from typing import Any

import torch
from rich.console import Console
from transformers import PrinterCallback

from trl_dapo import DAPOConfig, DAPOTrainer, DiagnosisCallback, LiveView
from trl_dapo.arena import arena_accuracy, load_warm_start, train_dataset
from trl_dapo.view import screens
from trl_dapo.view.terminal import TerminalScreen


BOUND = 0.01
METHODS = ("on_train_begin", "on_step_begin", "on_substep_end", "on_step_end", "on_log", "on_train_end")
TOLD = ("written", "judged", "logs", "evaluates")


def config(folder: str, rollouts: int) -> DAPOConfig:
    """DAPO on the arena: 8 prompts of 8 generations, 4 updates per rollout, a log every step."""
    return DAPOConfig(
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


def counted(spent: Counter[str], owner: Any, name: str) -> None:
    """Adds the CPU seconds of a method of an object to its account."""
    method = getattr(owner, name, None)
    if method is None:
        return

    @functools.wraps(method)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        try:
            return method(*args, **kwargs)
        finally:
            spent[type(owner).__name__] += time.thread_time() - began

    setattr(owner, name, timed)


def seconds(rollouts: int, watched: bool) -> tuple[float, Counter[str]]:
    """Trains from the warm start; returns CPU seconds of all threads, and those of the callbacks by class."""
    model, tokenizer = load_warm_start()
    spent: Counter[str] = Counter()
    callbacks: list[Any] = []
    if watched:
        diagnosis = DiagnosisCallback()
        callbacks = [diagnosis, LiveView(diagnosis, samples_every=4, show="terminal")]
        for one in callbacks:
            for name in METHODS + (TOLD if isinstance(one, LiveView) else ()):
                counted(spent, one, name)
    with tempfile.TemporaryDirectory() as folder:
        trainer = DAPOTrainer(
            model=model,
            reward_funcs=arena_accuracy,
            args=config(folder, rollouts),
            train_dataset=train_dataset(512),
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        with drawing_counted(spent):
            began = time.process_time()
            trainer.train()
            return time.process_time() - began, spent


class drawing_counted:
    """Lets panels be drawn into nothing, and adds what that takes to an account."""

    def __init__(self, spent: Counter[str]) -> None:
        self._spent = spent

    def __enter__(self) -> None:
        self._console, self._draw = screens.Console, TerminalScreen._draw_on
        spent, draw = self._spent, self._draw

        def drawn(screen: TerminalScreen, state: Any) -> None:
            began = time.thread_time()
            draw(screen, state)
            spent["drawing"] += time.thread_time() - began

        screens.Console = lambda **kwargs: Console(file=io.StringIO(), force_terminal=True, width=120, height=40)
        TerminalScreen._draw_on = drawn

    def __exit__(self, *error: object) -> None:
        screens.Console, TerminalScreen._draw_on = self._console, self._draw


def interval(values: list[float]) -> tuple[float, float, float]:
    """Returns the median and its 95 % bootstrap interval."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return statistics.median(values), medians[50], medians[1949]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--rollouts", type=int, default=6)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)

    seconds(1, watched=True)  # imports and caches
    shares, ratios, accounts, whole = [], [], Counter(), 0.0
    for index in range(options.pairs):
        found = {watched: seconds(options.rollouts, watched) for watched in ((True, False), (False, True))[index % 2]}
        spent, account = found[True]
        accounts.update(account)
        whole += spent
        shares.append(sum(account.values()) / spent)
        ratios.append(spent / found[False][0])
    for name, value in accounts.items():
        print(f"{name}: {value / whole:.3%} of the CPU seconds of a training")
    share = sum(accounts.values()) / whole
    print(f"together: {share:.3%} (runs from {min(shares):.3%} to {max(shares):.3%})")
    print("CPU seconds with / without: {:.4f} ({:.4f} to {:.4f})".format(*interval(ratios)))
    steps = 4 * options.rollouts * options.pairs
    print(
        f"{'within' if share <= BOUND else 'ABOVE'} the bound of {BOUND:.0%}; {1000 * whole / steps:.0f} ms CPU a step"
    )


if __name__ == "__main__":
    main()
