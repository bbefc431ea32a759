"""
Plans of one run and of others like it, each made once and not more than a question may ask for.
"""

import math
from collections.abc import Callable

from .memory_plan import MemoryPlan
from .run_shape import RunShape


# Plans that one question may ask for
MOST_PLANS = 64
# A replay may miss a trace by so much
TOLERANCE = 0.01

Planner = Callable[[RunShape], MemoryPlan]
Replayer = Callable[[RunShape, float], MemoryPlan]


class Plans:
    """
    Plans by shape, each made once.

    Args:
        plan (`Callable[[RunShape], MemoryPlan]`):
            What makes one.
        most (`int`, *optional*):
            How many may be made; then `exhausted` is `True`, and searches end with what they have.
        replay (`Callable[[RunShape, float], MemoryPlan]`, *optional*):
            What makes one in less time for a search. Phases that need at least as many bytes as its second argument
            must be as `plan` has them, and others within a hundredth of it. Without it, searches use `plan`.
    """

    def __init__(self, plan: Planner, most: int = MOST_PLANS, replay: Replayer | None = None) -> None:
        self._plan, self._left = plan, most
        self._replay = replay
        self._known: list[tuple[RunShape, MemoryPlan]] = []
        self._guessed: list[tuple[RunShape, int]] = []

    @property
    def exhausted(self) -> bool:
        """Whether no further plan may be made."""
        return self._left <= 0

    def bytes(self, shape: RunShape) -> int:
        """Returns what a device must have free."""
        return self.of(shape).bytes

    def of(self, shape: RunShape) -> MemoryPlan:
        """Returns the plan of a shape."""
        for known, plan in self._known:
            if known is shape or known == shape:
                return plan
        self._left -= 1
        plan = self._plan(shape)
        self._known.append((shape, plan))
        return plan

    def about(self, shape: RunShape) -> int:
        """Returns what a device must have free, for a search."""
        if self._replay is None:
            return self.bytes(shape)
        for known, need in [*((known, plan.bytes) for known, plan in self._known), *self._guessed]:
            if known is shape or known == shape:
                return need
        self._left -= 1
        need = self._replay(shape, math.inf).bytes
        self._guessed.append((shape, need))
        return need

    def checked(self, shape: RunShape, limit: float) -> int:
        """Returns what a device must have free, traced in each phase that may decide whether it fits `limit`."""
        if self._replay is None:
            return self.bytes(shape)
        return self._replay(shape, limit * (1 - TOLERANCE)).bytes
