"""
Training that goes on from an adapter in a folder, in every trainer.

The host takes such a folder for a whole model: it fails to load, or loads it so that it cannot be saved, or lays a new
adapter on its base. Here the base is loaded as the host loads a model, and the adapter onto it, to be trained further.
"""

import copy
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.logging import get_logger
from peft import PeftConfig, TaskType
from transformers import AutoTokenizer, PreTrainedModel

from .adapter_folders import adapter_config, check_base, is_adapter, load_adapter, load_base


logger = get_logger(__name__)

# What a config of PEFT says about how an adapter is made or used, not about what it is
_NOT_COMPARED = (
    "task_type",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "auto_mapping",
    "init_lora_weights",
)


def from_adapter_folder(given: dict[str, Any], architecture: Any = None, task: str = "CAUSAL_LM") -> dict[str, Any]:
    """
    Returns the arguments of a trainer, with the adapter of a folder loaded where `model` names one.

    The tokenizer defaults to that of the folder. A `peft_config` is not needed; where one is given, the adapter stays
    what it is, and the log names what differs.

    Args:
        given (`dict[str, Any]`):
            Arguments by name; `model` and `args` are among them, and `args` can be `None`.
        architecture (`Any`, *optional*):
            Auto class of the base. By default it is that of the base's config.
        task (`str`, *optional*, defaults to `"CAUSAL_LM"`):
            What adapters of this trainer are for.

    Raises:
        `ValueError`: If the adapter is for another task or kind, its base is missing, or something would stay new; if
            `model` is a model into which transformers has put an adapter itself.
    """
    path, args = given["model"], given["args"]
    if not isinstance(path, str):
        _check_no_foreign_adapter(path)
        return given
    arguments: dict[str, Any] = dict((args.model_init_kwargs if args is not None else None) or {})
    revision = arguments.pop("revision", None)  # the adapter's
    where = {} if Path(path).is_dir() else {"revision": revision}
    if not is_adapter(path, **where):
        return given
    config = adapter_config(path, **where)
    _check_kind(path, config, task, given.get("peft_config"))
    called = f"The adapter `model`={path!r}"
    base = check_base(config.base_model_name_or_path, called, "Put the base there, or write its path into the config.")
    tokenizer = given.get("processing_class") or _tokenizer(path, base)
    if given.get("quantization_config") is not None:
        arguments["quantization_config"] = given["quantization_config"]
    if PartialState().distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        arguments["device_map"] = None  # as the host does
    if args is not None:
        arguments.setdefault("trust_remote_code", args.trust_remote_code)
        args = copy.copy(args)
        args.model_init_kwargs = None  # used up
    if architecture is not None:
        arguments["num_labels"] = 1
    loaded = load_base(base, architecture, **arguments)
    model = load_adapter(loaded, path, trainable=True, tokens=len(tokenizer))
    taken = {"model": model, "args": args, "processing_class": tokenizer}
    return {**given, **taken, **{name: None for name in ("peft_config", "quantization_config") if name in given}}


def _check_kind(path: str, config: PeftConfig, task: str, wanted: PeftConfig | None) -> None:
    if config.task_type not in (task, None) or (config.task_type is None and task == TaskType.SEQ_CLS):
        raise ValueError(
            f"The adapter `model`={path!r} has task_type={config.task_type!r}, and this trainer goes on from "
            f"{task!r}. Merge it into its base (`merge_and_unload`, `save_pretrained`), and pass the merged model."
        )
    if not isinstance(wanted, PeftConfig):
        return
    if wanted.peft_type != config.peft_type:
        raise ValueError(
            f"`peft_config` is of type {wanted.peft_type!s}, and the adapter `model`={path!r} of type "
            f"{config.peft_type!s}. Leave `peft_config` out to go on from the adapter, or merge it into its base."
        )
    ours, theirs = config.to_dict(), wanted.to_dict()
    differing = [
        f"{name}={_plain(ours.get(name))!r} and not {_plain(value)!r}"
        for name, value in theirs.items()
        if name not in _NOT_COMPARED and _plain(value) not in (None, _plain(ours.get(name)))
    ]
    if differing:
        logger.warning(
            f"Training goes on from the adapter `model`={path!r} as it is, with {', '.join(differing)} of "
            "`peft_config`. To start a new adapter, pass the base as `model`."
        )


def _check_no_foreign_adapter(model: Any) -> None:
    if isinstance(model, PreTrainedModel) and model._hf_peft_config_loaded:
        raise ValueError(
            f"`model` is a {type(model).__name__} into which transformers has put an adapter: it would be trained, "
            "and could not be saved as one. Pass the adapter's folder as `model`, or a PeftModel "
            "(PeftModel.from_pretrained(base, folder, is_trainable=True))."
        )


def _tokenizer(path: str, base: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError):
        return AutoTokenizer.from_pretrained(base)


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, (list, set, tuple)) else value
