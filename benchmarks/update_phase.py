"""
The update phase with compact micro-batches against TRL's own: seconds, padding, memory, parameters, side by side.

Both trainers get the same rollout from a deterministic `rollout_func`, so that nothing is generated and what is timed
is log-probs and updates. Four distributions of completion lengths; with and without LoRA and gradient checkpointing.
The limit is what TRL's padded tokens are over the tokens of rows that can move the policy: the gain of a run that
computes nothing else, if time went with tokens. Peak memory is that of one accumulation step or log-prob pass, beyond
what was there before.

    python benchmarks/update_phase.py                     # CPU, one thread
    python benchmarks/update_phase.py --lengths lognormal --pairs 5
    python benchmarks/update_phase.py --trainer ppo       # ours with compact micro-batches and without; or `grpo`
"""

import argparse
import contextlib
import io
import logging
import math
import random
import statistics
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from trl_dapo import DAPOConfig, DAPOTrainer, PPOConfig, PPOTrainer
from trl_dapo import GRPOConfig as OwnGRPOConfig
from trl_dapo import GRPOTrainer as OwnGRPOTrainer
from trl_dapo.arena import build_tokenizer


CAP, PROMPT = 512, 24
GENERATIONS, ROWS, STEPS, UPDATES = 8, 4, 8, 2  # 64 rows a rollout, 32 an update
SPEEDUP, OF_LIMIT, CONSTANT, MEMORY = 3.0, 1.25, 1.02, 0.5


def lengths(kind: str, count: int) -> list[int]:
    """Completion lengths; those of the cap are truncated."""
    draw = random.Random(f"lengths/{kind}")
    rows = {
        "constant": lambda: 160,
        "uniform": lambda: draw.randint(8, CAP - 1),
        "lognormal": lambda: min(CAP, max(8, int(draw.lognormvariate(math.log(120), 0.8)))),
        "truncated": lambda: CAP if draw.random() < 0.3 else draw.randint(8, CAP - 1),
    }[kind]
    return [rows() for _ in range(count)]


def rollout(kind: str) -> Callable[[list, Any], dict[str, list]]:
    """A `rollout_func` that returns rows of the given lengths, the same ones in every call."""

    def rolled(prompts: list, trainer: Any) -> dict[str, list]:
        tokenizer, draw = trainer.processing_class, random.Random(f"ids/{kind}")
        usable = [i for i in range(len(tokenizer)) if i not in (tokenizer.eos_token_id, tokenizer.pad_token_id)]
        completions = [draw.choices(usable, k=length) for length in lengths(kind, len(prompts))]
        for row, ids in enumerate(completions):
            ids[0] = usable[row % 2]
            if len(ids) < CAP:
                ids[-1] = tokenizer.eos_token_id
        return {
            "prompt_ids": [draw.choices(usable, k=draw.randint(PROMPT // 2, PROMPT)) for _ in prompts],
            "completion_ids": completions,
            "logprobs": [[-1.0] * len(ids) for ids in completions],
        }

    return rolled


def alternating(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    """Every second row is right, so that every row has an advantage."""
    return [float(ids[0] % 2) for ids in completion_ids]


def policy(hidden: int, layers: int) -> LlamaForCausalLM:
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=2 * CAP,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            dtype="float32",
        )
    )
    model.config._name_or_path = "benchmark"
    return model


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is entered and are alive at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, Any] = {}
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self.live and storage._cdata not in given:
                    self._born(storage)
        return result

    def _born(self, storage: torch.UntypedStorage) -> None:
        number, size = storage._cdata, storage.nbytes()

        def died(_: Any) -> None:
            self.bytes -= size
            self.live.pop(number, None)

        self.live[number] = weakref.ref(storage, died)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)


@dataclass
class Measured:
    """One run: CPU seconds, peak bytes (0 where not asked for), parameters, and the last log."""

    seconds: float
    peak: int
    parameters: dict[str, torch.Tensor]
    log: dict[str, Any]


def run(
    trainer_class: type[GRPOTrainer], args: GRPOConfig, kind: str, lora: bool, size: tuple, memory: bool
) -> Measured:
    trainer = trainer_class(
        model=policy(*size),
        reward_funcs=alternating,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": [f"{i}" for i in range(64)]}),
        processing_class=build_tokenizer(),
        peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None,
        rollout_func=rollout(kind),
    )
    trainer.remove_callback(PrinterCallback)
    peaks = []
    step = trainer.training_step

    def watched(*given: Any, **named: Any) -> torch.Tensor:
        with PeakBytes() as counter:
            loss = step(*given, **named)
        peaks.append(counter.peak)
        return loss

    if memory:
        trainer.training_step = watched
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    seconds = time.process_time() - started
    parameters = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    return Measured(seconds, max(peaks, default=0), parameters, trainer.state.log_history[-2])


# Of all configs here
SETTINGS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "dataloader_pin_memory": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "mask_truncated_completions": True,
    "num_generations": GENERATIONS,
    "per_device_train_batch_size": ROWS,
    "gradient_accumulation_steps": STEPS,
    "steps_per_generation": UPDATES * STEPS,
    "max_completion_length": CAP,
    "max_steps": UPDATES,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "adam_epsilon": 1e-4,
}

Side = tuple[type[GRPOTrainer], GRPOConfig]


