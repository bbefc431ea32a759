"""
Loading reward models from folders, with their heads in float32.

Adapters with the same base are loaded onto it together. What counts as a reward model is decided in `folders`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..qlora.precision import is_quantized, takes_any_float
from .folders import HEAD_NAMES, adapter_base


@dataclass(frozen=True)
class LoadSettings:
    """How weights are read: quantization, other arguments of `from_pretrained`, and the device they go to."""

    quantization_config: Any = None
    model_init_kwargs: dict[str, Any] | None = None
    device: str | torch.device | None = None

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of `from_pretrained`; the dtype defaults to float32, in which TRL trains."""
        arguments: dict[str, Any] = {"dtype": torch.float32, **(self.model_init_kwargs or {})}
        if self.quantization_config is not None:
            arguments["quantization_config"] = self.quantization_config
            arguments.setdefault("device_map", {"": self.place()})
        return arguments

    def place(self) -> torch.device:
        """Returns the device asked for, else that of this process."""
        return torch.device(PartialState().device or "cpu" if self.device is None else self.device)

    def placed(self, model: Any) -> Any:
        """Returns the model in eval mode, moved unless it is quantized or spread over devices."""
        if not is_quantized(model) and getattr(model, "hf_device_map", None) is None:
            model = model.to(self.place())
        return model.eval()


@dataclass(frozen=True)
class Loaded:
    """A reward model, and the adapter to select before it is used, if it has several."""

    model: Any
    adapter: str | None = None


def load(paths: list[str], base: str | PreTrainedModel | None, settings: LoadSettings) -> list[Loaded]:
    """
    Returns the reward models of folders, in order; adapters with the same base share it.

    Args:
        paths (`list[str]`):
            Folders, or names on the Hub.
        base (`str` or [`~transformers.PreTrainedModel`], *optional*):
            Base of the adapters, instead of the one that each was trained on.
        settings ([`LoadSettings`]):
            How weights are read. A base that is already a model is taken as it is.
    """
    shared: dict[str, Any] = {}
    result = []
    for index, path in enumerate(paths):
        wanted = adapter_base(path)
        if wanted is None:
            model = AutoModelForSequenceClassification.from_pretrained(path, **settings.arguments())
            result.append(Loaded(settings.placed(_ready(model))))
            continue
        name = f"reward_{index}"
        key = wanted if base is None else "base"
        if key not in shared:
            loaded = _ready(base if isinstance(base, nn.Module) else _load_base(base or wanted, settings))
            shared[key] = PeftModel.from_pretrained(loaded, path, adapter_name=name)
        else:
            shared[key].load_adapter(path, adapter_name=name)
        result.append(Loaded(settings.placed(shared[key]), name))
    return result


def _load_base(name: str, settings: LoadSettings) -> PreTrainedModel:
    # transformers warns that the head is missing; it comes with the adapter
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        return AutoModelForSequenceClassification.from_pretrained(name, num_labels=1, **settings.arguments())
    finally:
        transformers_logging.set_verbosity(verbosity)


def _ready(model: Any) -> Any:
    """The model with its head in float32. PEFT copies the head's dtype, and trained heads are saved in float32."""
    for name, module in model.named_children():
        if name in HEAD_NAMES and isinstance(module, nn.Linear):
            takes_any_float(module.float())
    model.config.use_cache = False
    return model
