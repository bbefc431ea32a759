"""
vLLM's `LLM` as a trainer sees it: each call carries the adapter, each completion a seed, sleep keeps what cannot be
brought back, and a sync is checked before the first completion.
"""

from collections.abc import Callable
from copy import copy
from typing import Any

import torch


# Largest seed and one; torch's generators, which vLLM makes from them, would take more
SEEDS = 2**31 - 1


class Engine:
    """
    Stands before an engine; what is not in here is the engine's own.

    Args:
        llm (`vllm.LLM`):
            The engine.
        sleep_level (`int`, *optional*):
            The level that it sleeps at, whatever is asked for.
    """

    def __init__(self, llm: Any, sleep_level: int | None = None) -> None:
        self.llm, self.sleep_level = llm, sleep_level
        self.lora_request: Any = None
        # Called once before the next completions
        self.unchecked: Callable[[], None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.llm, name)

    def sleep(self, level: int = 1, **kwargs: Any) -> None:
        """Lets the engine sleep at its level."""
        self.llm.sleep(level=self.sleep_level or level, **kwargs)

    def generate(self, prompts: Any, sampling_params: Any = None, **kwargs: Any) -> Any:
        """Returns the engine's completions, by the adapter where there is one, each drawn with a seed of its own."""
        if self.unchecked is not None:
            # All the engine's memory is awake here, as it is not during a sync
            check, self.unchecked = self.unchecked, None
            check()
        if self.lora_request is not None:
            kwargs["lora_request"] = self.lora_request
        return self.llm.generate(prompts, sampling_params=seeded(sampling_params, len(prompts)), **kwargs)


def seeded(sampling_params: Any, n: int) -> list[Any]:
    """
    Returns sampling parameters for each of `n` requests, with seeds drawn from torch's random numbers.

    A checkpoint keeps those, while an engine's own begin anew in a resumed run, and move on with each evaluation.
    Parameters with a seed keep it.
    """
    found = []
    for seed in torch.randint(SEEDS, (n,)).tolist():
        one = copy(sampling_params)
        one.seed = seed if one.seed is None else one.seed
        found.append(one)
    return found
