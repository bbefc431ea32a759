"""
What a plan reads of a model: its config, and the adapter that is trained. No weights, and no download but a config.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from trl import ModelConfig, get_peft_config

from trl_dapo.host.adapter_folders import ADAPTER_CONFIG

from .errors import UsageError, one_line


WEIGHTS = ("*.safetensors", "*.bin")


class NoConfigFile(UsageError):
    """The config of a model can be had neither here nor from the Hub."""


@dataclass(frozen=True)
class PlannedModel:
    """
    Sizes of a model, without its weights.

    Args:
        config (`Any`):
            Of the base.
        lora (`Any`):
            Config of the adapter that is trained, or `None`.
        continues (`bool`):
            Whether an adapter is trained further.
        source (`str`):
            Where the config is from.
    """

    config: Any
    lora: Any
    continues: bool
    source: str


def planned_model(model_args: ModelConfig, trusted: bool = False) -> PlannedModel:
    """
    Returns what a run's model is made of; without a name, the built-in one.

    Raises:
        [`NoConfigFile`]: If its config cannot be had.
    """
    lora = _asked_lora(model_args)
    name = model_args.model_name_or_path
    if name is None:
        from trl_dapo.arena.model import build_model

        return PlannedModel(build_model().config, lora, False, "the built-in model")
    if (Path(name) / ADAPTER_CONFIG).is_file():
        from peft import PeftConfig

        adapter: Any = PeftConfig.from_pretrained(name)
        # Saved as one that only answers, and trained here
        adapter.inference_mode = False
        config, source = _config(str(adapter.base_model_name_or_path), "main", trusted)
        return PlannedModel(config, adapter, True, f"{source}, the base of the adapter {name}")
    config, source = _config(name, model_args.model_revision, trusted)
    return PlannedModel(config, lora, False, source)


def weights_bytes(name: str) -> int | None:
    """Returns the bytes of the weights in a folder, or `None` where it is no folder."""
    folder = Path(name)
    if not folder.is_dir():
        return None
    return next((size for kind in WEIGHTS if (size := sum(one.stat().st_size for one in folder.glob(kind)))), 0)


def _asked_lora(model_args: ModelConfig) -> Any:
    try:
        return get_peft_config(model_args)
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(f"the adapter cannot be made as asked: {one_line(error)}") from error


def _config(name: str, revision: str, trusted: bool) -> tuple[Any, str]:
    from trl_dapo.planning.known_models import known_config

    local = Path(name).is_dir()
    # Sizes of models that are known here need no network, and a folder has its own
    known = None if local else known_config(name)
    offline = bool(os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"))
    try:
        config = AutoConfig.from_pretrained(
            name,
            revision=revision,
            local_files_only=offline or known is not None,
            # A plan runs no code that was downloaded
            trust_remote_code=trusted and local,
        )
        return config, f"config.json of {name}"
    except Exception as error:
        # The Hub's client has many classes of failure, and all of them mean that there is no config
        if known is not None:
            return known, f"the sizes of {name} that are known here"
        if Path(name).is_absolute():
            raise NoConfigFile(
                f"model_name_or_path={name}: there is no config.json of a model on this machine. To plan its memory, "
                "give a folder that holds one."
            ) from error
        raise NoConfigFile(
            f"model_name_or_path={name}: its config.json is not on this machine and cannot be had from the Hub "
            f"({type(error).__name__}). To plan its memory, download that one file, for instance with `hf download "
            f"{name} config.json`, or give a folder that holds it."
        ) from error
