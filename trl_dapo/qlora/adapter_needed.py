"""
What cannot be trained on a quantized base, said before it is loaded: everything but an adapter.
"""

from typing import Any

from peft import PeftModel
from torch import nn

from .one_kernel import check_layout
from .precision import is_quantized


HEADS = ("lm_head", "embed_out")
WHY_NOT_HEAD = "log-probabilities are computed from the head's weights directly, so that an adapter on it never trains"


def check_adapter_is_given(model: Any, quantization_config: Any, model_init_kwargs: Any, peft_config: Any) -> None:
    """
    Raises `ValueError` where a 4-bit or 8-bit model has no adapter, or is laid out so that none can be trained.

    Args:
        model (`Any`):
            A model, or its name.
        quantization_config, peft_config (`Any`):
            As the trainer was given them.
        model_init_kwargs (`dict` or `None`):
            Of the config, which may hold a `quantization_config` too.
    """
    if isinstance(model, nn.Module):
        check_layout(model)
    if peft_config is not None or isinstance(model, PeftModel):
        return
    asked = quantization_config or (model_init_kwargs or {}).get("quantization_config")
    if asked is not None or is_quantized(model):
        raise ValueError(
            "The model is quantized, and packed integers cannot be trained: give `peft_config`, or `use_peft` on the "
            "command line (`trl_dapo.four_bit()` has both configs). For full fine-tuning, load the model without "
            "quantization."
        )


def check_no_adapter_on_head(peft_config: Any) -> None:
    """Raises `ValueError` where an adapter is asked for on the head, which TRL's log-probabilities bypass."""
    for field in ("target_modules", "modules_to_save"):
        found = head_among(getattr(peft_config, field, None))
        if found is not None:
            raise ValueError(
                f"`{field}` of `peft_config` has {found!r}: {WHY_NOT_HEAD}. Leave {found!r} out; "
                "target_modules='all-linear' does."
            )


def head_among(names: Any) -> str | None:
    """Returns the head of the model that is among names of modules, if one is."""
    return next((name for name in HEADS if isinstance(names, (list, set, tuple)) and name in names), None)
