"""
Whether a folder holds a reward model, checked before any weights are read.

A reward model is a sequence classification model with one label, or an adapter for one that was saved with its head.
Names on the Hub are checked as far as their configs go.
"""

from pathlib import Path
from typing import Any

from peft import PeftConfig, TaskType
from peft.utils.constants import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file

from ..host.adapter_folders import ADAPTER_CONFIG, check_one_model


# What the sequence classification models of transformers call their head, of one or several layers
HEAD_NAMES = ("score", "classifier", "classification_head", "logits_proj")

# The layer of a head that gives the rewards: the head itself, or the last of several
_LAST_LAYERS = ("", ".out_proj")


def adapter_base(path: str) -> str | None:
    """
    Returns the name of the base that an adapter was trained on, or `None` if the folder is a whole reward model.

    Args:
        path (`str`):
            Folder, or name on the Hub.

    Raises:
        `ValueError`: If it is neither: it cannot be found, is another kind of model, has more than one label, or is
            an adapter without a head.
    """
    try:
        if Path(path).is_dir() and not any((Path(path) / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
            raise ValueError(
                f"The reward model {path!r} is a folder without config.json and without {ADAPTER_CONFIG}. Pass the "
                "folder of a model that RewardTrainer saved."
            )
        if Path(path).is_dir():
            check_one_model(Path(path))
        if find_adapter_config_file(path) is None:
            _check_whole_model(path)
            return None
        return check_adapter(path, called=f"The adapter {path!r}")
    except OSError as error:
        raise ValueError(
            f"The reward model {path!r} is neither the folder of a saved model nor a name on the Hub that can be "
            f"reached: {' '.join(str(error).split())}"
        ) from error


def check_adapter(path: str, called: str, head_names: tuple[str, ...] = HEAD_NAMES) -> str:
    """
    Returns the name of the base that a reward adapter was trained on.

    Args:
        path (`str`):
            Folder, or name on the Hub. A head can be looked for only in a local safetensors file.
        called (`str`):
            What the error calls the adapter, as the subject of a sentence.
        head_names (`tuple[str, ...]`, *optional*):
            What its head may be called.

    Raises:
        `ValueError`: If the adapter is for another task, was saved without its head, or has more than one label.
    """
    config = PeftConfig.from_pretrained(path)
    if config.task_type != TaskType.SEQ_CLS:
        raise ValueError(
            f"{called} has task_type={config.task_type!r}, and a reward model has 'SEQ_CLS'. Train one with "
            "RewardTrainer."
        )
    weights = Path(path) / SAFETENSORS_WEIGHTS_NAME
    if weights.is_file():
        _check_head(weights, called, head_names)
    return str(config.base_model_name_or_path)


def folder_tokenizer(path: str) -> Any:
    """Returns the tokenizer that was saved with a reward model; raises `ValueError` if there is none."""
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The reward model {path!r} comes without a tokenizer. Pass its tokenizer as `processing_class`."
        ) from error


def tokenizer_on(path: str, called: str, tokenizer: PreTrainedTokenizerBase) -> Any:
    """
    Returns the tokenizer that a reward adapter reads text with on the policy's base: its own, else the policy's.

    Raises:
        `ValueError`: If it has other ids than the policy's, or tokens that the policy's does not have.
    """
    if not (Path(path) / "tokenizer.json").is_file():
        return tokenizer
    own = folder_tokenizer(path)
    if not own.get_vocab().items() <= tokenizer.get_vocab().items():
        raise ValueError(
            f"{called} was trained with another tokenizer than the policy's, and both read token ids through the same "
            "base. Use it as a reward model of its own, with RewardModelFunction, or train one with the policy's "
            "tokenizer."
        )
    return own


def _check_whole_model(path: str) -> None:
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
            "with num_labels=1, or wrap it in a function of yours that turns its outputs into one number."
        )


def _check_head(weights: Path, called: str, head_names: tuple[str, ...]) -> None:
    with safe_open(weights, framework="pt") as file:
        # The head itself, not an adapter on it, which would be added to a random one
        heads = [name for name in file.keys() if _is_head(name, head_names)]  # noqa: SIM118
        last = [name for name in heads if name.endswith(_last_layers(head_names))]
        labels = {file.get_slice(name).get_shape()[0] for name in last} - {1}
    if not heads:
        raise ValueError(
            f"{called} holds no head ({' or '.join(head_names)}): its rewards would be random. Train it with "
            "RewardTrainer."
        )
    if labels:
        raise ValueError(
            f"{called} has a head of num_labels={max(labels)}, and a reward is one number. Train one with "
            "num_labels=1."
        )


def _is_head(name: str, head_names: tuple[str, ...]) -> bool:
    return "lora_" not in name and any(f".{head}." in name for head in head_names) and name.endswith(".weight")


def _last_layers(head_names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f".{head}{layer}.weight" for head in head_names for layer in _LAST_LAYERS)
