"""
Published figures of other people's GPUs beside plans of the same runs, with what had to be assumed.
"""

from dataclasses import dataclass
from typing import Any

from peft import LoraConfig

from trl_dapo.planning.known_models import known_config
from trl_dapo.planning.memory import plan_memory
from trl_dapo.planning.memory_plan import MemoryPlan
from trl_dapo.planning.run_shape import RunShape


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


def show_published() -> None:
    """Prints published figures beside plans."""
    head = ("setup", "of", "published GiB", "planned GiB", "error", "assumed")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for one in published():
        plan = plan_memory(one.shape)
        gib = size_of(one.what, plan) / 2**30
        error = f"{gib / one.gib - 1:+.0%}"
        print(f"| {one.setup} | {one.what} | {one.gib:.2f} | {gib:.2f} | {error} | {one.assumed} |")


def size_of(what: str, plan: MemoryPlan) -> int:
    """Bytes of a plan that a published figure is held against."""
    items = {item.name: item.bytes for item in plan.phases[0].items}
    if what == "weights":
        return items["weights"] + items.get("quantization constants", 0)
    return plan.bytes
