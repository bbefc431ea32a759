"""
Which adapters an engine can hold: vLLM's manager knows `lora_A` and `lora_B` of one rank on linear layers, no more.
"""

import re
from typing import Any

from peft import LoraConfig, PeftModel


# What vLLM builds buffers for (`vllm.config.lora.MaxLoRARanks`)
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Ways to start an adapter that leave the base as it is
PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
# Fields of a LoRA config that change what an adapter computes, and that vLLM does not read
UNREAD = (
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "use_dora",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "use_qalora",
    "alora_invocation_tokens",
    "arrow_config",
)
_EMBEDDINGS = re.compile(r"lm_head|embed_tokens|embed_out|wte")


def policy_adapter(model: Any, sync: str) -> str:
    """
    Returns the name of the adapter that is the policy.

    Raises:
        `ValueError`: If the model has no LoRA adapter, or several are active.
    """
    if not isinstance(model, PeftModel):
        raise ValueError(
            f"vllm_sync={sync!r} needs a LoRA adapter, and {type(model).__name__} has none. Give `peft_config`, or "
            "leave `vllm_sync` out."
        )
    active = list(model.active_adapters)
    if len(active) != 1:
        raise ValueError(f"vllm_sync={sync!r} needs one active adapter, and {active} are active.")
    config = model.peft_config[active[0]]
    if not isinstance(config, LoraConfig):
        raise ValueError(
            f"vllm_sync={sync!r} takes LoRA alone, and adapter {active[0]!r} is of type {config.peft_type}. Use "
            "LoraConfig, or use_vllm=False."
        )
    return active[0]


def engine_rank(rank: int) -> int:
    """
    Returns the smallest rank that vLLM has buffers for and that an adapter of this rank fits into.

    Raises:
        `ValueError`: If there is none.

    Example:
        >>> engine_rank(4), engine_rank(257)
        (8, 320)
    """
    for one in RANKS:
        # Rank 1 has buffers of its own; an adapter of rank 2 takes those of 8
        if one >= rank:
            return one
    raise ValueError(f"r={rank} is above vLLM's largest LoRA rank, {RANKS[-1]}. Lower `r`, or set vllm_sync='dense'.")


def check_servable(model: PeftModel, name: str) -> int:
    """
    Returns the rank that the engine needs for an adapter.

    Raises:
        `ValueError`: Naming the field of its config that vLLM would leave out or compute otherwise.
    """
    config: Any = model.peft_config[name]
    for field in UNREAD:
        if value := getattr(config, field, None):
            _refuse(field, value)
    if config.bias != "none":
        _refuse("bias", config.bias)
    start = config.init_lora_weights
    if start not in PLAIN_STARTS:
        raise ValueError(
            f"init_lora_weights={start!r} changes the base, and vllm_sync='adapter' leaves the engine's as it is "
            "stored. Set init_lora_weights=True, or vllm_sync='dense'."
        )
    for module in adapted(model, name):
        if _EMBEDDINGS.search(module.rsplit(".", 1)[-1]):
            raise ValueError(
                f"target_modules has {module.rsplit('.', 1)[-1]!r}: vLLM's LoRA leaves embeddings and the head out. "
                "Take it out of `target_modules`, or set vllm_sync='dense'."
            )
    return engine_rank(config.r)


def check_addable(model: PeftModel, name: str) -> None:
    """Raises `ValueError` for an adapter of which `W + s B A` is not what it computes, or not all."""
    config: Any = model.peft_config[name]
    for field in ("use_dora", "lora_bias", "target_parameters", "trainable_token_indices", "layer_replication"):
        if value := getattr(config, field, None):
            raise ValueError(
                f"{field}={value!r} is not handled by vllm_sync='dense'. Leave it out, or use_vllm=False."
            )
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    wrapped = [module for module in adapted(model, name) if _EMBEDDINGS.search(module)]
    saved = [module for module in config.modules_to_save or [] if _EMBEDDINGS.search(module)]
    if tied and (wrapped or saved):
        raise ValueError(
            f"tie_word_embeddings=True, and {(wrapped or saved)[0]} is trained on one side of the tie, while vLLM "
            "has one tensor for both. Take it out of `target_modules` and `modules_to_save`."
        )


def adapted(model: PeftModel, name: str) -> list[str]:
    """Returns the modules that an adapter is on."""
    end = f".lora_A.{name}"
    linear = [module.removesuffix(end) for module, _ in model.named_modules() if module.endswith(end)]
    # Adapters on embeddings hold parameters, not modules
    end = f".lora_embedding_A.{name}"
    return linear + [one.removesuffix(end) for one, _ in model.named_parameters() if one.endswith(end)]


def _refuse(field: str, value: Any) -> None:
    raise ValueError(
        f"{field}={value!r} with vllm_sync='adapter': vLLM's LoRA does not read it, so that rollouts would come from "
        "another model. Leave it out, or set vllm_sync='dense' (which takes all but DoRA and the like)."
    )
