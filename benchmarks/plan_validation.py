"""
Memory that is planned against memory that is used: real trainers on the CPU, and published figures of GPUs.

What is used is the running sum of all that PyTorch's allocator gave out and took back while two updates were run, as
its profiler records it, on top of the tensors that were there before. Buffers that kernels take from the allocator are
in it, those that libraries take elsewhere are not. The high water of the process stands beside it, for scale.

    python benchmarks/plan_validation.py                       # tiny models
    python benchmarks/plan_validation.py --smollm2 MODEL       # and SmolLM2-135M: a folder or an id on the Hub
    python benchmarks/plan_validation.py --published           # GPUs
"""

import argparse
import contextlib
import io
import logging
import resource
import tempfile
import time
import warnings
import zlib
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from trl_dapo import DAPOConfig, DAPOTrainer, DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer
from trl_dapo.arena import build_tokenizer
from trl_dapo.planning.known_models import known_config
from trl_dapo.planning.memory import plan_memory
from trl_dapo.planning.run_shape import RunShape


MIB = 2**20
LIMIT = 0.15


@dataclass(frozen=True)
class Case:
    """A run: which trainer, which model, how large."""

    name: str
    algorithm: str = "dapo"
    model: str = "tiny"
    four_bit: bool = False
    lora: bool = True
    prompt: int = 64
    completion: int = 24
    group: int = 4
    rows: int = 8
    microbatches: int = 2
    checkpointing: bool = False
    beta: float = 0.0


CASES = (
    Case("tiny, full", lora=False),
    Case("tiny, LoRA"),
    Case("tiny, LoRA, checkpointing", checkpointing=True),
    Case("tiny, LoRA, 96 tokens", completion=96),
    Case("tiny, LoRA, G 8", group=8, microbatches=4),
    Case("tiny, 4-bit", four_bit=True),
    Case("tiny, 4-bit, PPO", "ppo", four_bit=True),
    Case("tiny, PPO, full", "ppo", lora=False),
    Case("tiny, LoRA, DPO", "dpo"),
    Case("tiny, LoRA, GRPO with reference", "grpo", beta=0.1),
    Case("SmolLM2, LoRA", model="smollm2", completion=48),
    Case("SmolLM2, 4-bit", model="smollm2", four_bit=True, completion=48),
    Case("SmolLM2, 4-bit, checkpointing", model="smollm2", four_bit=True, completion=48, checkpointing=True),
    Case("SmolLM2, 4-bit, 128 tokens", model="smollm2", four_bit=True, completion=128, rows=4),
    Case("SmolLM2, full", model="smollm2", lora=False, completion=48, rows=4),
    Case("SmolLM2, 4-bit, PPO", "ppo", model="smollm2", four_bit=True, completion=48, rows=4),
    Case("SmolLM2, 4-bit, DPO", "dpo", model="smollm2", four_bit=True, completion=48, rows=4),
)


@dataclass
class Measured:
    """What a run took: bytes before it, at its peak, and the high water of the process."""

    before: int
    peak: int
    process: int
    phases: dict[str, int] = field(default_factory=dict)


def lora(case: Case) -> LoraConfig | None:
    """The adapter of a case."""
    if not case.lora:
        return None
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def build(case: Case, source: str | None, folder: str) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    if case.model == "smollm2":
        assert source is not None
        tokenizer = AutoTokenizer.from_pretrained(source)
    else:
        tokenizer = build_tokenizer()
        config = LlamaConfig(
            vocab_size=2048, hidden_size=128, intermediate_size=384, num_hidden_layers=6, num_attention_heads=4,
            num_key_value_heads=2, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )  # fmt: skip
        torch.manual_seed(0)
        source = str(Path(folder) / "model")
        LlamaForCausalLM(config).save_pretrained(source)
        tokenizer.save_pretrained(source)
    more = {"quantization_config": bits} if case.four_bit else {}
    return AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **more), tokenizer


def text(tokenizer: Any, tokens: int, seed: int) -> str:
    """Text of that many tokens."""
    ids = tokenizer("".join(str(i % 10) for i in range(seed, seed + 2 * tokens)), add_special_tokens=False)[
        "input_ids"
    ]
    return tokenizer.decode(ids[:tokens])


def noise(completions: list[str], **kwargs: Any) -> list[float]:
    """A reward that differs between any two completions."""
    return [zlib.crc32(str(completion).encode()) % 1000 / 1000 for completion in completions]


