"""
What `load_in_4bit` alone stands for: the fields of a correct QLoRA run that the user did not set.
"""

from collections.abc import Set
from pathlib import Path
from typing import Any

import torch

from trl_dapo.host.adapter_folders import ADAPTER_CONFIG
from trl_dapo.qlora.adapter_needed import WHY_NOT_HEAD, head_among
from trl_dapo.qlora.four_bit import ALPHA, DROPOUT, QUANTIZATION, RANK, TARGETS, card_dtype

from .errors import UsageError


def fill_in_quantized(
    values: dict[str, Any], given: Set[str], scores: bool = False, scales_losses: bool = True, elsewhere: bool = False
) -> list[str]:
    """
    Writes the fields of QLoRA that the user did not set into `values`, where they ask for 4-bit weights.

    Args:
        values (`dict[str, Any]`):
            All fields by name.
        given (`Set[str]`):
            Names of the fields that the user set.
        scores (`bool`, *optional*, defaults to `False`):
            Whether the model is a reward model.
        scales_losses (`bool`, *optional*, defaults to `True`):
            Whether the trainer can train with float16, which needs losses to be scaled.
        elsewhere (`bool`, *optional*, defaults to `False`):
            Whether the run is planned for another machine than this one.

    Returns:
        `list[str]`: what was filled in, in one line; nothing if nothing was.

    Raises:
        [`UsageError`]: If 4-bit weights would be trained themselves.
    """
    if not values.get("load_in_4bit") or values.get("model_name_or_path") is None:
        return []
    if "use_peft" in given and not values["use_peft"] and not _is_adapter(values):
        raise UsageError(
            "load_in_4bit=True with use_peft=False: 4-bit weights are packed integers, which cannot be trained. Leave "
            "use_peft out to train an adapter on them, or load_in_4bit for full fine-tuning."
        )
    wanted = _precision(values, given, scales_losses, elsewhere)
    wanted |= {"bnb_4bit_quant_type": QUANTIZATION, "use_bnb_nested_quant": True}
    if not _is_adapter(values):
        wanted |= {
            "use_peft": True,
            "lora_r": RANK,
            "lora_alpha": ALPHA,
            "lora_dropout": DROPOUT,
            "lora_target_modules": [TARGETS],
            "lora_task_type": "SEQ_CLS" if scores else "CAUSAL_LM",
        }
        if values.get("lora_target_parameters"):
            wanted.pop("lora_target_modules")
    changed = {name: value for name, value in wanted.items() if name not in given and values.get(name) != value}
    values.update(changed)
    if not changed:
        return []
    listed = ", ".join(f"{name}={_shown(value)}" for name, value in changed.items())
    return [f"load_in_4bit: filled in {listed}"]


def check_adapters(values: dict[str, Any], scores: bool = False) -> None:
    """
    Raises [`UsageError`] for what no adapter can be trained on, and what cannot be trained without one.

    Args:
        values (`dict[str, Any]`):
            All fields by name, filled in.
        scores (`bool`, *optional*, defaults to `False`):
            Whether the model is a reward model, which has no head for tokens.
    """
    adapted = values.get("use_peft")
    if values.get("load_in_8bit") and values.get("model_name_or_path") is not None:
        if values.get("load_in_4bit"):
            raise UsageError("load_in_8bit=True and load_in_4bit=True are two ways to load one model. Leave one out.")
        if not (adapted or _is_adapter(values)):
            raise UsageError(
                "load_in_8bit=True without use_peft: 8-bit weights are packed integers, which cannot be trained. Set "
                "use_peft to train an adapter on them, or leave load_in_8bit out for full fine-tuning."
            )
    for field in () if scores or not adapted else ("lora_target_modules", "lora_modules_to_save"):
        names = values.get(field)
        found = head_among([names] if isinstance(names, str) else names)
        if found is not None:
            raise UsageError(f"{field} has {found!r}: {WHY_NOT_HEAD}. Leave {found!r} out; `all-linear` does.")


def _precision(values: dict[str, Any], given: Set[str], scales_losses: bool, elsewhere: bool) -> dict[str, Any]:
    on_cpu = bool(values.get("use_cpu"))
    # A machine without a card says nothing about the one that is planned for
    assumed = elsewhere and not on_cpu and not torch.accelerator.is_available()
    dtype = "bfloat16" if assumed else card_dtype(on_cpu)
    if dtype == "float16" and not scales_losses:
        dtype = "float32"
    if given & {"bf16", "fp16"}:
        # What the user computes in decides
        dtype = "bfloat16" if values.get("bf16") else "float16" if values.get("fp16") else dtype
        return {"dtype": dtype}
    return {"dtype": dtype, "bf16": dtype == "bfloat16", "fp16": dtype == "float16"}


def _is_adapter(values: dict[str, Any]) -> bool:
    return (Path(str(values["model_name_or_path"])) / ADAPTER_CONFIG).is_file()


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)
