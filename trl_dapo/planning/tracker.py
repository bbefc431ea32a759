"""
Live memory of a computation on fake tensors: bytes of all storages that are alive, and the most there were at a time.

A storage is counted once, however many views it has, from the operation that made it until the last reference to it is
gone. What a kernel allocates for itself while it runs is not seen.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary


@dataclass(frozen=True)
class Live:
    """
    Bytes that are alive at a moment, beyond those that were there before.

    Args:
        bytes (`int`):
            All of them.
        gradients (`int`):
            Those of gradients of parameters, a part of `bytes`.
        logits (`int`):
            Those of tensors as wide as a tile of the vocabulary or more, a part of `bytes`.
    """

    bytes: int = 0
    gradients: int = 0
    logits: int = 0


@dataclass
class _Count:
    bytes: int = 0
    logits: int = 0
    peaks: dict[str, Live] = field(default_factory=dict)


class LiveBytes(TorchDispatchMode):
    """
    Counts storages that operations make while it is entered.

    Args:
        parameters (`Iterable[nn.Parameter]`):
            Their gradients are told apart; they themselves are not counted.
        vocabulary (`int`, *optional*):
            A tensor with a last or first dimension of at least this size counts as logits.

    Attributes:
        segment (`str`):
            Name of what is running now; each has a peak of its own.
    """

    def __init__(self, parameters: Iterable[nn.Parameter] = (), vocabulary: int | None = None) -> None:
        super().__init__()
        self._parameters = list(parameters)
        self._vocabulary = vocabulary
        self._known: Any = WeakIdKeyDictionary()
        for parameter in self._parameters:
            self._known[parameter.untyped_storage()] = True
        self._count = _Count()
        self.segment = "forward"

    @property
    def bytes(self) -> int:
        """Bytes that are alive now."""
        return self._count.bytes

    @property
    def peaks(self) -> dict[str, Live]:
        """The most of each segment, in the order in which they began."""
        return self._count.peaks

    def enter(self, segment: str) -> None:
        """Begins a segment, at what is alive now."""
        self.segment = segment
        self._note()

    def ignore(self, tensor: torch.Tensor) -> int:
        """Leaves a tensor uncounted that was there before, and returns its bytes."""
        self._known[tensor.untyped_storage()] = True
        return tensor.untyped_storage().nbytes()

    def hold(self, tensor: torch.Tensor) -> None:
        """Counts a tensor that was made before."""
        self._add(tensor)
        self._note()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor)
        self._note()
        return out

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size, count = storage.nbytes(), self._count
        logits = size if self._is_wide(tensor) else 0
        self._known[storage] = True
        count.bytes += size
        count.logits += logits
        weakref.finalize(storage, _freed, count, size, logits)

    def _is_wide(self, tensor: torch.Tensor) -> bool:
        return self._vocabulary is not None and tensor.dim() > 1 and tensor.size(-1) >= self._vocabulary

    def _note(self) -> None:
        count = self._count
        best = count.peaks.get(self.segment)
        if best is None or count.bytes > best.bytes:
            grads = sum(p.grad.untyped_storage().nbytes() for p in self._parameters if p.grad is not None)
            count.peaks[self.segment] = Live(count.bytes, grads, count.logits)


def _freed(count: _Count, size: int, logits: int) -> None:
    count.bytes -= size
    count.logits -= logits
