"""
DAPO for Hugging Face TRL: `DAPOTrainer` in place of `GRPOTrainer`.

Names are imported on first use, so that `trl-dapo --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .config import DAPOConfig
    from .grpo import GRPOTrainer
    from .grpo_config import GRPOConfig
    from .ppo import PPOTrainer
    from .ppo_config import PPOConfig
    from .trainer import DAPOTrainer

__version__ = "0.1.0"

__all__ = [
    "DAPOConfig",
    "DAPOTrainer",
    "GRPOConfig",
    "GRPOTrainer",
    "PPOConfig",
    "PPOTrainer",
    "__version__",
]

_HOMES = {
    "DAPOConfig": ".config",
    "DAPOTrainer": ".trainer",
    "GRPOConfig": ".grpo_config",
    "GRPOTrainer": ".grpo",
    "PPOConfig": ".ppo_config",
    "PPOTrainer": ".ppo",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
