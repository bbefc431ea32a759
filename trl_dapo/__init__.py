"""
DAPO for Hugging Face TRL: `DAPOTrainer` in place of `GRPOTrainer`.

Names are imported on first use, so that `trl-dapo --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .dapo.config import DAPOConfig
    from .dapo.trainer import DAPOTrainer
    from .dpo.config import DPOConfig
    from .dpo.trainer import DPOTrainer
    from .evaluation.callback import EvaluationCallback
    from .grpo.config import GRPOConfig
    from .grpo.trainer import GRPOTrainer
    from .host.arguments import RewardFunction
    from .monitor.callback import DiagnosisCallback
    from .monitor.diagnosis import diagnose
    from .ppo.config import PPOConfig
    from .ppo.trainer import PPOTrainer
    from .qlora.four_bit import four_bit
    from .reward_model.config import RewardConfig
    from .reward_model.function import RewardModelFunction
    from .reward_model.trainer import RewardTrainer
    from .verification.certificate import verify
    from .view.callback import LiveView

__version__ = "0.1.0"

__all__ = [
    "DAPOConfig",
    "DAPOTrainer",
    "DPOConfig",
    "DPOTrainer",
    "DiagnosisCallback",
    "EvaluationCallback",
    "GRPOConfig",
    "GRPOTrainer",
    "LiveView",
    "PPOConfig",
    "PPOTrainer",
    "RewardConfig",
    "RewardFunction",
    "RewardModelFunction",
    "RewardTrainer",
    "__version__",
    "diagnose",
    "four_bit",
    "verify",
]

_HOMES = {
    "DAPOConfig": ".dapo.config",
    "DAPOTrainer": ".dapo.trainer",
    "DPOConfig": ".dpo.config",
    "DPOTrainer": ".dpo.trainer",
    "DiagnosisCallback": ".monitor.callback",
    "EvaluationCallback": ".evaluation.callback",
    "GRPOConfig": ".grpo.config",
    "GRPOTrainer": ".grpo.trainer",
    "LiveView": ".view.callback",
    "PPOConfig": ".ppo.config",
    "PPOTrainer": ".ppo.trainer",
    "RewardConfig": ".reward_model.config",
    "RewardFunction": ".host.arguments",
    "RewardModelFunction": ".reward_model.function",
    "RewardTrainer": ".reward_model.trainer",
    "diagnose": ".monitor.diagnosis",
    "four_bit": ".qlora.four_bit",
    "verify": ".verification.certificate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = import_module(_HOMES[name], __name__)
    except ImportError as error:
        from .host.releases import explain_import

        explained = explain_import(error)
        if explained is None:
            raise
        raise explained from error
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
