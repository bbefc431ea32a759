"""
What a card has free for a run: its memory, less what the driver keeps.

The context that CUDA makes for a process is counted in the plan. The sizes are those that `nvidia-smi` shows. They are
below the number on the box where a card has error correction.
"""

import re
from dataclasses import dataclass


MIB = 2**20
GIB = 2**30

# What the driver keeps for itself: PyTorch sees 23.69 of the 24 GiB of an RTX 3090, and 14.74 of the 15 of a T4. A
# screen on the same card takes more, which no table knows
DRIVER_SHARE = 0.02

# MiB as the driver reports them
_MIB = {
    "3060": 12288,
    "3070": 8192,
    "3080": 10240,
    "3080ti": 12288,
    "3090": 24576,
    "4060": 8188,
    "4060ti": 8188,
    "4060ti16gb": 16380,
    "4070": 12282,
    "4070ti": 12282,
    "4070tisuper": 16376,
    "4080": 16376,
    "4090": 24564,
    "5060ti": 16311,
    "5070": 12227,
    "5070ti": 16303,
    "5080": 16303,
    "5090": 32607,
    "t4": 15360,
    "v100": 16384,
    "p100": 16384,
    "a10": 23028,
    "a10g": 23028,
    "l4": 23034,
    "l40s": 46068,
    "a40": 46068,
    "a6000": 49140,
    "a100": 40960,
    "a10080gb": 81920,
    "h100": 81559,
    "h200": 143771,
    "b200": 183359,
}
# By the number on the box
SIZES = (8, 10, 12, 16, 24, 32, 40, 48, 80)
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "kib": 2**10, "mib": MIB, "gib": GIB, "tib": 2**40}


@dataclass(frozen=True)
class Card:
    """
    A card, or an amount of memory.

    Args:
        name (`str`):
            As it was asked for.
        total (`int`):
            Bytes of its memory.
        usable (`int`):
            Bytes that are left for a run.
    """

    name: str
    total: int
    usable: int

    def __str__(self) -> str:
        if self.usable == self.total:
            return f"{self.total / GIB:.1f} GiB free"
        return f"{self.name}: {self.usable / GIB:.1f} of {self.total / GIB:.1f} GiB are left by the driver"


def card(name: str) -> Card:
    """
    Returns a card by its name (`"4070"`, `"rtx 4070"`, `"a100"`), the number on its box (`"12gb"`), or the bytes that
    are free on it (`"10GiB"`, `"9.5gib"`, `"8589934592"`), of which nothing is taken off.

    Raises:
        `ValueError`: For another word.
    """
    word = re.sub(r"(?<=\w)[\s_-]+(?=\w)", "", name.strip().lower())
    word = re.sub(r"^(nvidia)?(geforce)?(rtx|gtx|tesla)?", "", word)
    if word in _MIB:
        return _of(name, _MIB[word] * MIB)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]*)", word)
    if found and found[2] in ("gb", "g") and float(found[1]) > 0:
        # A card of 12 GB has 12 GiB
        return _of(name, int(float(found[1]) * GIB))
    # A bare number that is no card is bytes; nobody means 4075 of them
    if found and found[2] in _UNITS and (amount := int(float(found[1]) * _UNITS[found[2]])) >= MIB:
        return Card(name, amount, amount)
    raise ValueError(
        f"gpu={name!r} is no card that is known here, and no size. Give the number on its box (12gb), what is free on "
        f"it (10.5GiB), or one of {', '.join(_MIB)}."
    )


def sizes() -> list[Card]:
    """Returns a card of each common size, the smallest first."""
    return [card(f"{size}gb") for size in SIZES]


def _of(name: str, total: int) -> Card:
    return Card(name, total, int(total * (1 - DRIVER_SHARE)))
