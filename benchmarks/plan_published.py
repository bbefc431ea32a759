"""
Published figures of other people's GPUs beside plans of the same runs, with what had to be assumed.
"""

from dataclasses import dataclass
from typing import Any

from peft import LoraConfig

from trl_dapo.planning.known_models import known_config
from trl_dapo.planning.memory import plan_memory
from trl_dapo.planning.run_shape import RunShape


@dataclass(frozen=True)
class Published:
    """
    A figure that somebody published.

    Args:
        setup (`str`):
            Card and model.
        gib (`float`):
            The figure, in GiB.
        what (`str`):
            `"weights"`; `"allocated"` or `"reserved"`, a peak of PyTorch's allocator without a context; `"device"`, a
            peak of the device.
        shape ([`RunShape`]):
            The run.
        assumed (`str`):
            What its author does not say.
    """

    setup: str
    gib: float
    what: str
    shape: RunShape
    assumed: str


def qlora(name: str, rank: int = 16, **more: Any) -> RunShape:
    """A run of GRPO: 8 rows of 8 generations, completions of 256, checkpointing."""
    config = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    settings = {
        "dtype": "float16", "compute_dtype": "bfloat16", "quantization": "4bit", "double_quantization": True,
        "lora": config, "gradient_checkpointing": True, "optimizer": "paged_adamw_8bit", "prompt_length": 128,
        "completion_length": 256, "num_generations": 8, "round_rows": 8, "chunk_rows": 8, "microbatch_rows": 8,
        "microbatches": 1, "prefill_once": False,
    }  # fmt: skip
    return RunShape("grpo", known_config(name), **{**settings, **more})


def published() -> list[Published]:
    """Figures of other people's GPUs."""
    llama3, llama8 = "meta-llama/Llama-3.2-3B", "meta-llama/Llama-3.1-8B"
    qwen2, qwen4, qwen8 = "Qwen/Qwen3-1.7B", "Qwen/Qwen3-4B", "Qwen/Qwen3-8B"
    # Split as vLLM reports memory. Quantized once is a guess that meets both figures
    once = {"double_quantization": False}
    found = [
        Published("T4, 3B NF4", 2.22, "weights", qlora(llama3, **once), "Llama-3.2-3B, quantized once"),
        Published("T4, 8B NF4", 5.60, "weights", qlora(llama8, **once), "Llama-3.1-8B, quantized once"),
        Published("T4, Qwen3-4B, 16 bits", 7.63, "weights", qlora(qwen4, quantization=None), ""),
    ]
    # TRL's grpo_trl_lora_qlora.ipynb prints `max_memory_reserved`; its system prompt has about 80 tokens
    notebook = (
        (llama3, 5.7), ("Qwen/Qwen2.5-7B", 9.2), (llama8, 9.5), (qwen8, 9.9),
    )  # fmt: skip
    for name, gib in notebook:
        shape = qlora(name, 32, prompt_length=256)
        found.append(Published(f"T4, TRL notebook, {_short(name)}", gib, "reserved", shape, "prompt 256, float16"))
    short = {"dtype": "bfloat16", "completion_length": 96, "prompt_length": 64, "microbatches": 4} | {
        "round_rows": 32, "chunk_rows": 32,
    }  # fmt: skip
    for name, gib, what in ((qwen2, 2.74, "allocated"), (qwen4, 4.10, "allocated"), (qwen8, 7.41, "allocated")):
        shape = qlora(name, 8, **short)
        found.append(Published(f"RTX 3070, {_short(name)}, completion 96", gib, what, shape, "prompt 64, G 8"))
    shape = qlora(qwen8, 8, **short)
    found.append(Published("RTX 3070, Qwen3-8B, completion 96", 8.17, "reserved", shape, "prompt 64, G 8"))
    shape = qlora(qwen2, dtype="bfloat16")
    found.append(Published("RTX 3070, Qwen3-1.7B", 3.67e9 / 2**30, "device", shape, "all but QLoRA"))
    return found


def _short(name: str) -> str:
    return name.partition("/")[2]


def show_published() -> None:
    """Prints published figures beside plans."""
    head = ("setup", "of", "published GiB", "planned GiB", "error", "assumed")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for one in published():
        gib = size_of(one.what, one.shape) / 2**30
        error = f"{gib / one.gib - 1:+.0%}"
        print(f"| {one.setup} | {one.what} | {one.gib:.2f} | {gib:.2f} | {error} | {one.assumed} |")


def size_of(what: str, shape: RunShape) -> int:
    """Bytes of a run's plan that a published figure is held against."""
    plan = plan_memory(shape, context=None if what == "device" else 0)
    items = {item.name: item.bytes for item in plan.phases[0].items}
    if what == "weights":
        return items["weights"] + items.get("quantization constants", 0)
    # The allowance for fragmentation is what lies between the two counters of an allocator
    return plan.peak.bytes if what == "allocated" else plan.bytes
