"""
What a run of an ablation is told besides its config: its row, its budgets, how it is measured. It is `run.json` in the
run's folder.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..host.whole_files import write_whole
from .results import RowOfRun


RUN = "run.json"
MATCHES = ("samples", "steps", "seconds")


@dataclass(frozen=True)
class Measuring:
    """
    How policies are measured.

    Args:
        k (`int`):
            Completions per question when a budget is spent.
        temperature, top_p (`float`):
            How they are sampled.
        points (`int`):
            Measurements on the way, besides the start.
        k_on_the_way (`int`):
            Completions per question there.
        batch_size (`int`, *optional*):
            Completions sampled at once.
    """

    k: int
    temperature: float
    top_p: float
    points: int
    k_on_the_way: int
    batch_size: int | None = None


@dataclass(frozen=True)
class RunSpec:
    """
    A run.

    Args:
        row ([`RowOfRun`]):
            Its row.
        seed (`int`):
            Its seed.
        budgets (`dict[str, float]`):
            What it may spend, by `"samples"` (completions generated), `"steps"` (optimizer steps) and `"seconds"`
            (of training). It goes on until the last of them is spent, and is measured at each.
        measuring ([`Measuring`]):
            How it is measured.
        fingerprint (`dict[str, Any]`):
            All that its result depends on, as JSON has it. A folder with another one holds another run.
        regime (`str`, *optional*):
            The built-in task's regime.
        keep_model (`bool`, *optional*, defaults to `False`):
            Whether the last policy is saved.
    """

    row: RowOfRun
    seed: int
    budgets: Mapping[str, float]
    measuring: Measuring
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    regime: str | None = None
    keep_model: bool = False


def write_spec(folder: Path, spec: RunSpec) -> None:
    """Writes `run.json`, whole or not at all."""
    write_whole(folder / RUN, json.dumps(asdict(spec), indent=1) + "\n")


def read_spec(folder: Path) -> RunSpec:
    """
    Returns what `run.json` says.

    Raises:
        `ValueError`: If it cannot be read.
    """
    try:
        values = json.loads((folder / RUN).read_text(encoding="utf-8"))
        parts = {"row": RowOfRun(**values["row"]), "measuring": Measuring(**values["measuring"])}
        whole: dict[str, Any] = {**values, **parts}
        return RunSpec(**whole)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / RUN} is not the description of a run: {error}") from error
