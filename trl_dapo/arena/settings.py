"""
Fields of a training config for the arena, sized for a CPU. The demo, the command line and the examples share them.

In here: plain numbers. Not in here: which algorithm trains, and for how long.
"""

from types import MappingProxyType
from typing import Any


PROMPTS, GENERATIONS, UPDATES = 16, 8, 8  # per rollout
MAX_COMPLETION_LENGTH = 40
TRAINING_PROMPTS = 4096
LEARNING_RATE = 2e-4

CPU_FIELDS: MappingProxyType[str, Any] = MappingProxyType(
    {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "dataloader_pin_memory": False}
)
ROLLOUT_FIELDS: MappingProxyType[str, Any] = MappingProxyType(
    {
        "num_generations": GENERATIONS,
        "per_device_train_batch_size": PROMPTS * GENERATIONS // UPDATES,
        "max_completion_length": MAX_COMPLETION_LENGTH,
    }
)
