"""
The last step at which something still holds, asked of as few steps as possible.

It takes for granted that what holds at a step holds at every earlier one: a change that helps at a step also helps
before. The neighbours of what it finds are asked as well, and say if that is not so there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Boundary:
    """
    What a bisection has found.

    Args:
        last (`int`, *optional*):
            The last step that holds, `None` where the first one does not.
        first (`int`, *optional*):
            The step after it, which does not hold; `None` where the last one of all holds.
        asked (`dict[int, bool]`):
            All that was asked, by step.
    """

    last: int | None
    first: int | None
    asked: dict[int, bool]

    @property
    def contradictions(self) -> list[int]:
        """Steps that hold after one that does not, or do not hold before one that does."""
        if self.last is None or self.first is None:
            return []
        return sorted(
            step
            for step, holds in self.asked.items()
            if (step > self.first and holds) or (step < self.last and not holds)
        )


def last_that_holds(steps: Sequence[int], holds: Callable[[int], bool], neighbours: bool = False) -> Boundary:
    """
    Returns the boundary between steps that hold and steps that do not.

    Args:
        steps (`Sequence[int]`):
            In ascending order; at least one.
        holds (`Callable[[int], bool]`):
            Asked once per step.
        neighbours (`bool`, *optional*, defaults to `False`):
            Whether the step before the last that holds, and the one after the first that does not, are asked too.
    """
    asked: dict[int, bool] = {}

    def ask(index: int) -> bool:
        step = steps[index]
        if step not in asked:
            asked[step] = holds(step)
        return asked[step]

    low, high = -1, len(steps)  # `low` holds and `high` does not, as far as there are such
    # The ends first: where all steps are alike, nothing between them has to be asked
    if ask(0):
        low = 0
    else:
        high = 0
    if high > 0 and ask(len(steps) - 1):
        low = len(steps) - 1
    elif high > 0:
        high = len(steps) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ask(middle) else (low, middle)
    if neighbours:
        for index in (low - 1, high + 1):
            if 0 <= index < len(steps):
                ask(index)
    return Boundary(steps[low] if low >= 0 else None, steps[high] if high < len(steps) else None, asked)
