"""
From a base, designs and seeds to runs: the config, the budgets and the folder of each, all checked before one starts.
"""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trl_dapo.ablation.designs import Design, Row, comparison, make_design, vary
from trl_dapo.ablation.results import RowOfRun
from trl_dapo.ablation.run_spec import Measuring, RunSpec
from trl_dapo.arena import REGIMES
from trl_dapo.dapo.toggles import GOVERNED, RELIANT, TOGGLES
from trl_dapo.evaluation.settings import TEMPERATURE, TOP_P

from .ablate import MARGIN, OUTPUT_DIR, SEEDS
from .arena_defaults import is_arena_run
from .commands import ABLATE_RUN
from .errors import UsageError
from .launch import Plan, plan
from .script import make_parser
from .starts import CONSTANT


DEFAULT_REGIME = "default"
# Of the built-in task in its default regime, as in the demo: completions of a run, and the steps in which DAPO
# generates about as many
ARENA_BUDGETS = {"samples": 16384, "steps": 512, "seconds": 30.0}
ARENA_MEASURING = {"held_out": ["arena"], "held_out_size": 225, "held_out_k": 8}
ARENA_BATCH = 512  # completions sampled at once
SAVES = 8  # checkpoints of a run, of which the last is kept
# Without a budget of steps or completions, the budget of seconds ends the run
ENDLESS = 10**9

REFUSED = {
    "resume_from_checkpoint": "runs go on from their own checkpoints",
    "push_to_hub": "an ablation has many models",
    "load_best_model_at_end": "the policy that is measured is the one that spent the budget",
    "save_only_model": "a run that was stopped goes on from its checkpoint",
    "held_out_every": "runs are measured when a budget is spent, and at --points on the way",
    "num_train_epochs": "a run ends with its budget: give --samples or --steps",
}


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
        notes (`tuple[str, ...]`):
            What the user should know.
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

    def runs(self, seeds: Sequence[int]) -> list[PlannedRun]:
        """Returns the runs of these seeds, seed by seed, so that pairs are complete early."""
        return [self._run(position, row, seed) for seed in seeds for position, row in enumerate(self.rows)]

    def _run(self, position: int, row: Row, seed: int) -> PlannedRun:
        folder = self.output_dir / "runs" / row.key / f"seed-{seed}"
        config = row_config(self.base, row, seed, folder)
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
    passing = ("output_dir", "ablation_run", "save_steps", "save_strategy", "save_total_limit", "report_to", "env")
    return {name: value for name, value in config.items() if name not in passing}


def plan_ablation(options: argparse.Namespace, base: Mapping[str, Any], words: Sequence[str]) -> Ablation:
    """
    Returns the ablation that was asked for.

    Raises:
        [`UsageError`]: For the first mistake found, in any row.
    """
    given, launch_words = make_parser(ABLATE_RUN).written_values(list(words))
    values = {**base, **given}
    notes = _check_base(values)
    on_arena = is_arena_run({name: values.get(name) for name in ("model_name_or_path", "datasets", "dataset_name")})
    regime = _regime(options, on_arena)
    values = _filled(values, on_arena, regime)
    designs = _designs(options, values, regime)
    if (options.jobs or 1) > 1 and not on_arena and not launch_words:
        # Each run has a GPU of its own
        launch_words = ["--num_processes", "1"]
    # Another machine may have the GPUs that this one lacks
    elsewhere = options.dry_run or options.prepare or options.launcher != "local"
    also = ["--dry_run", "true"] if elsewhere else []
    with tempfile.TemporaryDirectory() as folder:
        first = _planned(values, designs[0].rows[0], Path(folder), launch_words, also)
        budgets = _budgets(options, values, first, regime)
        values = {**values, **_running_fields(values, budgets, first)}
        rows = tuple({row.key: row for design in designs for row in design.rows}.values())
        for row in rows:
            _planned(values, row, Path(folder), launch_words, also)
    return Ablation(
        designs=tuple(designs),
        budgets=budgets,
        rows=rows,
        measuring=_measuring(options, first, on_arena),
        base=values,
        words=tuple(launch_words),
        processes=first.processes,
        output_dir=options.output_dir or _output_dir(options, base, regime),
        regime=regime,
        keep_models=options.keep_models,
        notes=tuple(notes),
    )