def sides(trainer: str, folder: str, checkpointing: bool) -> dict[str, Side]:
    """
    Trainers and configs of the same training: compact, compact and bounded by the longest row, and not compact.

    For `"dapo"`, without dynamic sampling and length penalty, the last is TRL's trainer.
    """
    settings = {**SETTINGS, "output_dir": folder, "gradient_checkpointing": checkpointing}
    bounded = {"max_tokens_per_microbatch": PROMPT + CAP}
    if trainer == "dapo":
        off = {"dynamic_sampling": False, "soft_overlong_punishment": False}
        ours, small = DAPOConfig(**settings, **off), DAPOConfig(**settings, **off, **bounded)
        values = {own.name: getattr(ours, own.name) for own in fields(GRPOConfig) if own.init}
        theirs = GRPOConfig(**{**values, "generation_batch_size": None})
        return {"ours": (DAPOTrainer, ours), "bounded": (DAPOTrainer, small), "theirs": (GRPOTrainer, theirs)}
    cls, made = (PPOTrainer, PPOConfig) if trainer == "ppo" else (OwnGRPOTrainer, OwnGRPOConfig)
    settings |= {"beta": 0.0} if trainer == "ppo" else {"loss_type": "grpo"}
    return {
        "ours": (cls, made(**settings)),
        "bounded": (cls, made(**settings, **bounded)),
        "theirs": (cls, made(**settings, compact_microbatches=False)),
    }


def difference(ours: Measured, theirs: Measured) -> float:
    """Largest difference of a parameter tensor relative to its norm."""
    return max(
        ((value - theirs.parameters[name]).norm() / theirs.parameters[name].norm().clamp(min=1e-3)).item()
        for name, value in ours.parameters.items()
    )


@dataclass
class Row:
    """A row of the table."""

    kind: str
    model: str
    gain: float
    limit: float
    padding: tuple[float, float]
    memory: float
    bounded: float
    difference: float


def measure(trainer: str, kind: str, lora: bool, checkpointing: bool, size: tuple, pairs: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        given = sides(trainer, folder, checkpointing)
        ratios = []
        for index in range(pairs):
            order = ("ours", "theirs") if index % 2 else ("theirs", "ours")
            seconds = {name: run(*given[name], kind, lora, size, memory=False).seconds for name in order}
            ratios.append(seconds["theirs"] / seconds["ours"])
        mine, small, other = (run(*side, kind, lora, size, memory=True) for side in given.values())
    rows = lengths(kind, ROWS * STEPS * UPDATES)
    live = [length for length in rows if length < CAP]
    prompt = 0.75 * PROMPT
    padded = len(rows) * (PROMPT + max(rows))
    name = ("LoRA" if lora else "all weights") + (", checkpointing" if checkpointing else "")
    return Row(
        kind,
        name,
        statistics.median(ratios),
        padded / (sum(live) + prompt * len(live)),
        (padded / (sum(rows) + prompt * len(rows)), mine.log["packing/padded_per_real_token"]),
        mine.peak / other.peak,
        small.peak / other.peak,
        max(difference(mine, other), difference(small, other)),
    )


def show(rows: list[Row], console: Console) -> None:
    table = Table(title="TRL's seconds over ours, and what they are made of")
    for column in (
        "lengths",
        "trained",
        "gain (CPU)",
        "limit",
        "padded/real: TRL",
        "ours",
        "peak memory",
        "bounded",
        "parameters",
    ):
        table.add_column(column, justify="left" if column in ("lengths", "trained") else "right")
    for row in rows:
        numbers = (f"{row.gain:.2f}x", f"{row.limit:.2f}x", f"{row.padding[0]:.2f}", f"{row.padding[1]:.2f}")
        table.add_row(
            row.kind, row.model, *numbers, f"{row.memory:.2f}", f"{row.bounded:.2f}", f"{row.difference:.0e}"
        )
    console.print(table)


def verdicts(rows: list[Row]) -> list[str]:
    """Returns one line per target and row that it is about."""
    lines = []
    for row in rows:
        if row.kind == "lognormal":
            lines.append(_verdict(row.gain >= SPEEDUP, f"{row.model}: {row.gain:.2f}x, at least {SPEEDUP}x"))
            lines.append(
                _verdict(
                    row.gain >= row.limit / OF_LIMIT,
                    f"{row.model}: {row.limit / row.gain:.2f} of the limit, at most {OF_LIMIT}",
                )
            )
            lines.append(
                _verdict(
                    row.bounded <= MEMORY,
                    f"{row.model}: {row.bounded:.2f} of TRL's peak memory when bounded, at most {MEMORY}",
                )
            )
        if row.kind == "constant":
            lines.append(
                _verdict(
                    1 / row.gain <= CONSTANT,
                    f"{row.model}: {1 / row.gain:.3f} of TRL's seconds at constant lengths, at most {CONSTANT}",
                )
            )
    return lines


def _verdict(met: bool, text: str) -> str:
    return f"{'met' if met else 'MISSED'}: {text}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ["constant", "uniform", "lognormal", "truncated"]
    parser.add_argument("--lengths", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--only", choices=["all-weights", "lora"], help="one of the two, by default both")
    parser.add_argument("--trainer", choices=["dapo", "grpo", "ppo"], default="dapo")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)

    console, size = Console(width=150), (options.hidden, options.layers)
    adapters = {None: [False, True], "all-weights": [False], "lora": [True]}[options.only]
    measure(options.trainer, "constant", lora=False, checkpointing=False, size=(32, 1), pairs=1)  # imports, caches
    rows = []
    for kind in options.lengths:
        for lora in adapters:
            for checkpointing in (False, True):
                rows.append(measure(options.trainer, kind, lora, checkpointing, size, options.pairs))
                show(rows[-1:], console)
    show(rows, console)
    for line in verdicts(rows) if options.trainer == "dapo" else []:
        console.print(line, highlight=False)


if __name__ == "__main__":
    main()
