"""
Peaks of the passes of a run, traced: the real model on fake tensors, called as the trainers call it.

A pass is traced with few layers, of which two depths tell what a layer more costs; all layers of a model are alike.
Its peaks are told apart by segment, since each grows with the layers in its own way.
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import DynamicCache
from trl.kernels import ChunkedLogProbFunction, chunked_logprob

from .fake_model import DTYPES, decoder_layers, materialize, meta_model
from .run_shape import RunShape
from .tracker import Live, LiveBytes
from .weights import Weights, weights_of, with_layers


# Depths that are traced: in the deeper one, first and last layer have one between them
DEPTHS = (2, 3)


@dataclass(frozen=True)
class Pass:
    """
    One call of the model.

    Args:
        kind (`str`):
            `"update"`, `"score"`, `"prefill"`, `"decode"`, `"critic"` or `"reward"`.
        rows, prompt, completion (`int`):
            Rows, and the columns of each.
        device (`str`):
            `"cuda"` or `"cpu"`: TRL computes log-probs of all columns on the CPU, with more temporary tensors.
        accumulates (`bool`):
            Whether gradients of an earlier pass lie in memory.
    """

    kind: str
    rows: int
    prompt: int
    completion: int
    device: str = "cuda"
    accumulates: bool = False


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
        heads, width = config.num_key_value_heads, _head_width(config)
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

    def _traced(self, one: Pass, layers: int) -> dict[str, Live]:
        model = self._model(layers)
        shape = self._shape
        parameters = list(model.parameters())
        wide = min(2**15, shape.model_config.get_text_config().vocab_size)
        dtype = DTYPES[shape.compute_dtype]
        autocast = nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype=dtype)
        with self._mode, ExitStack() as stack:
            if one.device != "cpu":
                stack.enter_context(_as_on_a_gpu())
            inputs = _inputs(one)
            for parameter in parameters:
                parameter.grad = None
                if one.accumulates and parameter.requires_grad:
                    parameter.grad = torch.empty_like(parameter)
            live = stack.enter_context(LiveBytes(parameters, wide))
            before = sum(live.ignore(parameter.grad) for parameter in parameters if parameter.grad is not None)
            stack.enter_context(autocast)
            if shape.activation_offloading and one.kind in ("update", "dpo", "critic", "reward"):
                stack.enter_context(_offloaded())
            _RUNS[one.kind](model, one, inputs, live, layers)
            peaks = {name: without(peak, before) for name, peak in live.peaks.items()}
            for parameter in parameters:
                parameter.grad = None
        return peaks

    def _model(self, layers: int) -> Any:
        if layers not in self._models:
            self._models[layers] = meta_model(self._shape, layers)
            materialize(self._models[layers], self._mode)
            _mark_layers(self._models[layers])
        return self._models[layers]


def _head_width(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _fields(live: Live) -> tuple[int, int, int]:
    return live.bytes, live.gradients, live.logits


def _inputs(one: Pass) -> tuple[torch.Tensor, torch.Tensor]:
    columns = one.prompt + one.completion
    return torch.zeros(one.rows, columns, dtype=torch.long), torch.ones(one.rows, columns, dtype=torch.long)


# Segments


def _mark_layers(model: Any) -> None:
    layers = decoder_layers(model)
    for number, layer in enumerate(layers):
        layer.register_forward_hook(_Mark(number, len(layers)))


class _Mark:
    """Lets the segment of a layer's backward pass begin when the gradient of its output is there."""

    live: LiveBytes | None = None

    def __init__(self, number: int, count: int) -> None:
        # The layers between the last and the first have peaks between theirs
        self._name = {0: "first layer", count - 1: "last layer"}.get(number, f"layer {number}")

    def __call__(self, module: Any, args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        live = _Mark.live
        if live is not None and hidden.requires_grad:
            hidden.register_hook(lambda gradient: live.enter(self._name))


@contextmanager
def _marked(live: LiveBytes) -> Generator[None]:
    _Mark.live = live
    try:
        yield
    finally:
        _Mark.live = None


# Passes


def _update(model: Any, one: Pass, inputs: Any, live: LiveBytes, layers: int) -> None:
    with _marked(live):
        loss = _log_probs(model, one, inputs).sum()
        live.enter("loss")
        with torch.autocast("cpu", enabled=False):
            loss.backward()
        live.enter("end")


def _dpo(model: Any, one: Pass, inputs: Any, live: LiveBytes, layers: int) -> None:
    # The reference reads the rows while the policy's activations wait for the backward pass
    peft = hasattr(model, "disable_adapter")
    with _marked(live):
        logps = _log_probs(model, one, inputs)
        with torch.no_grad(), _without_checkpointing(model), model.disable_adapter() if peft else nullcontext():
            reference = _log_probs(model, one, inputs)
        loss = (logps - reference).sum()
        live.enter("loss")
        with torch.autocast("cpu", enabled=False):
            loss.backward()
        live.enter("end")


def _score(model: Any, one: Pass, inputs: Any, live: LiveBytes, layers: int) -> None:
    with torch.no_grad():
        _log_probs(model, one, inputs)


def _log_probs(model: Any, one: Pass, inputs: Any) -> torch.Tensor:
    ids, mask = inputs
    if one.device == "cpu":
        labels = ids.masked_fill(mask == 0, -100)
        return model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs
    # Where Triton runs, only the completion's columns go to the head
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    scored = hidden[:, one.prompt - 1 : -1].reshape(-1, hidden.size(-1))
    head = base.get_output_embeddings()
    targets = ids[:, one.prompt :].reshape(-1)
    found = ChunkedLogProbFunction.apply(
        scored, head.weight, head.bias, targets, 1.0, 2**15, None, 1.0, ("log_probs", "entropy")
    )
    return found[0]


def _critic(model: Any, one: Pass, inputs: Any, live: LiveBytes, layers: int) -> None:
    ids, mask = inputs
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    with _marked(live):
        hidden = base.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        kept = hidden[:, one.prompt - 1 : -1]
        with torch.autocast("cpu", enabled=False):
            values = torch.nn.functional.linear(kept.float(), torch.empty(1, kept.size(-1))).squeeze(-1)
            live.enter("loss")
            values.sum().backward()
        live.enter("end")


def _reward(model: Any, one: Pass, inputs: Any, live: LiveBytes, layers: int) -> None:
    ids, mask = inputs
    with _marked(live):
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        hidden = base.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        scores = base.score(hidden)[:, -1]
        live.enter("loss")
        with torch.autocast("cpu", enabled=False):
            scores.float().sum().backward()
        live.enter("end")


def _prefill(model: Any, one: Pass, inputs: Any, live: LiveBytes, layers: int) -> None:
    ids, mask = inputs
    with torch.no_grad(), _without_checkpointing(model):
        kept = DynamicCache(config=model.config)
        out = model(
            input_ids=ids[:, : one.prompt],
            attention_mask=mask[:, : one.prompt],
            past_key_values=kept,
            use_cache=True,
            logits_to_keep=1,
        )
        _sampled(out.logits[:, -1])


def _decode(model: Any, one: Pass, inputs: Any, live: LiveBytes, layers: int) -> None:
    ids, mask = inputs
    config = model.config.get_text_config()
    heads = config.num_key_value_heads
    width = _head_width(config)
    dtype = DTYPES[_cache_dtype(model)]
    columns = one.prompt + one.completion - 1
    with torch.no_grad(), _without_checkpointing(model):
        kept = DynamicCache(config=model.config)
        for number in range(layers):
            keys, values = (torch.empty(one.rows, heads, columns, width, dtype=dtype) for _ in range(2))
            kept.update(keys, values, number)
            del keys, values
        out = model(input_ids=ids[:, -1:], attention_mask=mask, past_key_values=kept, use_cache=True, logits_to_keep=1)
        _sampled(out.logits[:, -1])


def _cache_dtype(model: Any) -> str:
    enabled = torch.is_autocast_enabled("cpu")
    dtype = (
        torch.get_autocast_dtype("cpu")
        if enabled
        else next(p.dtype for p in model.parameters() if p.is_floating_point())
    )
    return next(name for name, known in DTYPES.items() if known == dtype)


def _sampled(logits: torch.Tensor) -> torch.Tensor:
    scores = logits.to(copy=True, dtype=torch.float32)
    probabilities = torch.nn.functional.softmax(scores, dim=-1)
    # `multinomial` draws one exponential number for each probability
    noise = torch.empty_like(probabilities)
    return (probabilities / noise).argmax(dim=-1)


_RUNS: dict[str, Callable[[Any, Pass, Any, LiveBytes, int], None]] = {
    "update": _update,
    "dpo": _dpo,
    "score": _score,
    "critic": _critic,
    "reward": _reward,
    "prefill": _prefill,
    "decode": _decode,
}


@contextmanager
def _without_checkpointing(model: Any) -> Generator[None]:
    # As `generate` of the trainers: checkpointing would turn the cache off
    switched = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    for module in switched:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module in switched:
            module.gradient_checkpointing = True


@contextmanager
def _as_on_a_gpu() -> Generator[None]:
    # Triton folds a tile of logits in place, and cuBLAS adds products in float32 without a copy of the factors
    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    names = ("_forward_tile", "_backward_tile", "_addmm_fp32")
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(patch.object(chunked_logprob, name, nothing))
        yield


@contextmanager
def _offloaded() -> Generator[None]:
    def pack(tensor: torch.Tensor) -> Any:
        small = tensor.numel() * tensor.element_size() < 1024
        if small or isinstance(tensor, torch.nn.Parameter) or tensor.untyped_storage().nbytes() == 0:
            return tensor
        return tensor.shape, tensor.dtype

    def unpack(packed: Any) -> torch.Tensor:
        return packed if isinstance(packed, torch.Tensor) else torch.empty(packed[0], dtype=packed[1])

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def without(live: Live, gradients: int) -> Live:
    """Returns a peak without gradients that were there before."""
    return replace(live, gradients=live.gradients - gradients)
