"""
Whether an update moves the weights that are trained: a few of their entries, before and after.

Looking changes nothing: entries are read at fixed places, without a draw. The second matrices of LoRA are 0 at the
start and move by any step however small, so the first ones are looked at where they are trained.
"""

from collections.abc import Iterable

import torch
from torch import nn


MOVED = "trained/share_moved"
TENSORS, ENTRIES = 4, 256
SECOND = ".lora_B."


class Movement:
    """
    A few entries of a model's trained weights.

    Args:
        named_parameters (`Iterable[tuple[str, nn.Parameter]]`):
            Parameters with their names; frozen and sharded ones are left out.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        trained = [(name, one) for name, one in named_parameters if one.requires_grad and _is_whole(one)]
        looked_at = [one for name, one in trained if SECOND not in name] or [one for _, one in trained]
        # Evenly over the model's depth, and over each tensor
        chosen = looked_at[:: max(1, -(-len(looked_at) // TENSORS))]
        self._kept = [(one, max(1, one.numel() // ENTRIES)) for one in chosen]
        self._before: list[torch.Tensor] | None = None

    def update_begins(self) -> None:
        """Notes the entries as they are."""
        self._before = self._entries()

    def share_moved(self) -> float | None:
        """Returns the share of the entries that are not as they were noted, or `None` if they were not."""
        before, self._before = self._before, None
        if not before:
            return None
        now = self._entries()
        moved = sum((one != other).sum().item() for one, other in zip(before, now, strict=True))
        return moved / sum(one.numel() for one in now)

    def _entries(self) -> list[torch.Tensor]:
        # A copy: the view would move along
        return [one.detach().view(-1)[::stride].clone() for one, stride in self._kept]


def _is_whole(parameter: nn.Parameter) -> bool:
    # FSDP and DeepSpeed leave a process a part, or nothing, of each
    is_sharded = hasattr(parameter, "ds_id") or hasattr(parameter, "device_mesh")
    return parameter.numel() > 0 and not is_sharded and parameter.is_contiguous() and parameter.is_floating_point()
