"""
The passes of a run as its trainers make them, on fake tensors, each with its segments.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from .fake_model import DTYPES, decoder_layers, head_width
from .log_prob_head import completion_log_probs
from .tracker import LiveBytes


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


def inputs_of(one: Pass) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and attention mask of a pass, each of shape `(B, P + T)`."""
    columns = one.prompt + one.completion
    return torch.zeros(one.rows, columns, dtype=torch.long), torch.ones(one.rows, columns, dtype=torch.long)


# Segments


def mark_layers(model: Any) -> None:
    """Lets each layer's backward pass be a segment."""
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
    return completion_log_probs(base, hidden, ids, one.prompt)


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
    width = head_width(config)
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


PASSES: dict[str, Callable[[Any, Pass, Any, LiveBytes, int], None]] = {
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
def offloaded() -> Generator[None]:
    """Saves activations elsewhere, as `activation_offloading` does."""

    def pack(tensor: torch.Tensor) -> Any:
        small = tensor.numel() * tensor.element_size() < 1024
        if small or isinstance(tensor, torch.nn.Parameter) or tensor.untyped_storage().nbytes() == 0:
            return tensor
        return tensor.shape, tensor.dtype

    def unpack(packed: Any) -> torch.Tensor:
        return packed if isinstance(packed, torch.Tensor) else torch.empty(packed[0], dtype=packed[1])

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


__all__ = ["PASSES", "Pass", "inputs_of", "mark_layers", "offloaded"]
