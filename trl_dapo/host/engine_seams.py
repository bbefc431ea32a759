"""
The one layer over TRL's generation with vLLM: what it sends can be something else than the model's parameters.
"""

from collections.abc import Iterator

import torch
from trl.generation.vllm_generation import VLLMGeneration


class EngineSeams(VLLMGeneration):
    """[`~trl.generation.vllm_generation.VLLMGeneration`] that asks a hook for the weights that it sends."""

    def own_weights(self) -> Iterator[tuple[str, torch.Tensor]] | None:
        """Returns names and weights to send in the place of the model's parameters, `None` for those."""
        return None

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        own = self.own_weights()
        return super()._iter_named_params() if own is None else own
