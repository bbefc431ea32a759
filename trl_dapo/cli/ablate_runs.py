"""
An ablation that was checked: its runs, and the config, the folder and the command of each.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_dapo.ablation.designs import Design, Row
from trl_dapo.ablation.results import RowOfRun
from trl_dapo.ablation.run_spec import Measuring, RunSpec
from trl_dapo.dapo.toggles import GOVERNED, RELIANT, TOGGLES

from .ablate_rows import PASSING


@dataclass(frozen=True)
class PlannedRun:
    """A run: what it is told, its config by field, and its folder."""

    spec: RunSpec
    config: Mapping[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        """What it is called on the screen."""
        return f"{self.spec.row.name}, seed {self.spec.seed}"


@dataclass(frozen=True)
class Ablation:
    """
    All that was asked for, checked.

    Args:
        designs (`tuple[Design, ...]`):
            The tables.
        budgets (`dict[str, float]`):
            What each run may spend.
        rows (`tuple[Row, ...]`):
            The rows of all tables, each once.
        measuring ([`Measuring`]):
            How policies are measured.
        base (`dict[str, Any]`):
            Fields that all rows share.
        words (`tuple[str, ...]`):
            Words for `accelerate launch`.
        processes (`int`):
            Processes of a run.
        output_dir (`Path`):
            Where everything goes.
        regime (`str`, *optional*):
            The built-in task's regime.
        keep_models (`bool`):
            Whether the last policy of each run is saved.
        notes (`tuple[str, ...]`):
            What the user should know.
        own (`dict[str, dict[str, Any]]`):
            Fields that only one row has besides its changes, by the row's key.
    """

    designs: tuple[Design, ...]
    budgets: Mapping[str, float]
    rows: tuple[Row, ...]
    measuring: Measuring
    base: Mapping[str, Any]
    words: tuple[str, ...]
    processes: int
    output_dir: Path
    regime: str | None = None
    keep_models: bool = False
    notes: tuple[str, ...] = field(default=())
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def runs(self, seeds: Sequence[int]) -> list[PlannedRun]:
        """Returns the runs of these seeds, seed by seed, so that pairs are complete early."""
        return [self._run(position, row, seed) for seed in seeds for position, row in enumerate(self.rows)]

    def _run(self, position: int, row: Row, seed: int) -> PlannedRun:
        folder = self.output_dir / "runs" / row.key / f"seed-{seed}"
        config = row_config({**self.base, **self.own.get(row.key, {})}, row, seed, folder)
        spec = RunSpec(
            row=RowOfRun(row.key, row.name, dict(row.changes), position),
            seed=seed,
            budgets=self.budgets,
            measuring=self.measuring,
            fingerprint={"regime": self.regime, "budgets": self.budgets, "config": lasting(config)},
            regime=self.regime,
            keep_model=self.keep_models,
        )
        return PlannedRun(spec, config, folder)

    def command(self, run: PlannedRun) -> tuple[str, ...]:
        """Returns the words that start a run."""
        config = ("--config", str(run.folder / "config.yaml"))
        if self.processes == 1 and not self.words:
            return (sys.executable, "-m", "trl_dapo.cli.ablate_run", *config)
        return (sys.executable, "-m", "trl_dapo.cli.main", "ablate-run", *config, *self.words)


def row_config(base: Mapping[str, Any], row: Row, seed: int, folder: Path) -> dict[str, Any]:
    """Returns the fields of a run. Parameters of a part that is off in the row are left out."""
    off = [toggle for toggle in TOGGLES if row.changes.get(toggle) is False]
    unread = {GOVERNED[toggle] for toggle in off if toggle in GOVERNED}
    unread |= {name for toggle in off for name in RELIANT.get(toggle, ())}
    kept = {name: value for name, value in base.items() if name not in unread}
    own = {"seed": seed, "output_dir": str(folder / "training"), "ablation_run": str(folder)}
    return {**kept, **row.changes, **own}


def lasting(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that a result depends on."""
    return {name: value for name, value in config.items() if name not in PASSING}
