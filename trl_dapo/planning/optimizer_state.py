"""
Bytes of an optimizer's state, and of what its step makes and frees, by the name that `optim` has.
"""

from collections.abc import Iterable
from math import prod


Shape = tuple[int, ...]

# bitsandbytes leaves smaller tensors in float32; a block of 256 numbers has a float32 scale
SMALL, BLOCK = 4096, 256

# State tensors as large as the parameter. Momentum is off in the training arguments' SGD
STATES = {
    "adamw_torch": 2,
    "adamw_torch_fused": 2,
    "adamw_hf": 2,
    "adamw_apex_fused": 2,
    "adamw_anyprecision": 2,
    "adamw_bnb": 2,
    "adamw": 2,
    "ademamix": 3,
    "lion": 1,
    "rmsprop": 1,
    "rmsprop_bnb": 1,
    "adagrad": 1,
    "sgd": 0,
}


def is_known(name: str) -> bool:
    """Returns whether the bytes of an optimizer are known; others are counted as AdamW."""
    return _family(name) in STATES or name == "adafactor"


def state_bytes(name: str, shapes: Iterable[Shape], itemsize: int = 4) -> int:
    """
    Returns the bytes that an optimizer keeps.

    Args:
        name (`str`):
            `optim` of the training arguments.
        shapes (`Iterable[tuple[int, ...]]`):
            Of the parameters that are trained.
        itemsize (`int`, *optional*, defaults to `4`):
            Bytes of a number of a parameter. PyTorch's optimizers keep states in the parameter's precision, those of
            bitsandbytes in float32 or in 8 bits.
    """
    family = _family(name)
    if name == "adafactor":
        return sum(4 * (sum(shape[-2:]) * prod(shape[:-2]) if len(shape) > 1 else prod(shape)) for shape in shapes)
    states = STATES.get(family, 2)
    if _is_8bit(name):
        return sum(states * _bytes_8bit(prod(shape)) for shape in shapes)
    width = 4 if name.startswith(("paged", "ademamix", "lion", "rmsprop_bnb", "adamw_bnb")) else itemsize
    return sum(states * width * prod(shape) for shape in shapes)


def step_bytes(name: str, shapes: Iterable[Shape], device: str, itemsize: int = 4) -> int:
    """Returns the most that one step allocates: the denominators, of all parameters at once on a GPU."""
    if name not in ("adamw_torch", "adagrad", "rmsprop"):
        return 0
    sizes = [itemsize * prod(shape) for shape in shapes]
    return 2 * max(sizes, default=0) if device == "cpu" else sum(sizes)


def _family(name: str) -> str:
    return name.removeprefix("paged_").removesuffix("_32bit").removesuffix("_8bit").removesuffix("_bnb_8bit")


def _is_8bit(name: str) -> bool:
    return name.endswith("8bit") or name == "adamw_bnb"


def _bytes_8bit(elements: int) -> int:
    return 4 * elements if elements < SMALL else elements + 4 * -(-elements // BLOCK)
