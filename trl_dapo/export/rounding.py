"""
What is left of an update when a weight is stored with fewer digits. Pure: tensors in, numbers out.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Kept:
    """
    What the rounding keeps of an update.

    Args:
        moved (`int`):
            Entries that the update changes in float32.
        changed (`int`):
            Those of them that are still changed in the stored type.
        error_squares (`float`):
            Sum of squares of what the rounding adds to the update or takes from it.
        update_squares (`float`):
            Sum of squares of the update.
    """

    moved: int = 0
    changed: int = 0
    error_squares: float = 0.0
    update_squares: float = 0.0

    @property
    def share(self) -> float:
        """Share of the moved entries that are still changed; 1 where nothing moved."""
        return self.changed / self.moved if self.moved else 1.0

    @property
    def error(self) -> float:
        """What is lost of the update, relative to it: 0 where all of it is kept, about 1 where nothing is."""
        return (self.error_squares / self.update_squares) ** 0.5 if self.update_squares else 0.0

    def __add__(self, other: "Kept") -> "Kept":
        return Kept(
            self.moved + other.moved,
            self.changed + other.changed,
            self.error_squares + other.error_squares,
            self.update_squares + other.update_squares,
        )


def kept_by(before: torch.Tensor, after: torch.Tensor, dtype: torch.dtype) -> Kept:
    """
    Returns what is kept of the update of a weight when it is stored as `dtype`.

    The update is `after - before`, and what is stored of it `round(after) - round(before)`: the base would be stored
    in that type without the update too.

    Args:
        before, after (`torch.Tensor`):
            The weight without and with the update, in float32, of one shape.
        dtype (`torch.dtype`):
            What it is stored as.
    """
    before, after = before.float(), after.float()
    update = after - before
    stored = after.to(dtype).float() - before.to(dtype).float()
    moved = update != 0
    return Kept(
        int(moved.sum()),
        int((stored[moved] != 0).sum()),
        float((stored - update).double().square().sum()),
        float(update.double().square().sum()),
    )
