"""
How many completions one call of `generate` makes: what the config may ask for.
"""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .config import GRPOConfig

FIELDS = ("generation_chunk_size", "max_tokens_per_generation_call")


def check_generation_calls(config: "GRPOConfig") -> None:
    """Raises `ValueError`, naming the fix, for a bound of a call that is none."""
    chunk, tokens = config.generation_chunk_size, config.max_tokens_per_generation_call
    if chunk is not None and tokens is not None:
        raise ValueError(
            f"generation_chunk_size={chunk} and max_tokens_per_generation_call={tokens} both bound a call of "
            "`generate`. Leave one of them out."
        )
    if tokens is not None and tokens < 1:
        raise ValueError(f"`max_tokens_per_generation_call` must be at least 1 token, got {tokens}.")
    if chunk is None:
        return
    group = config.num_generations or 1
    if chunk < 1 or chunk % group:
        below, above = chunk // group * group, (chunk // group + 1) * group
        nearest = f"{below} or {above}" if below > 0 else f"{max(above, group)}"
        raise ValueError(
            f"generation_chunk_size={chunk} is no multiple of num_generations={group}, and groups are generated "
            f"together. Set it to {nearest}."
        )


def check_sharded_calls(config: "GRPOConfig", has_turns: bool) -> None:
    """
    Raises `ValueError` where processes would call a sharded model different numbers of times, and wait for ever.

    Args:
        config ([`GRPOConfig`]):
            Whose bounds are looked at.
        has_turns (`bool`):
            Whether tools or environments make later turns, in which processes have different numbers of rows.
    """
    if not (config.fsdp or config.deepspeed):
        return
    chunk, tokens = config.generation_chunk_size, config.max_tokens_per_generation_call
    if tokens is not None:
        raise ValueError(
            f"max_tokens_per_generation_call={tokens} makes as many calls as the prompts of a process need, and a "
            "sharded model is called by all processes together. Set `generation_chunk_size`."
        )
    if chunk is not None and has_turns:
        raise ValueError(
            f"generation_chunk_size={chunk} with tools or environments: processes would call a sharded model "
            "different numbers of times. Leave it out."
        )


def without_effect(config: "GRPOConfig") -> list[str]:
    """Returns one line for each bound that another way to generate does not know."""
    given = [name for name in FIELDS if getattr(config, name) is not None]
    elsewhere = None
    if config.use_vllm:
        elsewhere = "use_vllm=True: the engine's memory is bounded by vllm_gpu_memory_utilization"
    elif config.use_transformers_continuous_batching:
        elsewhere = "use_transformers_continuous_batching=True, which bounds its cache itself"
    return [f"{name}={getattr(config, name)} has no effect with {elsewhere}." for name in given if elsewhere]