def _check_base(values: dict[str, Any]) -> list[str]:
    for name, why in REFUSED.items():
        if values.get(name) not in (None, False):
            raise UsageError(f"{name}={values[name]} has no place in the base of an ablation: {why}. Leave it out.")
    notes = []
    for name, instead in {"seed": "--first_seed", "output_dir": "--output_dir"}.items():
        if values.pop(name, None) is not None:
            notes.append(f"{name} of the base is not used: {instead} of `trl-dapo ablate` says it")
    return notes


def _regime(options: argparse.Namespace, on_arena: bool) -> str | None:
    if options.regime is None:
        return DEFAULT_REGIME if on_arena else None
    if not on_arena:
        raise UsageError(
            f"--regime {options.regime} is of the built-in task, and the base names a model. Leave it out."
        )
    if options.regime not in REGIMES:
        raise UsageError(f"--regime {options.regime} is unknown. The regimes are {', '.join(REGIMES)}.")
    return options.regime


def _filled(values: dict[str, Any], on_arena: bool, regime: str | None) -> dict[str, Any]:
    if on_arena:
        fields = REGIMES[regime or DEFAULT_REGIME].fields
        return {**ARENA_MEASURING, **fields, **values}
    if not values.get("held_out"):
        raise UsageError(
            "held_out is missing: an ablation compares accuracy on questions that are not trained on. Name data sets "
            "(--held_out gsm8k, aime-2024, a file, ...)."
        )
    return values


def _designs(options: argparse.Namespace, values: dict[str, Any], regime: str | None) -> list[Design]:
    if options.vary:
        return [vary(_varied(options.vary, values))]
    named = [make_design(name) for name in dict.fromkeys(options.design)]
    one = None if regime is None else REGIMES[regime].technique
    own = make_design("ladder") if one is None else comparison(one, REGIMES[str(regime)].others)
    designs = named or [own]
    for toggle in TOGGLES:
        asked = values.pop(toggle, None)
        on = next((row for design in designs for row in design.rows if row.changes.get(toggle)), None)
        if asked is False and on is not None:
            raise UsageError(
                f"{toggle}=False in the base contradicts --design {designs[0].name}: its row {on.name!r} turns it on. "
                "Leave it out, or compare values of single fields with --vary."
            )
    return designs


def _varied(asked: Sequence[str], values: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Returns the values of each varied field, with the type that the field has."""
    found: dict[str, list[Any]] = {}
    for text in asked:
        name, mark, listed = text.partition("=")
        if not mark or not listed or name in found:
            raise UsageError(f"--vary {text}: FIELD=A,B is needed, each field once.")
        parser = make_parser(ABLATE_RUN)
        typed = []
        for word in listed.split(","):
            written, rest = parser.written_values([f"--{name}={word}"])
            if rest or name not in written:
                nearest = parser.nearest_option(f"--{name}")
                raise UsageError(
                    f"--vary {name}: there is no such field." + (f" Did you mean {nearest[2:]}?" if nearest else "")
                )
            typed.append(written[name])
        if len(set(map(str, typed))) < len(typed):
            raise UsageError(f"--vary {text}: a value is there twice.")
        if name in ("seed", "output_dir", "max_steps"):
            raise UsageError(f"--vary {name}: it is set by --seeds, --output_dir and the budget. Vary another field.")
        found[name] = typed
    return found


def _planned(values: Mapping[str, Any], row: Row, folder: Path, words: Sequence[str], also: Sequence[str]) -> Plan:
    """Returns a row's run, checked as `trl-dapo dapo` checks it; a mistake names the row."""
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(row_config(values, row, 0, folder)), encoding="utf-8")
    try:
        return plan(ABLATE_RUN, ["--config", str(file), *words], "trl-dapo ablate", also)
    except UsageError as error:
        raise UsageError(f"row {row.name!r}: {error}") from error


