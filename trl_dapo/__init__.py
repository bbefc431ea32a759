"""
DAPO for Hugging Face TRL: `DAPOTrainer` in place of `GRPOTrainer`.

Names are imported on first use, so that `trl-dapo --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .config import DAPOConfig
    from .dpo import DPOTrainer
    from .dpo_config import DPOConfig
    from .grpo import GRPOTrainer
    from .grpo_config import GRPOConfig
    from .ppo import PPOTrainer
    from .ppo_config import PPOConfig
    from .reward import RewardTrainer
    from .reward_config import RewardConfig
    from .rewards.model import RewardModelFunction
    from .trainer import DAPOTrainer

__version__ = "0.1.0"

__all__ = [
    "DAPOConfig",
    "DAPOTrainer",
    "DPOConfig",
    "DPOTrainer",
    "GRPOConfig",
    "GRPOTrainer",
    "PPOConfig",
    "PPOTrainer",
    "RewardConfig",
    "RewardModelFunction",
    "RewardTrainer",
    "__version__",
]

_HOMES = {
    "DAPOConfig": ".config",
    "DAPOTrainer": ".trainer",
    "DPOConfig": ".dpo_config",
    "DPOTrainer": ".dpo",
    "GRPOConfig": ".grpo_config",
    "GRPOTrainer": ".grpo",
    "PPOConfig": ".ppo_config",
    "PPOTrainer": ".ppo",
    "RewardConfig": ".reward_config",
    "RewardModelFunction": ".rewards.model",
    "RewardTrainer": ".reward",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
