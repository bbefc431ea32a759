"""
The memory that a run needs, phase by phase.
"""

from .memory_plan import MemoryPlan
from .run_shape import RunShape


def plan_memory(shape: RunShape) -> MemoryPlan:
    """Returns the memory of a run on one device, phase by phase."""
    raise NotImplementedError
