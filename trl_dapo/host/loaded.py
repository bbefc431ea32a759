"""
Whether a model has the weights of the checkpoint that it was loaded from.

The host loads by name and logs what it did not find. But a checkpoint is written for `from_pretrained`, under names
that need not be those of the modules: the experts of a Mixture of Experts are saved one by one, and some heads have an
older name. An adapter can be left out, or get the weights of another. Here every trained tensor is held against the
file; what has another name there is loaded as `from_pretrained` loads it, and what is in no file is an error.
"""

import copy
import functools
import json
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights
from peft.utils.constants import SAFETENSORS_WEIGHTS_NAME as ADAPTER_SAFETENSORS
from peft.utils.constants import WEIGHTS_NAME as ADAPTER_BIN
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME


logger = get_logger(__name__)

_Tensors = Mapping[str, Callable[[], torch.Tensor]]


def check_loaded(model: Any, folder: Path, also_trained: Iterable[nn.Parameter] = ()) -> None:
    """
    Makes every trained tensor of a model that the host has loaded from a checkpoint the checkpoint's.

    Args:
        model (`nn.Module`):
            The model, not sharded.
        folder (`Path`):
            The checkpoint.
        also_trained (`Iterable[nn.Parameter]`, *optional*):
            Parameters of the model that are trained, though frozen right now.

    Raises:
        `ValueError`: Where trained tensors are not in the checkpoint, or differ from it; the message names them.
    """
    if isinstance(model, PeftModel):
        _check_adapters(model, folder, set(map(id, also_trained)))
    else:
        _check_whole_model(model, folder)


@contextmanager
def training_kept(model: Any) -> Generator[None]:
    """Keeps what loading an adapter changes beside its weights: what is active, trained, and in which precision."""
    if not isinstance(model, PeftModel):
        yield
        return
    before = {name: (p.requires_grad, p.dtype) for name, p in model.named_parameters()}
    active = list(model.active_adapters)
    yield
    if list(model.active_adapters) != active:
        model.base_model.set_adapter(active)  # more than one, of which the host sets the first alone
    for name, parameter in model.named_parameters():
        if name in before:
            parameter.requires_grad_(before[name][0])
            parameter.data = parameter.data.to(before[name][1])


# Adapters


def _check_adapters(model: PeftModel, folder: Path, also_trained: set[int]) -> None:
    covered: set[int] = set()
    files: list[torch.Tensor] = []
    for adapter in model.peft_config:
        own = _adapter_folder(model, folder, adapter)
        if own is None:
            continue
        saved = load_peft_weights(str(own), device="cpu")
        if _differing(_adapter_state(model, adapter), saved):
            # The host loads the active adapter alone as the best one, and from where the first is saved
            set_peft_model_state_dict(model, saved, adapter_name=adapter)
        state = _adapter_state(model, adapter)
        if wrong := _differing(state, saved):
            raise _not_loaded(folder, [f"{name} of adapter {adapter!r}" for name in wrong])
        covered |= {tensor.data_ptr() for tensor in state.values()}
        files += saved.values()
    wrong = [
        name
        for name, parameter in model.named_parameters()
        if (parameter.requires_grad or id(parameter) in also_trained)
        and parameter.data_ptr() not in covered
        and not _is_one_of(parameter, files)
    ]
    if wrong:
        raise _not_loaded(folder, wrong)


def _adapter_folder(model: PeftModel, folder: Path, adapter: str) -> Path | None:
    """Where PEFT saves an adapter: `default` in the folder itself, any other below it."""
    if adapter != "default" and _has_adapter(folder / adapter):
        return folder / adapter
    # Where it is alone, the host loads it into the active one, whatever its name
    alone = adapter == model.active_adapters[0] and not any(map(_has_adapter, folder.iterdir()))
    return folder if _has_adapter(folder) and (adapter == "default" or alone) else None


def _has_adapter(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (ADAPTER_SAFETENSORS, ADAPTER_BIN))


def _adapter_state(model: PeftModel, adapter: str) -> dict[str, torch.Tensor]:
    return get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)


