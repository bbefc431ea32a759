"""
One training run on the arena, up to a number of generated completions.

The invariant: a run is a function of its arm, its seed and its budget; what watches it changes nothing.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from trl_dapo.arena import ArenaScore, arena_accuracy, evaluate, held_out_dataset, load_warm_start, train_dataset
from trl_dapo.dapo.config import DAPOConfig
from trl_dapo.dapo.trainer import DAPOTrainer


PROMPTS, GENERATIONS, UPDATES = 16, 8, 8
MAX_COMPLETION_LENGTH = 40
TRAINING_PROMPTS = 4096
DEFAULT_LEARNING_RATE = 2e-4

# On a CPU, and with the paper's warm-up of 20 rollouts cut to one: the whole run has a few dozen
SETTINGS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": UPDATES,
    "num_generations": GENERATIONS,
    "per_device_train_batch_size": PROMPTS * GENERATIONS // UPDATES,
    "updates_per_rollout": UPDATES,
    "max_completion_length": MAX_COMPLETION_LENGTH,
    "adam_beta2": 0.99,
    "warmup_steps": UPDATES,
}


@dataclass(frozen=True)
class Arm:
    """A row of the comparison: its name, how its config is made, and what trains."""

    name: str
    config: Callable[..., DAPOConfig]
    trainer: type[DAPOTrainer] = DAPOTrainer


GRPO = Arm("GRPO", DAPOConfig.naive_grpo)
DAPO = Arm("DAPO", DAPOConfig)


@dataclass(frozen=True)
class Example:
    """A completion of the last rollout. Untrusted text: escape it before showing."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Point:
    """
    What is known after a rollout.

    `accuracy`, `informative`, `length` and `truncated` are of all completions generated for it, `refill_rounds` of the
    rounds that it took, `entropy` is in nats per token, `held_out` is only measured now and then.
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
class ArmResult:
    """The curve of a run, its score on held-out prompts, what it generated and the seconds that it trained."""

    name: str
    seed: int
    completions: int
    updates: int
    seconds: float
    score: ArenaScore
    curve: list[Point] = field(default_factory=list)


Listener = Callable[[Point], None]


def run_arm(
    arm: Arm,
    seed: int,
    budget: int,
    listener: Listener,
    eval_every: int = 0,
    learning_rate: float = DEFAULT_LEARNING_RATE,
    training_prompts: int = TRAINING_PROMPTS,
) -> ArmResult:
    """
    Returns the result of training from the warm start until `budget` completions are generated.

    Args:
        arm ([`Arm`]):
            What to train with.
        seed (`int`):
            Seed of the prompts and of the sampling.
        budget (`int`):
            Completions to generate; training ends with the rollout that reaches it.
        listener (`Callable[[Point], None]`):
            Called after each rollout.
        eval_every (`int`, *optional*, defaults to `0`):
            Rollouts between two measurements on held-out prompts; `0` for none.
        learning_rate (`float`, *optional*, defaults to `2e-4`):
            Peak and, after the warm-up, constant learning rate of both arms.
        training_prompts (`int`, *optional*, defaults to `4096`):
            Size of the training dataset.
    """
    with tempfile.TemporaryDirectory() as folder:
        rollouts = -(-budget // (PROMPTS * GENERATIONS))
        values = {**SETTINGS, "seed": seed, "learning_rate": learning_rate, "max_steps": rollouts * UPDATES}
        model, tokenizer = load_warm_start()
        trainer = arm.trainer(
            model=model,
            reward_funcs=arena_accuracy,
            args=arm.config(folder, **values),
            train_dataset=train_dataset(training_prompts, seed=seed),
            processing_class=tokenizer,
        )
        watcher = _Watcher(trainer, budget, listener, eval_every)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(watcher)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started - watcher.seconds
        return ArmResult(
            name=arm.name,
            seed=seed,
            completions=trainer.completions_generated,
            updates=trainer.state.global_step,
            seconds=seconds,
            score=held_out_score(trainer.model, tokenizer),
            curve=watcher.curve,
        )


def held_out_score(model: Any, tokenizer: Any, prompts: int = 225, samples: int = 8) -> ArenaScore:
    """Returns the score on prompts that no run is trained on, the same for every run."""
    dataset = held_out_dataset(prompts)
    return evaluate(model, tokenizer, dataset, samples=samples, max_new_tokens=MAX_COMPLETION_LENGTH)


class _Watcher(TrainerCallback):
    """Collects the curve, and ends the run at the first rollout's end at which the budget is reached."""

    def __init__(self, trainer: DAPOTrainer, budget: int, listener: Listener, eval_every: int) -> None:
        self.trainer = trainer
        self.budget = budget
        self.listener = listener
        self.eval_every = eval_every
        self.curve: list[Point] = []
        self.seconds = 0.0  # spent on measuring, not on training

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
        logs: dict[str, Any] = self.trainer._logs
        rows = zip(logs["prompt"], logs["completion"], logs["rewards"]["arena_accuracy"], strict=True)
        return next((Example(prompt, completion) for prompt, completion, value in rows if value == reward), None)
