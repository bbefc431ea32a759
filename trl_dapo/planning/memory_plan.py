"""
A plan of memory as values: phases, and what lies in the memory of a device in each.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """
    One kind of thing in memory.

    Args:
        name (`str`):
            What it is, such as `"KV cache"`.
        bytes (`int`):
            At the phase's peak.
        how (`str`):
            `"traced"`, from the real step on fake tensors; `"modelled"`, by a formula; or `"given"` by the run.
    """

    name: str
    bytes: int
    how: str


@dataclass(frozen=True)
class Phase:
    """
    The peak of one phase.

    Args:
        name (`str`):
            `"load"`, `"generate"`, `"score"` or `"update"`.
        items (`tuple[Item, ...]`):
            What lies in memory at its peak.
    """

    name: str
    items: tuple[Item, ...]

    @property
    def bytes(self) -> int:
        """All items together."""
        return sum(item.bytes for item in self.items)


@dataclass(frozen=True)
class MemoryPlan:
    """
    Memory over a run.

    Args:
        phases (`tuple[Phase, ...]`):
            In the order of a run.
        fragmentation (`float`):
            Share that an allocator loses between blocks, on top of each phase.
        modelled (`tuple[str, ...]`):
            What no trace can tell, one line each, with the formula.
    """

    phases: tuple[Phase, ...]
    fragmentation: float = 0.0
    modelled: tuple[str, ...] = ()

    @property
    def peak(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def bytes(self) -> int:
        """What a device must have free, the allowance for fragmentation included."""
        return int(self.peak.bytes * (1 + self.fragmentation))
