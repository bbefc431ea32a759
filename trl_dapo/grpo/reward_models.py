"""
Reward models among the reward functions of a trainer: each becomes a [`RewardModelFunction`].

The host reads completions without the end token that reward models are trained with, takes the tokenizer and template
of an adapter's base for those of the adapter, and gives a causal model a random head.
"""

from typing import Any

from torch import nn
from transformers import AutoTokenizer
from trl.trainer.utils import get_config_model_id

from ..reward_model.function import RewardModelFunction
from .config import GRPOConfig


# Of `model_init_kwargs`, which are the policy's, those that hold for reward models too
_SHARED = ("dtype", "trust_remote_code")


def with_reward_models(given: dict[str, Any], args: GRPOConfig) -> dict[str, Any]:
    """
    Returns the arguments of a trainer, with reward models as reward functions.

    Args:
        given (`dict[str, Any]`):
            Arguments by name. Names, folders and models among `reward_funcs` are replaced, in a list of its own; their
            `reward_processing_classes` are their tokenizers.
        args ([`GRPOConfig`]):
            Says how models are loaded, and how many rows go through one at a time.

    Raises:
        `ValueError`: If one of them is no reward model.
    """
    functions = given.get("reward_funcs")
    listed = list(functions) if isinstance(functions, list) else [functions]
    if not any(isinstance(one, (str, nn.Module)) for one in listed):
        return given
    tokenizers = given.get("reward_processing_classes")
    tokenizers = list(tokenizers) if isinstance(tokenizers, list) else [tokenizers]
    tokenizers = tokenizers if tokenizers != [None] else [None] * len(listed)
    for place, one in enumerate(listed[: len(tokenizers)]):
        if isinstance(one, (str, nn.Module)):
            listed[place] = _function(one, tokenizers[place], args)
            tokenizers[place] = None
    return {**given, "reward_funcs": listed, "reward_processing_classes": tokenizers}


def _function(model: Any, tokenizer: Any, args: GRPOConfig) -> RewardModelFunction:
    loading: Any = args.model_init_kwargs or {}
    if tokenizer is None and isinstance(model, nn.Module):
        tokenizer = AutoTokenizer.from_pretrained(get_config_model_id(model.config))
    return RewardModelFunction(
        model,
        tokenizer,
        model_init_kwargs={name: loading[name] for name in _SHARED if loading.get(name) is not None},
        chunk_size=args.per_device_train_batch_size,
        max_length=None,
    )
