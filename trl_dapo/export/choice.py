"""
Which base and which type a merged model has: what was asked for, else what is nearest to the model that was trained.
"""

from dataclasses import dataclass
from typing import Any

import torch

from .agreement import PROMPTS, Agreement, agreement, ask, ask_for_rewards
from .merging import BASES, Merged, load_merged, load_trained, round_in_place
from .rounding import Kept
from .source import MergeSource


# Where bfloat16 keeps less of the update than this, it is not taken by itself
ENOUGH = 0.9


@dataclass(frozen=True)
class Candidate:
    """
    A way to merge, and how far it is from the model that was trained.

    Args:
        base (`str`):
            `"original"` or `"dequantized"`.
        dtype (`str`):
            What the weights are stored as.
        kept ([`Kept`]):
            What that keeps of the update.
        worst (`tuple[str, Kept]`):
            The layer that loses most.
        agreement ([`Agreement`]):
            With the trained model, in float32 arithmetic.
    """

    base: str
    dtype: str
    kept: Kept
    worst: tuple[str, Kept]
    agreement: Agreement


@dataclass(frozen=True)
class Choice:
    """
    What was merged.

    Args:
        merged ([`Merged`]):
            The model, with the values that it is stored with.
        taken ([`Candidate`]):
            How it was merged.
        others (`tuple[Candidate, ...]`):
            What else was tried.
        in_bfloat16 ([`Kept`]):
            What bfloat16 keeps of the update, whatever was taken.
        without ([`Agreement`], *optional*):
            How far the base without the adapter is from the trained model; not of reward models.
    """

    merged: Merged
    taken: Candidate
    others: tuple[Candidate, ...]
    in_bfloat16: Kept
    without: Agreement | None = None


def choose(
    source: MergeSource, tokenizer: Any, base: str | None = None, dtype: str | None = None, prompts: Any = PROMPTS
) -> Choice:
    """
    Merges, by each way that is open, and returns the one that agrees best with the trained model.

    Args:
        source ([`MergeSource`]):
            What is merged.
        tokenizer (`Any`):
            Its tokenizer.
        base, dtype (`str`, *optional*):
            Asked for by the user. By default, the base is the one whose KL divergence is smaller, and the type is
            bfloat16 where that keeps nine tenths of the entries that the update moves, else float32.
        prompts (`list[str]`, *optional*):
            Asked of the models.

    Raises:
        `ValueError`: If the base that is asked for is not there.
    """
    bases = _bases(source, base)
    trained = load_trained(source, len(tokenizer))
    asked = (ask_for_rewards if source.scores else ask)(trained, tokenizer, list(prompts))
    without = None
    if not source.scores:
        with trained.disable_adapter():
            without = agreement(trained, asked)
    if "dequantized" not in bases:
        trained = None
    counted = list(dict.fromkeys(["bfloat16", *([dtype] if dtype else []), "float32"]))
    tried: list[Candidate] = []
    merged: Merged | None = None
    for one in bases:
        merged = None  # the last one is let go before the next is loaded
        merged = load_merged(source, one, counted, len(tokenizer), trained)
        stored = dtype or ("bfloat16" if merged.total("bfloat16").share >= ENOUGH else "float32")
        tried.append(_measured(merged, stored, asked))
    taken = min(tried, key=lambda one: one.agreement.divergence)
    if merged is None or merged.base != taken.base:
        merged = None
        merged = load_merged(source, taken.base, counted, len(tokenizer), trained)
        round_in_place(merged.model, taken.dtype)
    others = tuple(one for one in tried if one is not taken)
    return Choice(merged, taken, others, merged.total("bfloat16"), without)


def _bases(source: MergeSource, base: str | None) -> list[str]:
    packed = source.quantization is not None
    if not packed and base == "dequantized":
        raise ValueError(
            "--base dequantized: nothing says that the base was quantized in training. Leave --base out, or say how "
            "it was loaded by --load_in_4bit."
        )
    if packed and source.quantization.load_in_8bit:
        if base == "dequantized":
            raise ValueError("--base dequantized is for 4-bit bases, and this one was in 8 bits. Use --base original.")
        return ["original"]
    if base is not None:
        return [base]
    return list(BASES) if packed else ["original"]


def _check_finite(model: Any, dtype: str) -> None:
    for name, tensor in model.named_parameters():
        if not bool(tensor.isfinite().all()):
            raise ValueError(
                f"Merged and stored as {dtype}, {name} has values that are not finite. "
                + ("Store it as bfloat16 or float32." if dtype == "float16" else "The adapter or its base is broken.")
            )


def _measured(merged: Merged, dtype: str, asked: Any) -> Candidate:
    round_in_place(merged.model, dtype)
    _check_finite(merged.model, dtype)
    merged.model.eval()
    with torch.no_grad():
        found = agreement(merged.model, asked)
    return Candidate(merged.base, dtype, merged.total(dtype), merged.worst(dtype), found)
