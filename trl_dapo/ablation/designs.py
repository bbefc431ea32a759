"""
Which rows a table of an ablation has, and how each row's config differs from the base.

A row is known by its changes alone: two designs that ask for the same changes share their runs.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..dapo.toggles import LADDER, TOGGLES
from ..evaluation.results import file_name


DESIGNS = ("ladder", "leave-one-out", "one-at-a-time", "factorial")
# Accuracy on AIME 2024 (avg@32, one seed) in the rows of the ladder: Table 1 of the DAPO paper
PAPER_LADDER = (30.0, 36.0, 38.0, 41.0, 42.0, 50.0)

NONE, ALL = "GRPO without KL", "DAPO"


@dataclass(frozen=True)
class Row:
    """
    A row of a table.

    Args:
        name (`str`):
            What the table calls it. It depends on the table: the same changes have other names in other designs.
        changes (`dict[str, Any]`):
            Fields in which its config differs from the base.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name of the changes, which is also that of the row's folder: the same in all tables."""
        return key_of(self.changes)


@dataclass(frozen=True)
class Design:
    """
    A table: its rows from first to last.

    Args:
        name (`str`):
            One of [`DESIGNS`], `"vary"`, or `"comparison"`.
        rows (`tuple[Row, ...]`):
            The rows; the first is what the others are compared with.
        is_cumulative (`bool`):
            Whether each row adds to the row before, so that the difference to the previous row is one part's.
    """

    name: str
    rows: tuple[Row, ...]
    is_cumulative: bool = False


def key_of(changes: Mapping[str, Any]) -> str:
    """Returns a name for changes that no other changes have, and that is a name of a folder."""
    on = [toggle for toggle in TOGGLES if changes.get(toggle)]
    parts = []
    if set(TOGGLES) <= set(changes):
        parts.append(_toggles_key(on))
        changes = {name: value for name, value in changes.items() if name not in TOGGLES}
    parts += [f"{name}={value}" for name, value in sorted(changes.items())]
    return file_name(",".join(parts) or "base")


def _toggles_key(on: Sequence[str]) -> str:
    if not on:
        return "grpo-without-kl"
    missing = [toggle for toggle in TOGGLES if toggle not in on]
    if len(missing) < 2:
        return "-without-".join(["dapo", *map(_dashed, missing)])
    return "+".join(map(_dashed, on))


def _dashed(toggle: str) -> str:
    return toggle.replace("_", "-")


def _spaced(toggle: str) -> str:
    return toggle.replace("_", " ").replace("clip higher", "clip-higher").replace("token level", "token-level")


def _only(on: Sequence[str]) -> dict[str, bool]:
    return {toggle: toggle in on for toggle in TOGGLES}


def make_design(name: str) -> Design:
    """
    Returns a design over DAPO's five toggles.

    - `"ladder"`: the paper's Table 1: each row adds a toggle to the row before.
    - `"leave-one-out"`: DAPO, and DAPO without each toggle.
    - `"one-at-a-time"`: GRPO without KL, and that with each toggle alone.
    - `"factorial"`: all 32 combinations.

    Raises:
        `ValueError`: If there is none of the name.
    """
    if name == "ladder":
        rows = [Row(rung, _only(TOGGLES[:number])) for number, rung in enumerate(LADDER)]
        return Design(name, tuple(rows), is_cumulative=True)
    if name == "leave-one-out":
        others = [[one for one in TOGGLES if one != left] for left in TOGGLES]
        rows = [Row(f"without {_spaced(left)}", _only(on)) for left, on in zip(TOGGLES, others, strict=True)]
        return Design(name, (Row(ALL, _only(TOGGLES)), *rows))
    if name == "one-at-a-time":
        return Design(name, (Row(NONE, _only([])), *(Row(f"only {_spaced(one)}", _only([one])) for one in TOGGLES)))
    if name == "factorial":
        chosen = [on for size in range(len(TOGGLES) + 1) for on in itertools.combinations(TOGGLES, size)]
        return Design(name, tuple(Row(_combination(on), _only(on)) for on in chosen))
    raise ValueError(f"{name!r} is not a design. The designs are {', '.join(DESIGNS)}.")


def _combination(on: Sequence[str]) -> str:
    if len(on) in (0, len(TOGGLES)):
        return ALL if on else NONE
    return " + ".join(map(_spaced, on))


def comparison(technique: str, others: Mapping[str, bool]) -> Design:
    """
    Returns a design of two rows that differ in one toggle.

    Args:
        technique (`str`):
            The toggle.
        others (`dict[str, bool]`):
            The other four, the same in both rows.
    """
    rows = [
        Row(f"{word} {_spaced(technique)}", {toggle: {**others, technique: on}[toggle] for toggle in TOGGLES})
        for word, on in (("without", False), ("with", True))
    ]
    return Design("comparison", tuple(rows), is_cumulative=True)


def vary(values: Mapping[str, Sequence[Any]]) -> Design:
    """Returns a design with a row for each combination of values of fields; the first values are the first row."""
    combinations = itertools.product(*([(name, one) for one in found] for name, found in values.items()))
    rows = [Row(", ".join(f"{name}={one}" for name, one in chosen), dict(chosen)) for chosen in combinations]
    return Design("vary", tuple(rows))
