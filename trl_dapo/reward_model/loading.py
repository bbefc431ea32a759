"""
Loading reward models from folders, with their heads in float32.

Adapters with the same base are loaded onto it together. What counts as a reward model is decided in `folders`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from ..host.adapter_folders import brings_embeddings, load_adapter, load_base
from ..host.new_weights import Load, new_in_memory, refuse_new, watching_loads
from ..qlora.one_kernel import keep_one_kernel
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
        # The rewards that its trainer measured
        keep_one_kernel(model)
        return model.eval()


@dataclass(frozen=True)
class Loaded:
    """A reward model, and the adapter to select before it is used, if it has several."""

    model: Any
    adapter: str | None = None


def load(
    paths: list[str], tokens: list[int], base: str | PreTrainedModel | None, settings: LoadSettings
) -> list[Loaded]:
    """
    Returns the reward models of folders, in order; adapters with the same base share it.

    Args:
        paths (`list[str]`):
            Folders, or names on the Hub.
        tokens (`list[int]`):
            Number of tokens that the tokenizer of each has.
        base (`str` or [`~transformers.PreTrainedModel`], *optional*):
            Base of the adapters, instead of the one that each was trained on.
        settings ([`LoadSettings`]):
            How weights are read. A base that is already a model is taken as it is.

    Raises:
        `ValueError`: If adapter and base do not fit, or a parameter would stay new and give random rewards.
    """
    shared: dict[str, Load] = {}
    result = []
    for index, (path, tokens_of_one) in enumerate(zip(paths, tokens, strict=True)):
        wanted = adapter_base(path)
        if wanted is None:
            with watching_loads(refuse_new):
                model = AutoModelForSequenceClassification.from_pretrained(path, **settings.arguments())
            result.append(Loaded(settings.placed(_ready(model))))
            continue
        name = f"reward_{index}"
        # Embeddings of its own would be those of every adapter on the base
        key = f"{path}'s own" if brings_embeddings(path) else wanted if base is None else "base"
        if key not in shared:
            shared[key] = _base(base or wanted, settings)
        model = load_adapter(shared[key], path, name, tokens=tokens_of_one)
        shared[key] = Load(model, shared[key].name, shared[key].new)
        result.append(Loaded(settings.placed(model), name))
    return result


def _base(base: Any, settings: LoadSettings) -> Load:
    if isinstance(base, nn.Module):
        return Load(_ready(base), base.config._name_or_path, new_in_memory(base))
    arguments = {"device_map": None, **settings.arguments()}
    load = load_base(base, AutoModelForSequenceClassification, num_labels=1, **arguments)
    return Load(_ready(load.model), load.name, load.new)


def float_head(head: nn.Module) -> None:
    """Casts a head, of one or several layers, to float32; it takes hidden states of any precision."""
    head.float()
    for module in head.modules():
        if isinstance(module, nn.Linear):
            takes_any_float(module)


def _ready(model: Any) -> Any:
    """The model with its head in float32. PEFT copies the head's dtype, and trained heads are saved in float32."""
    for name, module in model.named_children():
        if name in HEAD_NAMES:
            float_head(module)
    model.config.use_cache = False
    return model
