"""
Processes that share an evaluation. The first one writes; all know all results.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object


@dataclass(frozen=True)
class Processes:
    """
    The processes of an evaluation, seen from one of them.

    Args:
        index (`int`, *optional*, defaults to `0`):
            Which one this is.
        count (`int`, *optional*, defaults to `1`):
            How many there are.
    """

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.index == 0

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all processes, in their order. All have to call it."""
        return [value] if self.count == 1 else gather_object([value])


def launched(device: str) -> Processes:
    """
    Returns the processes that a launcher such as `accelerate launch` has started, or this one alone.

    Args:
        device (`str`):
            Device of the policy, `"auto"` being a GPU if there is one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    # Processes without a GPU would otherwise not be connected
    state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())
    return Processes(state.process_index, state.num_processes)
