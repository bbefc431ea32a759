"""
One training run on the arena, until a number of completions is generated.

The same method, seed and budget always give the same run. Watching it or measuring it on the way changes nothing.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from trl_dapo.arena import ArenaScore, arena_accuracy, evaluate, held_out_dataset, load_warm_start, train_dataset
from trl_dapo.arena.settings import (
    CPU_FIELDS,
    GENERATIONS,
    LEARNING_RATE,
    MAX_COMPLETION_LENGTH,
    PROMPTS,
    ROLLOUT_FIELDS,
    TRAINING_PROMPTS,
    UPDATES,
)
from trl_dapo.dapo.config import DAPOConfig
from trl_dapo.dapo.trainer import DAPOTrainer
from trl_dapo.host.state import HostState


DEMO_FIELDS: dict[str, Any] = {
    **CPU_FIELDS,
    **ROLLOUT_FIELDS,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": UPDATES,
    "updates_per_rollout": UPDATES,
    "adam_beta2": 0.99,
    # One rollout: the paper warms up for 20, and this whole run has a few dozen
    "warmup_steps": UPDATES,
}


@dataclass(frozen=True)
class Method:
    """What is compared: a name, the function or class that makes the config, and the trainer."""

    name: str
    config: Callable[..., DAPOConfig]
    trainer: type[DAPOTrainer] = DAPOTrainer


# Without the KL term that naive GRPO has: the two differ in DAPO's parts alone
GRPO = Method("GRPO", DAPOConfig.ladder_start)
DAPO = Method("DAPO", DAPOConfig)


@dataclass(frozen=True)
class Example:
    """A completion of the last rollout. The text is untrusted: escape it before showing it."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Point:
    """
    The state of a run after a rollout.

    `accuracy`, `informative`, `length` and `truncated` cover all completions generated for the rollout, also those
    that were dropped. `entropy` is in nats per token. `held_out` is measured in some rollouts only.
    """

    rollout: int
    completions: int
    accuracy: float
    informative: float
    entropy: float
    length: float
    truncated: float
    refill_rounds: float
    held_out: float | None = None
    right: Example | None = None
    wrong: Example | None = None


@dataclass(frozen=True)
class RunResult:
    """The result of a run: its final score on held-out prompts, its curve, its counts, and its seconds of training."""

    name: str
    seed: int
    completions: int
    updates: int
    seconds: float
    score: ArenaScore
    curve: list[Point] = field(default_factory=list)


Listener = Callable[[Point], None]


def run_method(
    method: Method,
    seed: int,
    budget: int,
    listener: Listener,
    eval_every: int = 0,
    learning_rate: float = LEARNING_RATE,
    training_prompts: int = TRAINING_PROMPTS,
) -> RunResult:
    """
    Trains from the warm start until `budget` completions are generated, and returns the result.

    Args:
        method ([`Method`]):
            Config and trainer.
        seed (`int`):
            Seed of the training prompts and of the sampling.
        budget (`int`):
            Completions to generate. Training ends with the rollout that reaches it.
        listener (`Callable[[Point], None]`):
            Called after each rollout.
        eval_every (`int`, *optional*, defaults to `0`):
            Rollouts between two measurements on held-out prompts. `0` turns them off.
        learning_rate (`float`, *optional*, defaults to `2e-4`):
            Learning rate, constant after the warm-up.
        training_prompts (`int`, *optional*, defaults to `4096`):
            Size of the training dataset.
    """
    with tempfile.TemporaryDirectory() as folder:
        rollouts = -(-budget // (PROMPTS * GENERATIONS))
        values = {**DEMO_FIELDS, "seed": seed, "learning_rate": learning_rate, "max_steps": rollouts * UPDATES}
        model, tokenizer = load_warm_start()
        trainer = method.trainer(
            model=model,
            reward_funcs=arena_accuracy,
            args=method.config(folder, **values),
            train_dataset=train_dataset(training_prompts, seed=seed),
            processing_class=tokenizer,
        )
        watcher = _Watcher(trainer, budget, listener, eval_every)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(watcher)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started - watcher.seconds
        return RunResult(
            name=method.name,
            seed=seed,
            completions=trainer.completions_generated,
            updates=trainer.state.global_step,
            seconds=seconds,
            score=held_out_score(trainer.model, tokenizer),
            curve=watcher.curve,
        )


def held_out_score(model: Any, tokenizer: Any, prompts: int = 225, samples: int = 8) -> ArenaScore:
    """Returns the score on held-out prompts. They are the same for every run, and none is trained on."""
    dataset = held_out_dataset(prompts)
    return evaluate(model, tokenizer, dataset, samples=samples, max_new_tokens=MAX_COMPLETION_LENGTH)


class _Watcher(TrainerCallback):
    """Collects the curve, and stops training at the end of the rollout that reaches the budget."""

    def __init__(self, trainer: DAPOTrainer, budget: int, listener: Listener, eval_every: int) -> None:
        self.trainer = trainer
        self.budget = budget
        self.listener = listener
        self.eval_every = eval_every
        self.curve: list[Point] = []
        self.seconds = 0.0  # spent in this callback, not in training

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % UPDATES == 0 and self.trainer.completions_generated >= self.budget:
            control.should_training_stop = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "dapo/accuracy_generated" not in logs:
            return
        started = time.perf_counter()
        rollout = len(self.curve) + 1
        measure = self.eval_every and rollout % self.eval_every == 0
        point = Point(
            rollout=rollout,
            completions=self.trainer.completions_generated,
            accuracy=logs["dapo/accuracy_generated"],
            informative=logs["dapo/frac_informative"],
            entropy=logs["entropy"],
            length=logs["dapo/mean_length_generated"],
            truncated=logs["dapo/overlong_frac"],
            refill_rounds=logs["dapo/refill_rounds"],
            held_out=self._measure() if measure else None,
            right=self._example(1.0),
            wrong=self._example(0.0),
        )
        self.curve.append(point)
        self.listener(point)
        self.seconds += time.perf_counter() - started

    def _measure(self) -> float:
        return held_out_score(self.trainer.model, self.trainer.processing_class, prompts=90, samples=4).accuracy

    def _example(self, reward: float) -> Example | None:
        logs = HostState(self.trainer).completions_table
        rows = zip(logs["prompt"], logs["completion"], logs["rewards"]["arena_accuracy"], strict=True)
        return next((Example(prompt, completion) for prompt, completion, value in rows if value == reward), None)