def trainer_of(case: Case, model: Any, tokenizer: Any, folder: str) -> Any:
    """The trainer of a case, on the CPU in float32."""
    common = {
        "output_dir": folder, "use_cpu": True, "bf16": False, "max_steps": 2, "report_to": [], "save_strategy": "no",
        "gradient_checkpointing": case.checkpointing, "optim": "adamw_torch", "disable_tqdm": True,
        "gradient_accumulation_steps": case.microbatches, "seed": 1, "logging_steps": 1,
    }  # fmt: skip
    if case.algorithm == "dpo":
        answer = case.completion
        rows = [
            {
                "prompt": text(tokenizer, case.prompt - 3 * (i % 2), i),
                "chosen": text(tokenizer, answer, i + 5),
                "rejected": text(tokenizer, answer, i + 9),
            }
            for i in range(32)
        ]
        args: Any = DPOConfig(per_device_train_batch_size=case.rows // 2, max_length=None, **common)
        return DPOTrainer(
            model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora(case)
        )
    prompts = [{"prompt": text(tokenizer, case.prompt - 3 * (i % 2), i)} for i in range(64)]
    config, kind = {
        "dapo": (DAPOConfig, DAPOTrainer),
        "grpo": (GRPOConfig, GRPOTrainer),
        "ppo": (PPOConfig, PPOTrainer),
    }[case.algorithm]
    own = {} if case.algorithm == "ppo" else {"num_generations": case.group, "beta": case.beta}
    own |= (
        {"updates_per_rollout": 1, "overlong_filtering": False}
        if case.algorithm == "dapo"
        else {"steps_per_generation": case.microbatches}
    )
    if case.algorithm == "ppo":
        own |= {"num_generations": 1}
    args = config(
        per_device_train_batch_size=case.rows,
        max_completion_length=case.completion,
        generation_kwargs={"min_new_tokens": case.completion},
        **common,
        **own,
    )
    return kind(
        model, reward_funcs=noise, args=args, train_dataset=Dataset.from_list(prompts), processing_class=tokenizer,
        peft_config=lora(case),
    )  # fmt: skip


def standing(*models: Any) -> int:
    """Bytes of all tensors that models hold, constants of quantized weights included."""
    storages: dict[int, int] = {}

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()

    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            add(tensor)
            state = getattr(tensor, "quant_state", None)
            for one in (state, getattr(state, "state2", None)):
                for name in ("absmax", "code", "offset"):
                    add(getattr(one, name, None))
    return sum(storages.values())


def highest(seen: Any) -> int:
    """The most that the running sum of allocations and frees came to."""
    events = [(e.start_ns(), e.nbytes()) for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(size for _, size in sorted(events, key=lambda event: event[0])), default=0)


def measure(case: Case, source: str | None) -> tuple[Measured, Any, tuple[int, int]]:
    """Runs two updates; returns what they took, the model's configuration, and the columns that there were."""
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = build(case, source, folder)
        trainer = trainer_of(case, model, tokenizer, folder)
        models = [trainer.model]
        if case.algorithm == "ppo":
            models.append(trainer.critic.model)
        if getattr(trainer, "ref_model", None) is not None:
            models.append(trainer.ref_model)
        before = standing(*models)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            trainer.train()
        peak = before + highest(seen)
        process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Measured(before, peak, process), model.config, (case.prompt, case.completion)


def shape_of(case: Case, config: Any) -> RunShape:
    """What the command would make of a case."""
    online = case.algorithm != "dpo"
    rows = case.rows * case.microbatches if online else 0
    critic = ("adapter" if case.lora else "model") if case.algorithm == "ppo" else "none"
    reference = "none"
    if case.algorithm == "dpo" or case.algorithm == "ppo" or case.beta:
        reference = "adapter_off" if case.lora else "model"
    scored = case.rows if reference != "none" and online else 0
    return RunShape(
        case.algorithm, config, quantization="4bit" if case.four_bit else None, double_quantization=True,
        lora=lora(case), optimizer="adamw_torch", gradient_checkpointing=case.checkpointing,
        prompt_length=case.prompt, completion_length=case.completion, num_generations=case.group, round_rows=rows,
        chunk_rows=rows, scoring_rows=scored, microbatch_rows=case.rows, microbatches=case.microbatches,
        reference=reference, critic=critic, prefill_once=False,
    )  # fmt: skip


def compare(case: Case, source: str | None) -> tuple[Any, Measured, float]:
    """Returns the plan of a case, what it took, and seconds that planning took."""
    with contextlib.redirect_stdout(io.StringIO()):
        measured, config, _ = measure(case, source)
    config = config.__class__(**{k: v for k, v in config.to_dict().items() if k != "quantization_config"})
    began = time.perf_counter()
    plan = plan_memory(shape_of(case, config), device="cpu")
    return plan, measured, time.perf_counter() - began


@dataclass(frozen=True)
class Published:
    """A figure that somebody published: what of a plan it is compared with, and what was assumed."""

    setup: str
    gib: float
    what: str
    shape: RunShape
    assumed: str


def published() -> list[Published]:
    """Figures of other people's GPUs."""

    def qlora(name: str, rank: int = 16, **more: Any) -> RunShape:
        config = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
        settings = {
            "dtype": "float16", "compute_dtype": "float16", "quantization": "4bit", "double_quantization": True,
            "lora": config, "gradient_checkpointing": True, "optimizer": "paged_adamw_8bit", "prompt_length": 128,
            "completion_length": 256, "num_generations": 8, "round_rows": 8, "chunk_rows": 8, "microbatch_rows": 8,
            "microbatches": 1,
        }  # fmt: skip
        return RunShape("grpo", known_config(name), **{**settings, **more})

    llama3, llama8 = "meta-llama/Llama-3.2-3B", "meta-llama/Llama-3.1-8B"
    notebook = "TRL notebook: r 32, G 8, 8 rows, completion 256; assumed: prompt 128, double quantization"
    thin = "assumed: double quantization"
    whole = "assumed: r 16, G 8, 8 rows, 128 + 256 tokens"
    return [
        Published("T4, 3B NF4", 2.22, "weights", qlora(llama3), thin + ", Llama-3.2-3B"),
        Published("T4, 8B NF4", 5.60, "weights", qlora(llama8), thin + ", Llama-3.1-8B"),
        Published(
            "T4, Qwen3-4B in 16 bits", 7.63, "weights", qlora("Qwen/Qwen3-4B", quantization=None), "bfloat16 weights"
        ),
        Published("RTX 3070, 1.7B QLoRA", 3.67, "peak", qlora("Qwen/Qwen3-1.7B"), whole + ", Qwen3-1.7B"),
        Published("notebook, Llama-3.2-3B", 5.7, "peak", qlora(llama3, 32), notebook),
        Published("notebook, Qwen2.5-7B", 9.2, "peak", qlora("Qwen/Qwen2.5-7B", 32), notebook),
        Published("notebook, Llama-3.1-8B", 9.5, "peak", qlora(llama8, 32), notebook),
        Published("notebook, Qwen3-8B", 9.9, "peak", qlora("Qwen/Qwen3-8B", 32), notebook),
    ]


def show_published(console: Console) -> None:
    """Prints published figures beside plans."""
    table = Table("setup", "of", "published GiB", "planned GiB", "error", "assumed")
    for one in published():
        plan = plan_memory(one.shape)
        items = {item.name: item.bytes for item in plan.phases[0].items}
        size = items["weights"] + items.get("quantization constants", 0) if one.what == "weights" else plan.bytes
        gib = size / 2**30
        table.add_row(one.setup, one.what, f"{one.gib:.2f}", f"{gib:.2f}", f"{gib / one.gib - 1:+.0%}", one.assumed)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--smollm2", help="SmolLM2-135M-Instruct: a folder or an id on the Hub")
    parser.add_argument("--published", action="store_true", help="only published figures of GPUs")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    console = Console(width=150)
    if arguments.published:
        show_published(console)
        return
    table = Table("run", "before", "measured MiB", "planned MiB", "error", "peak phase", "process MiB", "plan s")
    for case in CASES:
        if arguments.only in case.name and (case.model == "tiny" or arguments.smollm2):
            plan, took, seconds = compare(case, arguments.smollm2)
            row = [case.name, *(f"{size / MIB:.1f}" for size in (took.before, took.peak, plan.bytes))]
            row += [
                f"{plan.bytes / took.peak - 1:+.1%}",
                plan.peak.name,
                f"{took.process / MIB:.0f}",
                f"{seconds:.1f}",
            ]
            console.print("  ".join(row))
            table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
