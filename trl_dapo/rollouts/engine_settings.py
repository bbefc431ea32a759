"""
What vLLM holds and gets: the three ways, and which of them a run can take. Checked before an engine is built.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import AutoConfig

from ..qlora.precision import is_quantized


SYNCS = ("merged", "adapter", "dense")
BASES = ("4bit", "16bit")
# Tolerances in nats per token. On SmolLM2-135M, whose 4-bit noise is that of a small model and so large, one NF4 base
# computed in bfloat16 and in float32 differs by 0.10, and an NF4 base from the same in 16 bits by 0.49
ALIKE, UNLIKE = 0.2, 1.0
# The same as a share of the spread of the trainer's log-probabilities over the passage: 0.06 and 0.26 there. An engine
# whose log-probabilities are not correlated with the trainer's has a share of 1 or more, whatever the model
ALIKE_SHARE, UNLIKE_SHARE = 0.25, 0.5


@dataclass(frozen=True)
class Limits:
    """
    Differences between engine and trainer that stop a run.

    Args:
        nats (`float`):
            Mean difference of log-probabilities, in nats per token.
        share (`float`, *optional*):
            Root mean square of the difference over the standard deviation of the trainer's log-probabilities over
            tokens. `None` sets no such limit.
    """

    nats: float
    share: float | None = None


@dataclass(frozen=True)
class EngineSettings:
    """
    What a run's config says of its engine.

    Args:
        sync (`str`, *optional*):
            `"merged"`, `"adapter"`, `"dense"`, or `None` for `"adapter"` on a 4-bit base and `"merged"` otherwise.
        base (`str`, *optional*):
            `"4bit"`, `"16bit"`, or `None` for what training has.
        tolerance (`float`, *optional*):
            Mean difference of log-probabilities that stops the run, in nats per token.
    """

    sync: str | None
    base: str | None
    tolerance: float | None

    def sync_of(self, model: nn.Module) -> str:
        """Returns what the engine gets where this model is trained."""
        return self.sync or ("adapter" if is_quantized(model) else "merged")

    def base_of(self, model: nn.Module) -> str:
        """Returns how the engine holds the base where this model is trained."""
        return self.base or ("4bit" if is_quantized(model) else "16bit")

    def limits_of(self, model: nn.Module) -> Limits:
        """Returns the differences that stop a run with this model; a tolerance that was given stands alone."""
        if self.tolerance is not None:
            return Limits(self.tolerance)
        alike = self.sync_of(model) != "adapter" or (self.base_of(model) == "4bit") == is_quantized(model)
        return Limits(ALIKE, ALIKE_SHARE) if alike else Limits(UNLIKE, UNLIKE_SHARE)


def check_engine_values(args: Any) -> None:
    """Raises `ValueError`, naming field, value and fix, for what is wrong with any model. Args: a [`GRPOConfig`]."""
    if args.vllm_sync is not None and args.vllm_sync not in SYNCS:
        raise ValueError(f"`vllm_sync` must be one of {list(SYNCS)}, got {args.vllm_sync!r}.")
    if args.vllm_base is not None and args.vllm_base not in BASES:
        raise ValueError(f"`vllm_base` must be one of {list(BASES)}, got {args.vllm_base!r}.")
    if args.vllm_sync_tolerance is not None and not 0 < args.vllm_sync_tolerance < float("inf"):
        raise ValueError(f"`vllm_sync_tolerance` must be above 0 nats and finite, got {args.vllm_sync_tolerance}.")
    if not args.use_vllm and (args.vllm_sync is not None or args.vllm_base is not None):
        raise ValueError("`vllm_sync` and `vllm_base` need use_vllm=True: without vLLM, nothing reads them.")


def check_engine_fields(args: Any, quantized: bool) -> None:
    """
    Raises `ValueError`, naming field, value and fix, for fields of the engine that cannot be right with a model.

    Args:
        args ([`GRPOConfig`]):
            The run's config.
        quantized (`bool`):
            Whether the model is known to be quantized.
    """
    if not args.use_vllm:
        return
    sync = args.vllm_sync or ("adapter" if quantized else "merged")
    if args.vllm_base is not None and sync != "adapter":
        raise ValueError(
            f"vllm_base={args.vllm_base!r} needs vllm_sync='adapter': with {sync!r} the engine gets all weights, in "
            "16 bits. Leave `vllm_base` out, or set vllm_sync='adapter'."
        )
    if quantized and sync == "merged":
        raise ValueError(
            "vllm_sync='merged' with a 4-bit model: TRL sends vLLM the packed integers of the base as if they were "
            "weights, after merging the adapter into them, which changes the base a little each time. Set "
            "vllm_sync='adapter', or 'dense' for up to 3B parameters."
        )
    if sync == "merged":
        return
    if args.vllm_mode == "server":
        raise ValueError(
            f"vllm_mode='server' with vllm_sync={sync!r}: TRL's client can send a server whole weights alone, neither "
            "an adapter nor dequantized ones. Set vllm_mode='colocate'."
        )
    if args.vllm_tensor_parallel_size != 1:
        raise ValueError(
            f"vllm_tensor_parallel_size={args.vllm_tensor_parallel_size} with vllm_sync={sync!r}: one engine per "
            "device holds the whole model. Set vllm_tensor_parallel_size=1."
        )


def check_8bit(model: Any, asked: Any = None) -> None:
    """Raises `ValueError` for a model in 8 bits, or a request for one, with vLLM."""
    wanted = asked.get("load_in_8bit") if isinstance(asked, dict) else getattr(asked, "load_in_8bit", False)
    if wanted or getattr(model, "is_loaded_in_8bit", False):
        raise ValueError(
            "use_vllm=True with load_in_8bit: vLLM does not quantize to 8 bits with bitsandbytes. Set "
            "load_in_4bit=True in its place, or use_vllm=False."
        )


def check_original(name: str, why: str, trust_remote_code: bool = False) -> None:
    """Raises `ValueError` where the model of this name or folder is stored quantized, but is needed in 16 bits."""
    config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"{why} needs the base in 16 bits, and {name} is stored quantized. Give the model in 16 bits, with "
            "load_in_4bit=True for training, or set vllm_sync='adapter' with vllm_base='4bit'."
        )


def check_same_quantization(model: Any) -> None:
    """Raises `ValueError` where vLLM would quantize a base in another way than it is in training."""
    config = getattr(model.config, "quantization_config", None)
    kind = getattr(config, "bnb_4bit_quant_type", None)
    if kind is not None and kind != "nf4":
        raise ValueError(
            f"bnb_4bit_quant_type={kind!r} with vllm_base='4bit': vLLM quantizes to NF4, so that engine and trainer "
            "would hold different bases. Set bnb_4bit_quant_type='nf4', or vllm_base='16bit'."
        )
