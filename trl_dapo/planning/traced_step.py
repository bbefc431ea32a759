"""
Peaks of the passes of a run, traced: the real model on fake tensors. `traced_passes` has the passes.

A pass is traced with few layers, of which two depths tell what a layer more costs; all layers of a model are alike.
Its peaks are told apart by segment, since each grows with the layers in its own way.
"""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from .fake_model import DTYPES, head_width, materialize, meta_model
from .log_prob_head import as_on_a_gpu
from .run_shape import RunShape
from .traced_passes import PASSES, Pass, inputs_of, mark_layers, offloaded
from .tracker import Live, LiveBytes
from .weights import Weights, weights_of, with_layers


# Depths that are traced: in the deeper one, first and last layer have one between them
DEPTHS = (2, 3)


class TracedModel:
    """
    A run's model, at the depths that are traced.

    Args:
        shape (`RunShape`):
            Of the run.
    """

    def __init__(self, shape: RunShape) -> None:
        self._shape = shape
        self._layers = shape.model_config.get_text_config().num_hidden_layers
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._models: dict[int, Any] = {}
        self._weights: Weights | None = None
        self.peaks = cache(self._peaks)

    def peak(self, one: Pass) -> Live:
        """Returns the most that a pass has alive beyond parameters and gradients that were there before."""
        return max(self.peaks(one).values(), key=lambda live: live.bytes)

    @property
    def weights(self) -> Weights:
        """What the whole model holds."""
        if self._weights is None:
            has_adapter = self._shape.lora is not None
            if self._layers <= max(DEPTHS):
                self._weights = weights_of(self._model(self._layers), has_adapter)
            else:
                low, high = (weights_of(self._model(depth), has_adapter) for depth in DEPTHS)
                self._weights = with_layers(low, high, self._layers - DEPTHS[1])
        return self._weights

    def cache_bytes(self, rows: int, columns: int) -> int:
        """Returns the bytes of keys and values of all layers."""
        config, shape = self._shape.model_config.get_text_config(), self._shape
        heads, width = config.num_key_value_heads, head_width(config)
        dtype = shape.dtype if shape.compute_dtype == "float32" else shape.compute_dtype
        return 2 * self._layers * rows * columns * heads * width * DTYPES[dtype].itemsize

    def _peaks(self, one: Pass) -> dict[str, Live]:
        """Returns the peak of each segment of a pass, of the whole model."""
        if self._layers <= max(DEPTHS):
            return self._traced(one, self._layers)
        low, high = (self._traced(one, depth) for depth in DEPTHS)
        more = self._layers - DEPTHS[1]
        return {
            name: Live(*(b + more * (b - a) for a, b in zip(_fields(low[name]), _fields(high[name]), strict=True)))
            for name in high
            if name in low
        }

    def _traced(self, one: Pass, layers: int, count: Callable[..., LiveBytes] = LiveBytes) -> dict[str, Live]:
        model = self._model(layers)
        shape = self._shape
        parameters = list(model.parameters())
        wide = min(2**15, shape.model_config.get_text_config().vocab_size)
        dtype = DTYPES[shape.compute_dtype]
        autocast = nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype=dtype)
        with self._mode, ExitStack() as stack:
            if one.device != "cpu":
                stack.enter_context(as_on_a_gpu())
            inputs = inputs_of(one)
            for parameter in parameters:
                parameter.grad = None
                if one.accumulates and parameter.requires_grad:
                    parameter.grad = torch.empty_like(parameter)
            live = stack.enter_context(count(parameters, wide))
            before = sum(live.ignore(parameter.grad) for parameter in parameters if parameter.grad is not None)
            stack.enter_context(autocast)
            if shape.activation_offloading and one.kind in ("update", "dpo", "critic", "reward"):
                stack.enter_context(offloaded())
            PASSES[one.kind](model, one, inputs, live, layers)
            peaks = {name: without(peak, before) for name, peak in live.peaks.items()}
            for parameter in parameters:
                parameter.grad = None
        return peaks

    def _model(self, layers: int) -> Any:
        if layers not in self._models:
            self._models[layers] = meta_model(self._shape, layers)
            materialize(self._models[layers], self._mode)
            mark_layers(self._models[layers])
        return self._models[layers]


def _fields(live: Live) -> tuple[int, int, int]:
    return live.bytes, live.gradients, live.logits


def without(live: Live, gradients: int) -> Live:
    """Returns a peak without gradients that were there before."""
    return replace(live, gradients=live.gradients - gradients)


__all__ = ["DEPTHS", "TracedModel", "without"]
