"""
`DPOConfig`: TRL's `DPOConfig`, with preference optimization that needs no reference model.

With `reference_free=False`, every field means what it means in TRL.
"""

from dataclasses import dataclass, field
from typing import Literal

from trl import DPOConfig as HostConfig

from ..host.foreign import OwnConfig
from ..host.ranges import check_preference_fields
from ..qlora.precision import check_adapter_dtype


# Losses that depend on the difference within a pair, or on the chosen completion alone. The others need a level that
# only a reference provides: `ipo` for its target 1 / (2 beta); `nca_pair`, `bco_pair`, `sppo_hard`, `apo_zero`,
# `apo_down` and `exo_pair` for the distribution that they tilt; `aot` and `aot_unpaired` because they compare ratios
# of different prompts, which share no scale without it.
REFERENCE_FREE_LOSSES = ("sigmoid", "hinge", "robust", "discopop", "sigmoid_norm", "sft")


@dataclass
class DPOConfig(OwnConfig, HostConfig):
    r"""
    Configuration class for the [`DPOTrainer`].

    It takes every parameter of [`~trl.DPOConfig`].

    Parameters:
        > The reference

        reference_free (`bool`, *optional*, defaults to `False`):
            Train without a reference: the reward of a completion is `beta * log pi(y|x)`, and no reference model is
            loaded. Only for loss types that make sense without one: `"sigmoid"`, `"hinge"`, `"robust"`,
            `"discopop"`, `"sigmoid_norm"` and `"sft"`.

        > Quantized models

        adapter_dtype (`Literal["float32", "bfloat16"]`, *optional*, defaults to `"float32"`):
            Precision of the trainable parameters on a 4-bit or 8-bit base: `"float32"`, or `"bfloat16"` as in TRL,
            which rounds away most updates at small learning rates.
    """

    own_trainer = "DPOTrainer"

    reference_free: bool = field(
        default=False,
        metadata={
            "help": "Train without a reference: the reward of a completion is `beta * log pi(y|x)`, and no reference "
            "model is loaded. Only for the loss types 'sigmoid', 'hinge', 'robust', 'discopop', 'sigmoid_norm' and "
            "'sft'."
        },
    )
    """Train without a reference: the reward of a completion is `beta * log pi(y|x)`, and no reference model is loaded.
    Only for the loss types 'sigmoid', 'hinge', 'robust', 'discopop', 'sigmoid_norm' and 'sft'."""
    adapter_dtype: Literal["float32", "bfloat16"] = field(
        default="float32",
        metadata={
            "help": "Precision of the trainable parameters on a 4-bit or 8-bit base: 'float32', or 'bfloat16' as in "
            "TRL, which rounds away most updates at small learning rates."
        },
    )
    """Precision of the trainable parameters on a 4-bit or 8-bit base: 'float32', or 'bfloat16' as in TRL, which rounds
    away most updates at small learning rates."""

    def __post_init__(self) -> None:
        check_preference_fields(self)
        super().__post_init__()
        check_adapter_dtype(self.adapter_dtype)
        if self.reference_free:
            self._check_reference_free()

    def _check_reference_free(self) -> None:
        refused = [loss for loss in self.loss_type if loss not in REFERENCE_FREE_LOSSES]
        if refused:
            raise ValueError(
                f"loss_type={refused[0]!r} compares with a reference model, and reference_free=True has none. Set "
                f"`loss_type` to one of {list(REFERENCE_FREE_LOSSES)}, or reference_free=False."
            )
        asks_for_one = {
            "precompute_ref_log_probs": self.precompute_ref_log_probs,
            "sync_ref_model": self.sync_ref_model,
            "f_divergence_type": self.f_divergence_type != "reverse_kl",
        }
        for name, asks in asks_for_one.items():
            if asks:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is about the reference model, and reference_free=True has none. "
                    f"Leave `{name}` out, or set reference_free=False."
                )
