"""
Whether the branch that changes nothing is the run itself: the same numbers, bit for bit, as far as the run has them.

If it is, whatever differs in another branch was caused by what that branch changes. If it is not, no difference
between branches has that meaning, and everything that shows them says so.
"""

import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open


# What a clock or the machine says
_MEASURED = re.compile(r"(.*[_/])?(seconds|runtime|time)|.*_per_second|.*(memory|flos).*")
_SUMMARY = "train_runtime"


@dataclass(frozen=True)
class Difference:
    """The first value that is not the run's."""

    step: int
    key: str
    run: str
    branch: str

    def __str__(self) -> str:
        return f"step {self.step}, {self.key}: {self.run} in the run, {self.branch} in the branch"


@dataclass(frozen=True)
class Proof:
    """
    What was compared, and what was found.

    Args:
        base, end (`int`):
            Steps between which the branch ran.
        last (`int`):
            Last step whose log was compared; `base` where the run's log has nothing after it.
        values (`int`):
            How many logged numbers were compared.
        checkpoints (`tuple[int, ...]`):
            Steps at which all weights were compared.
        tensors (`int`):
            How many tensors that were.
        difference ([`Difference`], *optional*):
            The first.
    """

    base: int
    end: int
    last: int
    values: int
    checkpoints: tuple[int, ...]
    tensors: int
    difference: Difference | None

    @property
    def holds(self) -> bool:
        """Whether differences between branches are causal."""
        return self.difference is None and (self.values > 0 or self.tensors > 0)

    def __str__(self) -> str:
        if self.difference is not None:
            return (
                f"The branch that changes nothing is NOT the run: {self.difference}. Differences between the futures "
                "are therefore not causal."
            )
        if not self.holds:
            return (
                f"Nothing is proven: the run's log ends at step {self.base}, where the branches begin. Rewind to an "
                "earlier checkpoint. Differences between the futures are therefore not shown to be causal."
            )
        weights = (
            f" and {self.tensors} tensors of the checkpoints at steps {_listed(self.checkpoints)}"
            if self.checkpoints
            else " (no checkpoint of the run lies in it, so weights were not compared)"
        )
        return (
            f"The branch that changes nothing is the run, bit for bit: {self.values} logged numbers of steps "
            f"{self.base + 1} to {self.last}{weights}."
            + (f" The run's log has nothing after step {self.last}." if self.last < self.end else "")
        )


def prove(
    run: Iterable[Mapping[str, Any]],
    branch: Iterable[Mapping[str, Any]],
    checkpoints: Mapping[int, tuple[Path, Path]],
    base: int,
    end: int,
) -> Proof:
    """
    Compares the run with the branch that changes nothing.

    Args:
        run, branch (`Iterable[Mapping[str, Any]]`):
            Entries of both logs.
        checkpoints (`Mapping[int, tuple[Path, Path]]`):
            Checkpoints of both, by step.
        base, end (`int`):
            Steps after and up to which logs are compared.
    """
    ours, theirs = _by_step(run, base, end), _by_step(branch, base, end)
    values, found = 0, None
    for step, entry in ours.items():
        for key, value in entry.items():
            other = theirs.get(step, {}).get(key, _NOTHING)
            if not _same(value, other):
                found = Difference(step, key, _text(value), _text(other))
                break
            values += 1
        if found:
            break
    tensors, compared = 0, []
    for step, (own, other) in sorted(checkpoints.items()):
        if found is not None and step >= found.step:
            break
        count, name = compare_weights(own, other)
        tensors += count
        compared.append(step)
        if name is not None:
            found = Difference(step, f"weights {name}", "other bits", "other bits")
    return Proof(base, end, max(ours, default=base), values, tuple(compared), tensors, found)


def same_log(one: Iterable[Mapping[str, Any]], other: Iterable[Mapping[str, Any]]) -> bool:
    """Returns whether two logs hold the same numbers; what is computed is alike where those of all steps are."""
    return _comparable(one) == _comparable(other)


def _comparable(log: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, str]]:
    found = _by_step(log, -1, sys.maxsize)
    # By their texts: NaN is not equal to itself
    return {step: {key: repr(value) for key, value in entry.items()} for step, entry in found.items()}


def compare_weights(run: Path, branch: Path) -> tuple[int, str | None]:
    """Returns how many tensors two checkpoints have alike, and the name of the first that is not, or `None`."""
    count = 0
    names = {path.relative_to(folder) for folder in (run, branch) for path in folder.rglob("*.safetensors")}
    for name in sorted(names):
        if not ((run / name).is_file() and (branch / name).is_file()):
            return count, f"{name} is missing in one"
        with safe_open(run / name, framework="pt") as own, safe_open(branch / name, framework="pt") as other:
            keys = sorted({*own.keys(), *other.keys()})
            for key in keys:
                if key not in own.keys() or key not in other.keys():  # noqa: SIM118
                    return count, key
                if not _same_bits(own.get_tensor(key), other.get_tensor(key)):
                    return count, key
                count += 1
    return count, None


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


_NOTHING = object()


def _by_step(log: Iterable[Mapping[str, Any]], base: int, end: int) -> dict[int, dict[str, Any]]:
    """Returns what was logged at each step; a step has several entries where it is evaluated as well."""
    found: dict[int, dict[str, Any]] = {}
    for entry in log:
        if base < entry["step"] <= end and _SUMMARY not in entry:
            own = {key: value for key, value in entry.items() if not _MEASURED.fullmatch(key)}
            found.setdefault(entry["step"], {}).update(own)
    return dict(sorted(found.items()))


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, float) and isinstance(other, float):
        return (math.isnan(value) and math.isnan(other)) or value == other
    return value == other


def _text(value: Any) -> str:
    return "nothing" if value is _NOTHING else repr(value)


def _listed(steps: Iterable[int]) -> str:
    return ", ".join(map(str, steps))
