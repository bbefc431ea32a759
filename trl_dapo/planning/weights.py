"""
Bytes of what a model holds all the time: weights, constants of quantized weights, adapters, and what is trained.
"""

from dataclasses import dataclass
from typing import Any

from .fake_linear import QuantizedLinear
from .optimizer_state import Shape


@dataclass(frozen=True)
class Weights:
    """
    A model's parameters and buffers.

    Args:
        base, constants, adapter (`int`):
            Bytes of weights and buffers without the adapter, of the constants of quantized weights, and of the
            adapter.
        head (`int`):
            Bytes of an output head of its own, a part of `base`.
        trained (`tuple[tuple[int, ...], ...]`):
            Shapes of the parameters that are trained.
        trained_itemsize (`int`):
            Bytes of one of their numbers.
        largest (`int`):
            Elements of the largest quantized matrix.
    """

    base: int
    constants: int
    adapter: int
    head: int
    trained: tuple[Shape, ...]
    trained_itemsize: int
    largest: int

    @property
    def trained_bytes(self) -> int:
        """Bytes of the parameters that are trained, and so of their gradients."""
        return self.trained_itemsize * sum(map(_product, self.trained))


def weights_of(model: Any, has_adapter: bool) -> Weights:
    """Returns what a model holds; tensors may be without storage."""
    named = list(model.named_parameters())  # a shared parameter once
    buffers = sum(_bytes(buffer) for buffer in model.buffers())
    quantized = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    adapter = [p for _, p in named if has_adapter and p.requires_grad]
    trained = [p for _, p in named if p.requires_grad]
    head, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    own = head is not None and head.weight is not inputs.weight
    return Weights(
        base=buffers + sum(_bytes(p) for _, p in named) - sum(map(_bytes, adapter)),
        constants=sum(module.state_bytes for module in quantized),
        adapter=sum(map(_bytes, adapter)),
        head=_bytes(head.weight) if own else 0,
        trained=tuple(tuple(p.shape) for p in trained),
        trained_itemsize=max((p.element_size() for p in trained), default=4),
        largest=max((module.in_features * module.out_features for module in quantized), default=0),
    )


def with_layers(low: Weights, high: Weights, more: int) -> Weights:
    """Returns the weights of a model with `more` layers than the deeper of two, which differ by one."""

    def grown(name: str) -> int:
        return getattr(high, name) + more * (getattr(high, name) - getattr(low, name))

    left = list(low.trained)
    layer = []
    for shape in high.trained:
        if shape in left:
            left.remove(shape)
        else:
            layer.append(shape)
    return Weights(
        base=grown("base"),
        constants=grown("constants"),
        adapter=grown("adapter"),
        head=high.head,
        trained=high.trained + tuple(layer) * more,
        trained_itemsize=high.trained_itemsize,
        largest=high.largest,
    )


def _bytes(tensor: Any) -> int:
    return tensor.numel() * tensor.element_size()


def _product(shape: Shape) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
