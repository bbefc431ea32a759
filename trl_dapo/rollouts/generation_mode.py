"""
Whether `generate` samples each row by itself, with keys and values that grow: what reading prompts once relies on.

A field that the config of a call leaves open is taken from the model's own `generation_config`, which comes from its
`config.json` or `generation_config.json`. Both are asked here.
"""

from typing import Any

from accelerate.logging import get_logger


logger = get_logger(__name__)

# Fields of which any value but these makes `generate` expand its rows, or read prompts in another way
PLAIN = {
    "cache_implementation": (None, "dynamic", "hybrid"),  # "hybrid" in a model's file stands for the default
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "prompt_lookup_num_tokens": (None,),
    "prefill_chunk_size": (None,),
}


def other_mode(model: Any, config: Any) -> str | None:
    """
    Returns what makes `generate` do more than to sample row by row with a growing cache, for a message; `None` where
    nothing does.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The causal language model, not wrapped.
        config ([`~transformers.GenerationConfig`]):
            Of the call.
    """
    if _effective(model, config, "use_cache") is False:
        return "use_cache=False"
    for name, plain in PLAIN.items():
        value = _effective(model, config, name)
        if value not in plain:
            return f"{name}={value!r}"
    return None


def warn_of_no_cache(model: Any, config: Any) -> None:
    """Says once that each token of a completion reads the whole row again, which some models' files ask for."""
    if _effective(model, config, "use_cache") is False:
        logger.warning_once(
            "Completions are generated without a cache, and each token reads its whole row again: the model's "
            'config has use_cache=False. For fast rollouts, set generation_kwargs={"use_cache": True}.'
        )


def _effective(model: Any, config: Any, name: str) -> Any:
    value = getattr(config, name, None)
    return getattr(getattr(model, "generation_config", None), name, None) if value is None else value
