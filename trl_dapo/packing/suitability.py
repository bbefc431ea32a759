"""
Whether a token's log-probability is a matter of its row alone, which is what packing, shared prompts and rows left out
of generation rely on.

It is not where positions depend on the longest row of a batch, as with `dynamic` and `longrope` RoPE, nor where an
adapter does more than change how a token passes through a layer, as virtual tokens do.
"""

import copy
import inspect
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import nn

from .positions import backbone_of


# Methods of PEFT that change how each token passes through a layer, and nothing else
BY_TOKEN = (
    "LORA",
    "ADALORA",
    "BOFT",
    "C3A",
    "DELORA",
    "FOURIERFT",
    "GRALORA",
    "HRA",
    "IA3",
    "LN_TUNING",
    "LOHA",
    "LOKR",
    "MISS",
    "OFT",
    "OSF",
    "RANDLORA",
    "ROAD",
    "SHIRA",
    "TRAINABLE_TOKENS",
    "VBLORA",
    "VERA",
    "WAVEFT",
)
# Parts of LoRA's config that act from some token on, choose by the whole input, or draw at random
BEYOND_TOKENS = ("alora_invocation_tokens", "arrow_config", "monteclora_config")

# Fields of code from the hub that do what `dynamic` does
BY_LENGTH = ("use_dynamic_ntk", "use_logn_attn")
# More tokens than any context that a model is made for
FAR = 2**24


def tied_to_batch(model: Any) -> str | None:
    """Returns what ties a row's log-probabilities to the batch that it is in, for a message; `None` where nothing."""
    return _adapter_beyond_tokens(model) or length_dependence(model)


def _adapter_beyond_tokens(model: Any) -> str | None:
    if not is_peft_model(model):
        return None
    for name, config in model.peft_config.items():
        kind = getattr(config.peft_type, "value", str(config.peft_type))
        if getattr(config, "is_prompt_learning", False):
            return f"the adapter {name!r} ({kind}) has virtual tokens"
        if kind not in BY_TOKEN:
            return f"the adapter {name!r} ({kind}) may do more than change how single tokens pass through a layer"
        field = next((field for field in BEYOND_TOKENS if getattr(config, field, None) is not None), None)
        if field is not None:
            return f"the adapter {name!r} has {field}"
    return None


def length_dependence(model: Any) -> str | None:
    """Returns what makes positions depend on the longest row, by the config and by a try of each rotary module."""
    backbone = backbone_of(model)
    config: Any = backbone.config.get_text_config()
    for kind in _rope_types(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)):
        if "dynamic" in kind or kind in ("longrope", "su"):
            return f"rope_type={kind!r} makes positions depend on the longest row"
    field = next((field for field in BY_LENGTH if getattr(config, field, False)), None)
    if field is not None:
        return f"{field}=True makes positions depend on the longest row"
    tried = {id(module): module for module in backbone.modules() if _is_rotary(module)}
    found = next((module for module in tried.values() if _turns_with_length(module, config)), None)
    return None if found is None else f"{type(found).__name__} turns by angles that depend on the longest row"


def _rope_types(parameters: Any) -> list[str]:
    """Returns the types in a config's parameters of RoPE, which may be one dictionary per kind of layer."""
    if not isinstance(parameters, dict):
        return []
    own = parameters.get("rope_type", parameters.get("type"))
    nested = [kind for value in parameters.values() for kind in _rope_types(value)]
    return [*([own] if isinstance(own, str) else []), *nested]


def _is_rotary(module: nn.Module) -> bool:
    names = list(inspect.signature(module.forward).parameters)
    return "rotary" in type(module).__name__.lower() and names[:2] == ["x", "position_ids"]


@torch.no_grad()
def _turns_with_length(module: nn.Module, config: Any) -> bool:
    """Whether the first positions turn by other angles in a longer row."""
    takes_kind = "layer_type" in inspect.signature(module.forward).parameters
    kinds = sorted(set(getattr(config, "layer_types", None) or ())) if takes_kind else []
    for kind in kinds or [None]:
        given = {} if kind is None else {"layer_type": kind}
        own = copy.deepcopy(module)  # some remember the longest row
        device = next((buffer.device for buffer in own.buffers()), torch.device("cpu"))
        x = torch.zeros(1, 1, 1, device=device)
        near = torch.arange(4, device=device)
        try:
            short, long = (
                [part[..., :4, :] for part in own(x, positions.unsqueeze(0), **given)]
                for positions in (near, torch.cat([near, near.new_tensor([FAR])]))
            )
        except (TypeError, IndexError, KeyError, RuntimeError, AttributeError):
            continue  # called otherwise; the config has been asked
        if not all(torch.equal(one, other) for one, other in zip(short, long, strict=True)):
            return True
    return False