def _differing(state: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in state.items() if name not in saved or not _equal(tensor, saved[name])]


def _is_one_of(parameter: torch.Tensor, tensors: list[torch.Tensor]) -> bool:
    """Whether a parameter is a tensor of the file under another name, such as a prompt that was learnt."""
    return any(tensor.shape == parameter.shape and _equal(parameter, tensor) for tensor in tensors)


# Whole models


def _check_whole_model(model: nn.Module, folder: Path) -> None:
    state = model.state_dict(keep_vars=True)
    # Tied weights are one tensor under several names, of which the file has one
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    with ExitStack() as stack:
        source = _tensors(folder, stack)
        absent = [group for group in names.values() if not any(name in source for name in group)]
        if source and any(isinstance(state[group[0]], nn.Parameter) for group in absent):
            source = _as_from_pretrained(model, folder)
            _copy(state, source, names.values())
        wrong = [
            group[0]
            for group in names.values()
            if state[group[0]].requires_grad
            and not any(name in source and _equal(state[name], source[name]()) for name in group)
        ]
    if wrong:
        raise _not_loaded(folder, wrong)


def _tensors(folder: Path, stack: ExitStack) -> _Tensors:
    """Returns what the host's loading reads, by name in the files; of safetensors, each is read when asked for."""
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        files = [SAFE_WEIGHTS_NAME]
    elif (folder / WEIGHTS_NAME).is_file():
        files = [WEIGHTS_NAME]
    else:
        index = folder / SAFE_WEIGHTS_INDEX_NAME
        index = index if index.is_file() else folder / WEIGHTS_INDEX_NAME
        if not index.is_file():
            return {}
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    found: dict[str, Callable[[], torch.Tensor]] = {}
    for file in files:
        if file.endswith(".safetensors"):
            opened = stack.enter_context(safe_open(folder / file, framework="pt"))
            found |= {name: functools.partial(opened.get_tensor, name) for name in opened.keys()}  # noqa: SIM118
        else:
            loaded = torch.load(folder / file, map_location="cpu", weights_only=True, mmap=True)
            found |= {name: functools.partial(loaded.get, name) for name in loaded}
    return found


def _as_from_pretrained(model: nn.Module, folder: Path) -> _Tensors:
    """Returns the tensors of a second model, loaded with the conversions of transformers, but for those left new."""
    if not isinstance(model, PreTrainedModel):
        return {}
    logger.info(f"Weights of {folder} have other names than those of the model: they are loaded by from_pretrained.")
    # As precise as the most precise tensor: the others lose nothing
    dtype = max((p.dtype for p in model.parameters() if p.is_floating_point()), key=lambda dtype: dtype.itemsize)
    with torch.random.fork_rng():
        loaded: Any = type(model).from_pretrained(
            folder, config=copy.deepcopy(model.config), dtype=dtype, output_loading_info=True
        )
    converted, report = loaded
    new = {*report["missing_keys"], *(one[0] for one in report["mismatched_keys"])}
    return {
        name: functools.partial(lambda tensor: tensor, tensor)
        for name, tensor in converted.state_dict().items()
        if name not in new
    }


def _copy(state: Mapping[str, torch.Tensor], source: _Tensors, groups: Iterable[list[str]]) -> None:
    with torch.no_grad():
        for group in groups:
            name = next((name for name in group if name in source), None)
            if name is not None:
                state[name].copy_(source[name]())


# Both


def _equal(tensor: torch.Tensor, saved: torch.Tensor) -> bool:
    if tensor.shape != saved.shape:
        return False
    found, expected = tensor.detach(), saved.to(tensor.device, tensor.dtype)
    # NaN is a value like any other here
    return torch.equal(found, expected) or bool(torch.isclose(found, expected, 0, 0, equal_nan=True).all())


def _not_loaded(folder: Path, names: list[str]) -> ValueError:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return ValueError(
        f"{len(names)} trained tensors are not what {folder} holds, or it does not hold them: {shown}. Resume with "
        "the model, adapters and libraries that wrote it, or start anew, without `resume_from_checkpoint` and "
        "`load_best_model_at_end`."
    )
