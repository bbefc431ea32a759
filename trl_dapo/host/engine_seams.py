"""
The one layer over TRL's generation with vLLM: what it sends can be something else than the model's parameters.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration


class EngineSeams(VLLMGeneration):
    """[`~trl.generation.vllm_generation.VLLMGeneration`] that asks a hook for the weights that it sends."""

    def own_weights(self) -> Iterator[tuple[str, torch.Tensor]] | None:
        """Returns names and weights to send in the place of the model's parameters, `None` for those."""
        return None

    def while_engine_is_made(self) -> AbstractContextManager[Any]:
        """Returns what surrounds the making of the engine."""
        return nullcontext()

    def _init_vllm(self) -> None:
        with self.while_engine_is_made():
            super()._init_vllm()

    def wake_weights(self) -> None:
        """Brings the engine's weights back to the card, where they sleep."""
        if self.enable_sleep_mode and self._llm_weights_sleeping:
            vllm_generation.empty_cache()
            self.llm.wake_up(tags=["weights"])
            self._llm_weights_sleeping = False

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        own = self.own_weights()
        return super()._iter_named_params() if own is None else own
