"""
What `from_pretrained` leaves new: parameters that a checkpoint does not have, and that start at random values.

transformers reports them in the log and goes on. Here a load is looked at while the host constructs its models, so
that a trainer can refuse them, or train and save them.
"""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging


# Names that an error lists at most
SHOWN = 5


@dataclass(frozen=True)
class Load:
    """
    A model that was loaded.

    Attributes:
        model ([`~transformers.PreTrainedModel`]):
            The model.
        name (`str`):
            Folder, or name on the Hub.
        new (`tuple[str, ...]`):
            Parameters that the checkpoint does not have, or has in another shape.
    """

    model: Any
    name: str
    new: tuple[str, ...]


@contextmanager
def watching_loads(look: Callable[[Load], None]) -> Generator[None]:
    """Calls `look` with each model that `from_pretrained` loads while it is entered, before anyone else has it."""
    host = vars(PreTrainedModel)["from_pretrained"]

    def from_pretrained(cls, name, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        # Not of a model within another, which is loaded with it
        model, info = host.__func__(cls, name, *args, output_loading_info=True, **kwargs)
        look(Load(model, str(name), new_parameters(model, info)))
        return (model, info) if output_loading_info else model

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)  # ty: ignore[invalid-assignment]
    try:
        yield
    finally:
        PreTrainedModel.from_pretrained = host


def new_parameters(model: nn.Module, info: dict[str, Any]) -> tuple[str, ...]:
    """Returns the parameters that a load has left new, from what `output_loading_info=True` returns."""
    new = {*info.get("missing_keys", ()), *(one[0] for one in info.get("mismatched_keys", ()))}
    return tuple(name for name, _ in model.named_parameters() if name in new)


def new_in_memory(model: Any) -> tuple[str, ...]:
    """
    Returns the parameters of a loaded model that the checkpoint of its name does not have; none if it is not here.

    Only the names are read again, no weights.
    """
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    if not name or not isinstance(model, PreTrainedModel):
        return ()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # the report of the load itself has been given
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=True, num_labels=model.config.num_labels)
        with torch.random.fork_rng():
            loaded: Any = type(model).from_pretrained(
                name, config=config, device_map="meta", output_loading_info=True, local_files_only=True
            )
    except (OSError, ValueError, RuntimeError):
        return ()
    finally:
        transformers_logging.set_verbosity(verbosity)
    return new_parameters(*loaded)


def refuse_new(load: Load) -> None:
    """Raises `ValueError`, naming them, where a load has left parameters new."""
    if load.new:
        raise ValueError(
            f"The checkpoint {load.name!r} does not have {len(load.new)} parameters of {type(load.model).__name__}, "
            f"which would be random: {listed(load.new)}. Give a checkpoint of this kind of model, saved whole."
        )


def modules_to_add(new: Iterable[str], saved: Iterable[str]) -> list[str]:
    """
    Returns the modules that have to be trained and saved with an adapter, so that no parameter stays new.

    Args:
        new (`Iterable[str]`):
            Names of parameters that the checkpoint does not have.
        saved (`Iterable[str]`):
            What PEFT trains and saves already: ends of the names of modules.
    """
    ends = set(saved)
    owners = dict.fromkeys(name.rpartition(".")[0] for name in new)
    return [owner for owner in owners if not _covered(owner, ends)]


def neither_trained_nor_saved(model: PeftModel, new: Iterable[str]) -> list[str]:
    """Returns the parameters among `new` that no active adapter trains and saves, by their names in the base."""
    kept = {
        _name_in_base(name)
        for name, parameter in model.get_base_model().named_parameters()
        if parameter.requires_grad and any(f".modules_to_save.{one}." in name for one in model.active_adapters)
    }
    return [name for name in new if name not in kept]


def listed(names: Iterable[str]) -> str:
    """Returns the first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _covered(module: str, ends: set[str]) -> bool:
    """Whether a module, or one that contains it, has one of the names; of `pre_classifier`, `classifier` is none."""
    parts = module.split(".")
    within = ["", *(".".join(parts[: end + 1]) for end in range(len(parts)))]
    return any(f".{part}".endswith(f".{end}") for part in within for end in ends)


def _name_in_base(name: str) -> str:
    module, _, rest = name.partition(".modules_to_save.")
    return f"{module}.{rest.partition('.')[2]}"
