"""
From a base and the options to an ablation: rows, budgets and measuring, all checked before a run starts.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trl_dapo.ablation.designs import Row
from trl_dapo.ablation.run_spec import Measuring
from trl_dapo.arena import REGIMES
from trl_dapo.evaluation.settings import TEMPERATURE, TOP_P, Protocol

from .ablate_budget import DEFAULT_REGIME, Rollout, budgets_of, check_schedule, most_steps, running_fields
from .ablate_defaults import OUTPUT_DIR, SEEDS
from .ablate_rows import REFUSED, designs_of
from .ablate_runs import Ablation, row_config
from .arena_defaults import is_arena_run
from .commands import ABLATE_RUN
from .errors import UsageError, one_line
from .launch import Plan, plan
from .script import make_parser


ARENA_MEASURING = {"held_out": ["arena"], "held_out_size": 225, "held_out_k": 8}
ARENA_BATCH = 512  # completions sampled at once


def plan_ablation(options: argparse.Namespace, base: Mapping[str, Any], words: Sequence[str]) -> Ablation:
    """
    Returns the ablation that was asked for.

    Raises:
        [`UsageError`]: For the first mistake found, in any row.
    """
    given, launch_words = make_parser(ABLATE_RUN).written_values(list(words))
    values = {**base, **given}
    notes = _check_base(values)
    on_arena = _is_arena(values)
    regime = _regime(options, on_arena)
    values = _filled(values, on_arena, regime)
    designs = designs_of(options, values, regime)
    if (options.jobs or 1) > 1 and not on_arena and not launch_words:
        # Each run has a GPU of its own
        launch_words = ["--num_processes", "1"]
    # Another machine may have the GPUs that this one lacks
    elsewhere = options.dry_run or options.prepare or options.launcher != "local"
    also = ["--dry_run", "true"] if elsewhere else []
    with _scratch() as folder:
        first = _planned(values, designs[0].rows[0], Path(folder), launch_words, also)
        budgets = budgets_of(options, values, first.arguments.training_args, regime)
        rows = tuple({row.key: row for design in designs for row in design.rows}.values())
        rollouts = {}
        for row in rows:
            args = _planned(values, row, Path(folder), launch_words, also).arguments.training_args
            check_schedule(row.name, args, list(budgets))
            rollouts[row.key] = Rollout.of(args)
        max_steps = most_steps(budgets, list(rollouts.values()))
        own = {key: running_fields(values, max_steps, one) for key, one in rollouts.items()}
        for row in rows:
            _planned({**values, **own[row.key]}, row, Path(folder), launch_words, also)
    return Ablation(
        designs=tuple(designs),
        budgets=budgets,
        rows=rows,
        measuring=_measuring(options, first, on_arena),
        base=values,
        words=tuple(launch_words),
        processes=first.processes,
        output_dir=_output_dir(options, base, regime),
        own=own,
        regime=regime,
        keep_models=options.keep_models,
        notes=tuple(notes),
    )


def _scratch() -> tempfile.TemporaryDirectory:
    try:
        return tempfile.TemporaryDirectory()
    except OSError as error:
        raise UsageError(f"No temporary folder: {one_line(error)}. Set TMPDIR to one that can be written.") from error


def report_dir(options: argparse.Namespace, base: Mapping[str, Any], words: Sequence[str]) -> Path:
    """Returns the folder that the same words without `--report` write to."""
    if options.output_dir is not None:
        return options.output_dir
    on_arena = _is_arena({**base, **make_parser(ABLATE_RUN).written_values(list(words))[0]})
    return _output_dir(options, base, _regime(options, on_arena))


def _is_arena(values: Mapping[str, Any]) -> bool:
    return is_arena_run({name: values.get(name) for name in ("model_name_or_path", "datasets", "dataset_name")})


def _check_base(values: dict[str, Any]) -> list[str]:
    for name, why in REFUSED.items():
        if values.get(name) not in (None, False):
            raise UsageError(f"{name}={values[name]} has no place in the base of an ablation: {why}. Leave it out.")
    logging = getattr(values.get("logging_strategy"), "value", values.get("logging_strategy"))
    if logging not in (None, "steps"):
        raise UsageError(
            f"logging_strategy={logging} has no place in the base of an ablation: curves and checks are made of the "
            "logs of each rollout. Leave it out."
        )
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


def _planned(values: Mapping[str, Any], row: Row, folder: Path, words: Sequence[str], also: Sequence[str]) -> Plan:
    """Returns a row's run, checked as `trl-dapo dapo` checks it; a mistake names the row."""
    file = folder / "config.yaml"
    try:
        file.write_text(yaml.safe_dump(row_config(values, row, 0, folder)), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written to: {error.strerror}. Set TMPDIR to another folder.") from error
    try:
        return plan(ABLATE_RUN, ["--config", str(file), *words], "trl-dapo ablate", also)
    except UsageError as error:
        raise UsageError(f"row {row.name!r}: {error}") from error


def _measuring(options: argparse.Namespace, first: Plan, on_arena: bool) -> Measuring:
    found = _measuring_of(options, first, on_arena)
    for k in (found.k, found.k_on_the_way):
        try:
            Protocol(k=k, temperature=found.temperature, top_p=found.top_p)
        except ValueError as error:
            raise UsageError(f"--{one_line(error)}") from error
    return found


def _measuring_of(options: argparse.Namespace, first: Plan, on_arena: bool) -> Measuring:
    return Measuring(
        k=first.arguments.script_args.held_out_k,
        temperature=TEMPERATURE if options.temperature is None else options.temperature,
        top_p=options.top_p if options.top_p is not None else (1.0 if on_arena else TOP_P),
        points=options.points,
        k_on_the_way=options.points_k,
        batch_size=ARENA_BATCH if on_arena else None,
    )


def _output_dir(options: argparse.Namespace, base: Mapping[str, Any], regime: str | None) -> Path:
    # Other machines start elsewhere
    here = Path() if options.launcher == "local" else Path.cwd()
    if options.output_dir is not None:
        return here / options.output_dir
    if regime is not None:
        return here / OUTPUT_DIR / regime
    if base.get("output_dir"):
        return here / f"{base['output_dir']}-ablation"
    return here / OUTPUT_DIR / (options.preset or Path(options.config or "run").stem)


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
