"""What torch's CPU allocator holds, by its own events."""

import itertools
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def allocations(function: Callable[[], Any]) -> tuple[Any, list[int]]:
    """Runs a function; returns what it returned, and the bytes that were taken and given back, in order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        result = function()
    return result, [event.nbytes() for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]


def peak_of(function: Callable[[], Any]) -> int:
    """Most bytes that were held at once, beyond those before."""
    return max(itertools.accumulate(allocations(function)[1]))
