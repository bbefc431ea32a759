"""
Reward models from folders: which kind a folder is, and loading it, its head in float32.

A folder holds a sequence classification model of one label, or an adapter for one with its head. Several adapters of
one base are loaded onto it together. The invariant: what is no reward model is refused before weights are read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftConfig, PeftModel, TaskType
from peft.utils.constants import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import find_adapter_config_file
from transformers.utils import logging as transformers_logging

from ..qlora.precision import is_quantized, takes_any_float


# What the sequence classification models of transformers call their last layer
HEAD_NAMES = ("score", "classifier")


@dataclass(frozen=True)
class LoadSettings:
    """How weights are read: a quantization, other arguments of `from_pretrained`, and where they go."""

    quantization_config: Any = None
    model_init_kwargs: dict[str, Any] | None = None
    device: str | torch.device | None = None

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of `from_pretrained`; float32 where no dtype is asked for, as TRL trains."""
        arguments: dict[str, Any] = {"dtype": torch.float32, **(self.model_init_kwargs or {})}
        if self.quantization_config is not None:
            arguments["quantization_config"] = self.quantization_config
            arguments.setdefault("device_map", {"": self.place()})
        return arguments

    def place(self) -> torch.device:
        """Returns the device asked for, or that of this process."""
        return torch.device(PartialState().device or "cpu" if self.device is None else self.device)

    def placed(self, model: Any) -> Any:
        """Returns the model in eval mode, moved where it is neither quantized nor spread over devices."""
        if not is_quantized(model) and getattr(model, "hf_device_map", None) is None:
            model = model.to(self.place())
        return model.eval()


@dataclass(frozen=True)
class Loaded:
    """A model that scores, and the adapter to select before it does, where the model has several."""

    model: Any
    adapter: str | None = None


def adapter_base(path: str) -> str | None:
    """
    Returns the name of the base that an adapter folder asks for, or `None` where the folder is a whole reward model.

    Raises:
        `ValueError`: Where it is neither: another kind of model, more than one label, an adapter without a head, or
            nothing that can be found.
    """
    try:
        return _adapter_base(path)
    except OSError as error:
        raise ValueError(
            f"The reward model {path!r} is neither the folder of a saved model nor a name on the Hub that can be "
            f"reached: {' '.join(str(error).split())}"
        ) from error


def load(paths: list[str], base: str | PreTrainedModel | None, settings: LoadSettings) -> list[Loaded]:
    """
    Returns the reward models of folders, in order; adapters of one base share it.

    Args:
        paths (`list[str]`):
            Folders, or names on the Hub.
        base (`str` or [`~transformers.PreTrainedModel`], *optional*):
            Base of the adapters, in place of the one that each was trained on.
        settings ([`LoadSettings`]):
            How weights are read. A base that is a model already is taken as it is.
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


def _adapter_base(path: str) -> str | None:
    if Path(path).is_dir() and not any(
        (Path(path) / name).is_file() for name in ("config.json", "adapter_config.json")
    ):
        raise ValueError(f"The reward model {path!r} is a folder without config.json and without adapter_config.json.")
    if find_adapter_config_file(path) is None:
        _check_config(path)
        return None
    config = PeftConfig.from_pretrained(path)
    if config.task_type != TaskType.SEQ_CLS:
        raise ValueError(
            f"The adapter {path!r} has task_type={config.task_type!r}, and a reward model has 'SEQ_CLS'. Train one "
            "with RewardTrainer."
        )
    _check_head(path)
    return str(config.base_model_name_or_path)


def _load_base(name: str, settings: LoadSettings) -> PreTrainedModel:
    # The head that transformers reports missing comes with the adapter
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        return AutoModelForSequenceClassification.from_pretrained(name, num_labels=1, **settings.arguments())
    finally:
        transformers_logging.set_verbosity(verbosity)


def _ready(model: Any) -> Any:
    """The model with a float32 head, before PEFT copies it: a trained head is saved in float32."""
    for name, module in model.named_children():
        if name in HEAD_NAMES and isinstance(module, nn.Linear):
            takes_any_float(module.float())
    model.config.use_cache = False
    return model


def _check_config(path: str) -> None:
    config = AutoConfig.from_pretrained(path)
    kinds = config.architectures or []
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise ValueError(
            f"The reward model {path!r} is of {kinds}, and a reward model is a sequence classification model: its "
            "head would be random. Train one with RewardTrainer."
        )
    if config.num_labels != 1:
        raise ValueError(
            f"The reward model {path!r} has num_labels={config.num_labels}, and a reward is one number. Train one "
            "with num_labels=1, or wrap it in a function of yours that makes one number of its outputs."
        )


def _check_head(path: str) -> None:
    weights = Path(path) / SAFETENSORS_WEIGHTS_NAME
    if not weights.is_file():
        return  # on the Hub, or in another format
    with safe_open(weights, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    heads = {name: shape for name, shape in shapes.items() if set(name.split(".")) & set(HEAD_NAMES)}
    if not heads:
        raise ValueError(
            f"The adapter {path!r} holds no head ({' or '.join(HEAD_NAMES)}): its rewards would be random. Train it "
            "with RewardTrainer."
        )
    for name, shape in heads.items():
        if name.endswith(".weight") and shape[0] != 1:
            raise ValueError(
                f"The adapter {path!r} has a head of num_labels={shape[0]}, and a reward is one number. Train one "
                "with num_labels=1."
            )
