"""
An adapter merged into a base that is not quantized, one layer at a time, with what the rounding keeps of it.

The sums are PEFT's own. Where training had a 4-bit base, there are two to merge into: the original weights, on which
the adapter was not trained, and the 4-bit ones written out, on which it was. Packed weights are never merged into:
what comes out would be rounded to 4 bits again.
"""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from ..host.adapter_folders import load_adapter, load_base
from .rounding import Kept, kept_by
from .source import MergeSource


BASES = ("original", "dequantized")


@dataclass
class Merged:
    """
    A model with its adapter merged, in float32.

    Attributes:
        model ([`~peft.PeftModel`]): its layers are merged, its wrappers are still there.
        base (`str`): `"original"` or `"dequantized"`.
        kept (`dict[str, dict[str, Kept]]`): what each type keeps of the update, by layer.
    """

    model: Any
    base: str
    kept: dict[str, dict[str, Kept]] = field(default_factory=dict)

    def total(self, dtype: str) -> Kept:
        """What a type keeps of the whole update."""
        return sum(self.kept[dtype].values(), Kept())

    def worst(self, dtype: str) -> tuple[str, Kept]:
        """The layer of whose update a type loses most."""
        return max(self.kept[dtype].items(), key=lambda pair: pair[1].error, default=("", Kept()))


def tokenizer_of(source: MergeSource) -> Any:
    """Returns the tokenizer of the adapter, else that of the base."""
    try:
        return AutoTokenizer.from_pretrained(source.folder)
    except (OSError, ValueError):
        return AutoTokenizer.from_pretrained(source.base)


def without_weights(source: MergeSource) -> nn.Module:
    """Returns the base with its parameters' sizes alone."""
    architecture = AutoModelForSequenceClassification if source.scores else AutoModelForCausalLM
    with torch.device("meta"):
        return architecture.from_config(AutoConfig.from_pretrained(source.base))


def load_trained(source: MergeSource, tokens: int) -> PeftModel:
    """Returns the model that was trained: the base as in training, and the adapter on it, without dropout."""
    on_card = torch.cuda.is_available()
    arguments: dict[str, Any] = {"dtype": torch.float32, "device_map": "cuda:0" if on_card else "cpu"}
    if source.quantization is not None:
        if not on_card:
            # Emulated on most processors
            source.quantization.bnb_4bit_compute_dtype = torch.float32
        arguments["quantization_config"] = source.quantization
    return _load(source, tokens, **arguments)


def load_merged(source: MergeSource, base: str, dtypes: list[str], tokens: int, trained: Any = None) -> Merged:
    """
    Returns the base in float32 with the adapter merged into it.

    Args:
        source ([`MergeSource`]):
            What is merged.
        base (`str`):
            `"original"`, or `"dequantized"`.
        dtypes (`list[str]`):
            Types for which is counted what they keep.
        tokens (`int`):
            Size of the tokenizer.
        trained ([`~peft.PeftModel`], *optional*):
            The model on the 4-bit base, for `"dequantized"`.
    """
    model = _load(source, tokens, dtype=torch.float32, device_map="cpu")
    if base == "dequantized":
        _write_out(trained, model)
    merged = Merged(model, base, {dtype: {} for dtype in dtypes})
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, BaseTunerLayer):
            # The one copy of a weight: of the layer at hand
            before = layer.get_base_layer().weight.detach().clone()
            layer.merge(safe_merge=False, adapter_names=["default"])
            after = layer.get_base_layer().weight.detach()
            for dtype in dtypes:
                merged.kept[dtype][name] = kept_by(before, after, getattr(torch, dtype))
    return merged


@torch.no_grad()
def round_in_place(model: nn.Module, dtype: str) -> None:
    """Gives every weight the value that it has once it is stored, and computes in float32 all the same."""
    if dtype != "float32":
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(getattr(torch, dtype)).float()


def _load(source: MergeSource, tokens: int, **arguments: Any) -> PeftModel:
    architecture = AutoModelForSequenceClassification if source.scores else AutoModelForCausalLM
    labels = {"num_labels": 1} if source.scores else {}
    base = load_base(source.base, architecture, **labels, **arguments)
    model = load_adapter(base, str(source.folder), tokens=tokens)
    # On some processors, bitsandbytes repacks 4-bit weights in eval mode, and cannot write them out any more
    model.train(source.quantization is not None and "quantization_config" in arguments)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if model.config.pad_token_id is None and source.scores:
        model.config.pad_token_id = model.config.eos_token_id
    return model


@torch.no_grad()
def _write_out(trained: PeftModel, model: PeftModel) -> None:
    """Gives a model the values of the 4-bit weights of another, where that has any."""
    # An extra, which a base that is not quantized does not need
    bitsandbytes, functional = import_module("bitsandbytes"), import_module("bitsandbytes.functional")
    own = dict(model.get_base_model().named_modules())
    for name, module in trained.get_base_model().named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight: Any = module.weight
            values = functional.dequantize_4bit(weight.data, weight.quant_state)
            own[name].weight.data = values.float().to("cpu").reshape(own[name].weight.shape)