def _budgets(
    options: argparse.Namespace, values: Mapping[str, Any], first: Plan, regime: str | None
) -> dict[str, float]:
    args = first.arguments.training_args
    matches = list(dict.fromkeys(options.match or ["samples"]))
    _check_schedule(args, matches)
    if regime is None:
        steps = values.get("max_steps") or 0
        rollouts = steps / max(1.0, args.updates_between_generations)
        defaults = {"steps": steps, "samples": rollouts * args.generation_batch_size}
    else:
        own = REGIMES[regime].completions
        defaults = ARENA_BUDGETS if regime == DEFAULT_REGIME else {**ARENA_BUDGETS, "samples": own}
    budgets: dict[str, float] = {}
    for match in matches:
        asked = getattr(options, match)
        value = asked or defaults.get(match)
        if not value:
            raise UsageError(
                f"--{match} is missing: --match {match} needs a budget. Give it, or max_steps in the base."
            )
        budgets[match] = float(value)
    return budgets


def _check_schedule(args: Any, matches: Sequence[str]) -> None:
    schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if schedule not in CONSTANT and matches != ["steps"]:
        raise UsageError(
            f"lr_scheduler_type={schedule} decays over the steps of a run, and with --match {' '.join(matches)} rows "
            "have different numbers of steps. Use constant_with_warmup, or --match steps."
        )


def _running_fields(values: Mapping[str, Any], budgets: Mapping[str, float], first: Plan) -> dict[str, Any]:
    """Returns the fields that make a run end with its budgets, log each rollout and go on after it was killed."""
    args = first.arguments.training_args
    rollout_steps = max(1, math.ceil(args.updates_between_generations))
    most = [ENDLESS] if "seconds" in budgets else []
    if "samples" in budgets:
        # Each rollout generates at least one batch
        most.append(math.ceil(budgets["samples"] / args.generation_batch_size) * rollout_steps)
    if "steps" in budgets:
        most.append(math.ceil(budgets["steps"]))
    max_steps = max(most)
    defaults: dict[str, Any] = {
        "logging_steps": float(rollout_steps),
        "report_to": "none",
        "disable_tqdm": True,
        "eval_strategy": "no",
        "save_total_limit": 1,
    }
    if "save_steps" not in values and values.get("save_strategy", "steps") == "steps":
        defaults["save_strategy"] = "steps"
        defaults["save_steps"] = float(max(1, math.ceil(min(max_steps, ENDLESS // 1000) / SAVES)))
    return {**{name: value for name, value in defaults.items() if name not in values}, "max_steps": max_steps}


def _measuring(options: argparse.Namespace, first: Plan, on_arena: bool) -> Measuring:
    return Measuring(
        k=first.arguments.script_args.held_out_k,
        temperature=TEMPERATURE if options.temperature is None else options.temperature,
        top_p=options.top_p if options.top_p is not None else (1.0 if on_arena else TOP_P),
        points=options.points,
        k_on_the_way=options.points_k,
        batch_size=ARENA_BATCH if on_arena else None,
    )


def _output_dir(options: argparse.Namespace, base: Mapping[str, Any], regime: str | None) -> Path:
    if regime is not None:
        return OUTPUT_DIR / regime
    if base.get("output_dir"):
        return Path(f"{base['output_dir']}-ablation")
    return OUTPUT_DIR / (options.preset or Path(options.config or "run").stem)


def jobs_at_once(options: argparse.Namespace, ablation: Ablation) -> int:
    """Returns how many runs there are at a time."""
    if options.jobs is not None:
        return options.jobs
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return cores if ablation.regime is not None else 1


def seeds_of(options: argparse.Namespace) -> list[int]:
    """Returns the seeds to begin with."""
    return list(range(options.first_seed, options.first_seed + (options.seeds or SEEDS)))


__all__ = ["MARGIN", "Ablation", "PlannedRun", "jobs_at_once", "plan_ablation", "row_config", "seeds_of"]
