"""
Configs of a run that another machine, or processes that do not exist yet, will carry out.
"""

from typing import Any

import torch
from transformers import TrainingArguments


def planned(kind: Any, processes: int) -> type[TrainingArguments]:
    """
    Returns a config class that computes its batches for so many processes, and touches no device.

    Args:
        kind (`type[TrainingArguments]`):
            Config of the run.
        processes (`int`):
            Processes that it will have.
    """

    class PlannedConfig(kind):
        """A config for processes that have not started yet."""

        @property
        def world_size(self) -> int:
            return processes

        @property
        def _setup_devices(self) -> torch.device:
            # The process that plans must not take memory on the device that the run needs
            self.distributed_state, self._n_gpu = None, 1
            return torch.device("cpu")

    return PlannedConfig
