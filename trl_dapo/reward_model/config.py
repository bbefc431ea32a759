"""
`RewardConfig`: TRL's `RewardConfig`, with the precision of adapters and the statistics saved beside the weights.

Every field of TRL keeps TRL's default.
"""

from dataclasses import dataclass, field
from typing import Literal

from trl import RewardConfig as HostConfig

from ..host.foreign import OwnConfig
from ..host.ranges import check_preference_fields
from ..qlora.precision import check_adapter_dtype


@dataclass
class RewardConfig(OwnConfig, HostConfig):
    r"""
    Configuration class for the [`RewardTrainer`].

    It takes every parameter of [`~trl.RewardConfig`].

    Parameters:
        > Quantized models

        adapter_dtype (`Literal["float32", "bfloat16"]`, *optional*, defaults to `"float32"`):
            Precision of the trainable parameters on a 4-bit or 8-bit base: `"float32"`, or `"bfloat16"` as in TRL,
            which rounds away most updates at small learning rates.

        > What is saved beside the weights

        statistics_window (`int`, *optional*, defaults to `1024`):
            In the mean and standard deviation of the rewards that are saved with the model, earlier rewards count as
            at most this many rows, so those from early in training fade.
    """

    own_trainer = "RewardTrainer"

    adapter_dtype: Literal["float32", "bfloat16"] = field(
        default="float32",
        metadata={
            "help": "Precision of the trainable parameters on a 4-bit or 8-bit base: 'float32', or 'bfloat16' as in "
            "TRL, which rounds away most updates at small learning rates."
        },
    )
    """Precision of the trainable parameters on a 4-bit or 8-bit base: 'float32', or 'bfloat16' as in TRL, which rounds
    away most updates at small learning rates."""
    statistics_window: int = field(
        default=1024,
        metadata={
            "help": "In the mean and standard deviation of the rewards that are saved with the model, earlier rewards "
            "count as at most this many rows, so those from early in training fade."
        },
    )
    """In the mean and standard deviation of the rewards that are saved with the model, earlier rewards count as at
    most this many rows, so those from early in training fade."""

    def __post_init__(self) -> None:
        check_preference_fields(self)
        super().__post_init__()
        check_adapter_dtype(self.adapter_dtype)
        if self.statistics_window < 1:
            raise ValueError(f"`statistics_window` must be at least 1 row, got {self.statistics_window}.")
