"""
The model of a run on fake tensors: the real class, adapters and quantized layers included, and no weights.
"""

import copy
from typing import Any

import torch
from peft import get_peft_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from .fake_linear import QuantizedLinear
from .log_prob_head import fuse_head
from .run_shape import RunShape


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def config_with(config: Any, layers: int) -> Any:
    """Returns a copy of a configuration with fewer layers."""
    short = copy.deepcopy(config)
    text = short.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None) is not None:
        text.layer_types = list(text.layer_types)[:layers]
    return short


def meta_model(shape: RunShape, layers: int) -> Any:
    """
    Returns the run's model on the meta device, with its adapter and with quantized layers.

    Args:
        shape (`RunShape`):
            Of the run.
        layers (`int`):
            Of the model; the run's are more.
    """
    config = config_with(shape.model_config, layers)
    factory: Any = AutoModelForCausalLM
    if shape.algorithm == "reward":
        factory, config.num_labels = AutoModelForSequenceClassification, 1
    with torch.device("meta"):
        model = factory.from_config(config, dtype=DTYPES[shape.dtype], attn_implementation=shape.attention)
        if shape.quantization is not None:
            _quantize(model, shape)
        if shape.algorithm != "reward":
            fuse_head(model, shape.algorithm)
        if shape.lora is not None:
            model = get_peft_model(model, copy.deepcopy(shape.lora))
            _set_adapter_dtype(model, shape)
    if shape.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads() if shape.lora is not None else None
    return model.train()


def materialize(model: nn.Module, mode: FakeTensorMode) -> None:
    """Gives a model on the meta device fake tensors on the CPU, in place; shared parameters stay shared."""
    seen: dict[int, nn.Parameter] = {}
    with mode:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    if id(parameter) not in seen:
                        empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                        seen[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                    module._parameters[name] = seen[id(parameter)]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def decoder_layers(model: Any) -> nn.ModuleList:
    """Returns the list of the model's layers."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = [child for child in base.modules() if isinstance(child, nn.ModuleList)]
    return max(layers, key=lambda one: sum(p.numel() for p in one.parameters()))


def head_width(config: Any) -> int:
    """Returns the numbers of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _quantize(model: Any, shape: RunShape) -> None:
    heads = {id(model.get_output_embeddings())}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and id(child) not in heads and name != "score":
                features = child.in_features, child.out_features
                new = QuantizedLinear(
                    features, child.bias is not None, shape.quantization or "", shape.double_quantization
                )
                if new.bias is not None:
                    new.bias.data = new.bias.data.to(DTYPES[shape.dtype])
                setattr(parent, name, new)
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def _set_adapter_dtype(model: Any, shape: RunShape) -> None:
    if shape.quantization is None:
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(DTYPES[shape.adapter_dtype])
