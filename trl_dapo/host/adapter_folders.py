"""
Adapters in folders: which base they stand on, and loading them whole.

PEFT loads what it finds and warns of the rest; transformers puts an adapter onto a model that can then not be saved
as one. Here every tensor of the folder is loaded, and nothing of the adapter or of its base stays new.
"""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights
from peft.utils.constants import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from torch import nn
from transformers import AutoConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, find_adapter_config_file
from transformers.utils import WEIGHTS_NAME as WHOLE_WEIGHTS_NAME
from trl.trainer.reward_trainer import suppress_seqcls_warning
from trl.trainer.utils import create_model_from_path

from .new_weights import Load, listed, refuse_new, watching_loads


ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = (SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME)
WHOLE_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WHOLE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME)


def is_adapter(path: str, **where: Any) -> bool:
    """
    Returns whether a folder, or a name on the Hub, is that of an adapter.

    Raises:
        `ValueError`: If a folder holds the weights of two models, so that it depends on the library which is loaded.
    """
    folder = Path(path)
    if folder.is_dir():
        check_one_model(folder)
        return (folder / ADAPTER_CONFIG).is_file()
    try:
        return find_adapter_config_file(path, **where) is not None
    except (OSError, ValueError):
        return False  # whoever loads it says what is wrong


def check_one_model(folder: Path) -> None:
    """Raises `ValueError` where a folder holds a whole model beside an adapter, or shards beside a single file."""
    present = [name for name in WHOLE_WEIGHTS if (folder / name).is_file()]
    adapters = [name for name in ADAPTER_WEIGHTS if (folder / name).is_file()]
    shards = [name for name in present if name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)]
    both = [*present, *adapters] if present and adapters else shards if len(shards) > 1 else []
    if both:
        raise ValueError(
            f"{str(folder)!r} holds the weights of two models ({', '.join(both)}), and it depends on the library "
            "which of them is loaded. Move those of one to another folder."
        )


def check_base(base: Any, called: str, fix: str) -> str:
    """
    Returns the base of an adapter, after looking whether there is one.

    Args:
        base (`str` or `None`):
            What the adapter's config says.
        called (`str`):
            What the error calls the adapter, as the subject of a sentence.
        fix (`str`):
            What to do where it cannot be found.

    Raises:
        `ValueError`: If there is none; paths are relative to the working folder, and a base may have been moved.
    """
    if base:
        try:
            AutoConfig.from_pretrained(base)
            return str(base)
        except (OSError, HFValidationError):
            pass
        except ValueError:
            return str(base)  # code of its own, for instance: it is there
    raise ValueError(
        f"{called} was trained on the base {base!r}, and there is no such model here (a path is relative to the "
        f"working folder, which is {str(Path.cwd())!r}). {fix}"
    )


def load_base(name: str, architecture: Any = None, **kwargs: Any) -> Load:
    """Returns a base as the host loads it, and what is new in it. transformers' report of more than the head stays."""
    loads: list[Load] = []
    with watching_loads(loads.append), suppress_seqcls_warning():
        model = create_model_from_path(name, architecture, **kwargs)
    return Load(model, name, loads[-1].new if loads else ())


def load_adapter(base: Load, path: str, name: str = "default", trainable: bool = False, tokens: int = 0) -> PeftModel:
    """
    Returns a base with an adapter, each of whose tensors is the folder's.

    Args:
        base ([`Load`]):
            The base; a [`~peft.PeftModel`] gets one more adapter. Its embeddings are resized to those of the adapter.
        path (`str`):
            Folder of the adapter, or name on the Hub.
        name (`str`, *optional*, defaults to `"default"`):
            Name of the adapter in the model.
        trainable (`bool`, *optional*, defaults to `False`):
            Whether it is trained further.
        tokens (`int`, *optional*, defaults to `0`):
            Tokens of the adapter's tokenizer.

    Raises:
        `ValueError`: If adapter and base do not fit, or a parameter of either would stay new.
    """
    saved = load_peft_weights(path, device="cpu")
    model = base.model
    if not isinstance(model, PeftModel):
        _resize_embeddings(model, saved, path, tokens)
        try:
            model = PeftModel.from_pretrained(model, path, adapter_name=name, is_trainable=trainable)
        except RuntimeError as error:
            raise _no_fit(path, base.name, " ".join(str(error).split())[:300]) from error
    else:
        model.load_adapter(path, adapter_name=name, is_trainable=trainable)
    check_adapter_loaded(model, name, saved, path, base.name)
    covered = {_in_base(key) for key in saved}
    refuse_new(Load(model.get_base_model(), base.name, tuple(one for one in base.new if one not in covered)))
    return model


def check_adapter_loaded(model: PeftModel, name: str, saved: dict[str, torch.Tensor], path: str, base: str) -> None:
    """Raises `ValueError` unless an adapter has exactly the tensors that were saved."""
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    lacking = [key for key in state if key not in saved]
    # Embeddings of a base that was resized are saved with the adapter, and are not of it
    unknown = [key for key in saved if key not in state and not _is_embedding(model, key)]
    if lacking or unknown:
        what = f"lacks {listed(lacking)}" if lacking else f"has {listed(unknown)}, which the model does not have"
        raise _no_fit(path, base, what)
    wrong = [key for key in saved if key in state and state[key].shape != saved[key].shape]
    if wrong:
        raise _no_fit(path, base, f"has other shapes in {listed(wrong)}")


def adapter_config(path: str, **where: Any) -> PeftConfig:
    """Returns the config of an adapter."""
    return PeftConfig.from_pretrained(path, **where)


def brings_embeddings(path: str) -> bool:
    """Returns whether an adapter holds embeddings of its own, so that it cannot share its base with another."""
    return any(part in key for key in load_peft_weights(path, device="cpu") for part in _EMBEDDINGS)


_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "lm_head.weight")


def _resize_embeddings(model: Any, saved: dict[str, torch.Tensor], path: str, tokens: int) -> None:
    embeddings = model.get_input_embeddings()
    rows = {len(tensor) for key, tensor in saved.items() if _is_embedding(model, key)}
    if rows and max(rows) != embeddings.num_embeddings:
        model.resize_token_embeddings(max(rows), mean_resizing=False)
    elif not rows and tokens > embeddings.num_embeddings:
        raise ValueError(
            f"The tokenizer of the adapter {path!r} has {tokens} tokens, its base {embeddings.num_embeddings} "
            "embeddings, and the adapter brings none: those of the added tokens would be random. Save it with "
            "`save_embedding_layers=True`, or pass the base with its embeddings."
        )


def _is_embedding(model: nn.Module, key: str) -> bool:
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = [base.get_input_embeddings(), base.get_output_embeddings()]
    names = {name for name, module in base.named_modules() if any(module is layer for layer in layers)}
    # Under a wrapper of PEFT, the layer lies deeper
    return key.endswith(".weight") and _in_base(key).removesuffix(".weight").removesuffix(".base_layer") in {
        name.split(".modules_to_save.")[0].split(".token_adapter.")[0].removesuffix(".original_module")
        for name in names
    }


def _in_base(key: str) -> str:
    """The name in the base of a tensor that PEFT has saved."""
    return key.removeprefix("base_model.model.").removeprefix("base_model.")


def _no_fit(path: str, base: str, what: str) -> ValueError:
    return ValueError(
        f"The adapter {path!r} does not fit the base {base!r}: it {what}. Give the base that it was trained on."
    )
