"""
The set-up of QLoRA in one line: NF4 weights, double quantization, and an adapter on all linear layers.

After the QLoRA paper (https://huggingface.co/papers/2305.14314): NormalFloat4 (§3) and double quantization (§3), with
adapters on every linear layer (§4). What the weights are computed in follows from the card.
"""

from typing import Any

import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig


QUANTIZATION = "nf4"
# In the paper, no rank from 8 to 256 was better than another (§A.1)
RANK, ALPHA, DROPOUT = 16, 32, 0.0
TARGETS = "all-linear"


def card_dtype(use_cpu: bool = False) -> str:
    """
    Returns what this machine computes fast in: `"bfloat16"`, `"float16"` on cards without it, `"float32"` on a CPU.

    Args:
        use_cpu (`bool`, *optional*, defaults to `False`):
            Whether a card is left alone.
    """
    if use_cpu or not torch.accelerator.is_available():
        return "float32"
    if torch.cuda.is_available():
        # Emulated bfloat16 counts as supported otherwise, and is slow
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16"


def four_bit(task: str = "CAUSAL_LM", dtype: str | None = None, **lora: Any) -> dict[str, Any]:
    """
    Returns `quantization_config` and `peft_config` for any trainer of this package: `DAPOTrainer(..., **four_bit())`.

    Args:
        task (`str`, *optional*, defaults to `"CAUSAL_LM"`):
            Task of the adapter: `"SEQ_CLS"` for a reward model.
        dtype (`str`, *optional*):
            What is computed in. By default [`card_dtype`]. Give the model the same, by
            `model_init_kwargs={"dtype": ...}` of the config: embeddings and norms are not quantized.
        **lora:
            Fields of [`~peft.LoraConfig`] that differ from rank 16, alpha 32, no dropout, and all linear layers.

    Returns:
        `dict[str, Any]`: two keyword arguments.

    Raises:
        `ValueError`: If `dtype` is not the name of a floating-point type.
    """
    name = card_dtype() if dtype is None else dtype
    if name not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"`dtype` must be 'float32', 'bfloat16' or 'float16', got {dtype!r}.")
    adapter: dict[str, Any] = {
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": DROPOUT,
        "target_modules": TARGETS,
        "task_type": task,
    }
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=QUANTIZATION,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, name),
        ),
        "peft_config": LoraConfig(**{**adapter, **lora}),
    }
