"""
Starts the runs of an ablation, adds seeds where that was asked for, and reports.
"""

import argparse
import importlib.util
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from trl_dapo.ablation.designs import Row
from trl_dapo.ablation.jobs import Job, Outcome
from trl_dapo.ablation.manifest import Manifest, merged_manifest, read_manifest, write_manifest
from trl_dapo.ablation.results import ResultError, RunResult, find_results, read_result
from trl_dapo.ablation.run_spec import RUN, RunSpec, read_spec, write_spec
from trl_dapo.arena import REGIMES
from trl_dapo.host.whole_files import write_whole

from .ablate_plan import jobs_at_once, plan_ablation, report_dir, seeds_of
from .ablate_runs import Ablation, PlannedRun
from .errors import UsageError, one_line
from .folders import check_folder


FAILED, INTERRUPTED = 1, 130
FILE_WIDTH = 160


def run(options: argparse.Namespace, base: Mapping[str, Any], words: Sequence[str]) -> int:
    """Runs what the options ask for and returns the exit code."""
    if not (options.dry_run or options.prepare):
        _check_packages()
    if options.report:
        return report_folder(report_dir(options, base, words), options)
    ablation = plan_ablation(options, base, words)
    seeds = seeds_of(options)
    runs = ablation.runs(seeds)
    _check_folders(ablation, runs)
    if options.dry_run:
        _print_plan(options, ablation, runs)
        return 0
    for note in ablation.notes:
        print(f"note: {note}", file=sys.stderr)
    # Before anything is written: it may be missing
    launcher = None if options.prepare else _launcher(options, ablation)
    _prepare(ablation, runs)
    if options.prepare:
        print(f"{len(runs)} runs are in {ablation.output_dir}. Each starts with its line of commands.txt there.")
        return 0
    return _start(options, ablation, seeds, launcher)


def _start(options: argparse.Namespace, ablation: Ablation, seeds: list[int], launcher: Any) -> int:
    outcomes: dict[Path, Outcome] = {}
    while True:
        # A run that failed is not tried again for each seed that is added
        left = [one for one in ablation.runs(seeds) if one.folder not in outcomes]
        outcomes |= {one.job.folder: one for one in _run_all(ablation, left, launcher)}
        if any(one.status == "stopped" for one in outcomes.values()):
            done = sum(one.status in ("finished", "skipped") for one in outcomes.values())
            print(f"Stopped: {done} runs are finished. The same command goes on.")
            return INTERRUPTED
        more = _seeds_to_add(options, ablation, seeds)
        if not more:
            break
        seeds = more
        runs = ablation.runs(seeds)
        _check_folders(ablation, runs)
        _prepare(ablation, runs)
    for one in outcomes.values():
        if one.status == "failed":
            print(f"failed: {one.job.name}: {one.reason} ({one.job.folder / 'log.txt'})", file=sys.stderr)
    if all(one.status == "failed" for one in outcomes.values()):
        return FAILED
    code = report_folder(ablation.output_dir, options)
    return FAILED if any(one.status == "failed" for one in outcomes.values()) else code


# Before runs start


def _check_packages() -> None:
    """Raises [`UsageError`] if the report cannot be made, before hours of runs."""
    for package in ("matplotlib", "scipy"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"{package} is missing, and the report needs it: pip install 'trl-dapo[report]'.")


def _check_folders(ablation: Ablation, runs: Sequence[PlannedRun]) -> None:
    """Raises [`UsageError`] if a folder holds another run, before anything is written."""
    try:
        check_folder("--output_dir", str(ablation.output_dir))
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    for one in runs:
        if not (one.folder / RUN).is_file():
            continue
        try:
            there = read_spec(one.folder)
        except ValueError as error:
            raise UsageError(f"--output_dir {ablation.output_dir}: {one_line(error)}. Name another folder.") from error
        changed = _difference(_described(there), _described(one.spec))
        if changed is not None:
            raise UsageError(
                f"--output_dir {ablation.output_dir} holds runs of another ablation: {one.name} has {changed}. Name "
                "another folder."
            )


def _described(spec: RunSpec) -> dict[str, Any]:
    """Returns what a run is and how it is measured, as JSON has it."""
    return json.loads(json.dumps({**spec.fingerprint, "measuring": asdict(spec.measuring)}))


def _difference(there: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> str | None:
    """Returns the first field in which two descriptions differ, with both values."""
    for name in {**now, **there}:
        was, new = there.get(name), now.get(name)
        if isinstance(was, Mapping) and isinstance(new, Mapping):
            inner = _difference(was, new, f"{name}.")
            if inner is not None:
                return inner
        elif was != new:
            return f"{path}{name}={was}, not {new}"
    return None


def _prepare(ablation: Ablation, runs: Sequence[PlannedRun]) -> None:
    """Writes what each run is told; what is there stays."""
    try:
        for one in runs:
            one.folder.mkdir(parents=True, exist_ok=True)
            write_whole(one.folder / "config.yaml", yaml.safe_dump(dict(one.config), sort_keys=False))
            write_spec(one.folder, one.spec)
        tables = Manifest(ablation.designs, tuple(ablation.budgets))
        write_manifest(ablation.output_dir, merged_manifest(ablation.output_dir, tables))
        lines = [shlex.join(ablation.command(one)) for one in runs]
        write_whole(ablation.output_dir / "commands.txt", "\n".join(lines) + "\n")
    except OSError as error:
        raise UsageError(f"--output_dir {ablation.output_dir} cannot be written to: {error.strerror}.") from error


def _print_plan(options: argparse.Namespace, ablation: Ablation, runs: Sequence[PlannedRun]) -> None:
    for design in ablation.designs:
        print(f"# table {design.name}: {len(design.rows)} rows")
        for row in design.rows:
            print(f"{row.name}: {_changes(row)}")
    print("# budget of each run")
    for match, budget in ablation.budgets.items():
        print(f"{match}: {budget:g}")
    if "samples" in ablation.budgets:
        print(f"all runs: {len(runs)}, completions: {len(runs) * ablation.budgets['samples']:g} at least")
    print(f"# {len(runs)} runs, {jobs_at_once(options, ablation)} at a time; --prepare writes their configs")
    for one in runs:
        print(shlex.join(ablation.command(one)))
    for note in ablation.notes:
        print(f"note: {note}")


def _changes(row: Row) -> str:
    return ", ".join(f"{name}={value}" for name, value in row.changes.items()) or "the base"


# Runs


def _run_all(ablation: Ablation, runs: Sequence[PlannedRun], launcher: Any) -> list[Outcome]:
    from trl_dapo.ablation.display import shown
    from trl_dapo.ablation.runner import run_jobs

    threads = {"OMP_NUM_THREADS": "1"} if ablation.regime is not None else {}
    jobs = [Job(one.name, ablation.command(one), one.folder, threads) for one in runs]
    with shown(_console()) as listener:
        return run_jobs(jobs, launcher, _is_finished, listener)


def _console() -> Any:
    from rich.console import Console

    # A file has no width, and rich's default of 80 columns would break lines
    return Console() if sys.stdout.isatty() else Console(width=FILE_WIDTH)


def _launcher(options: argparse.Namespace, ablation: Ablation) -> Any:
    try:
        return _launcher_of(options, ablation)
    except ValueError as error:
        raise UsageError(f"--launcher {options.launcher}: {one_line(error)}") from error


def _launcher_of(options: argparse.Namespace, ablation: Ablation) -> Any:
    from trl_dapo.ablation.launchers import LocalLauncher, RayLauncher, SlurmLauncher

    if options.launcher == "slurm":
        return SlurmLauncher(ablation.output_dir / "slurm", options.launcher_options)
    if options.launcher == "ray":
        return RayLauncher(options.launcher_options)
    return LocalLauncher(jobs_at_once(options, ablation))


def _is_finished(job: Job) -> bool:
    try:
        read_result(job.folder / "result.json")
    except ResultError:
        return False
    return True


def _seeds_to_add(options: argparse.Namespace, ablation: Ablation, seeds: Sequence[int]) -> list[int]:
    """Returns all seeds with those that are added, or none if the ablation is at its end."""
    from trl_dapo.ablation.resolution import state_of

    if options.until is None:
        return []
    found = find_results(ablation.output_dir / "runs").runs
    for line in (state := state_of(found, ablation.designs, list(ablation.budgets), options.margin)).lines:
        print(line)
    dead = {one.key for one in ablation.rows} - {one.row.key for one in found}
    if state.is_open and dead:
        names = ", ".join(one.name for one in ablation.rows if one.key in dead)
        print(f"No seeds are added: no run of {names} has finished.")
        return []
    if not state.is_open or len(seeds) >= options.max_seeds:
        if state.is_open:
            print(f"--max_seeds {options.max_seeds} is reached, and not all differences are resolved.")
        return []
    step = max(1, jobs_at_once(options, ablation) if ablation.regime is not None else 1)
    return [*seeds, *range(seeds[-1] + 1, min(seeds[-1] + 1 + step, seeds[0] + options.max_seeds))]


# The report


def report_folder(folder: Path, options: argparse.Namespace) -> int:
    """Writes the report of a folder's results, prints its first table and returns the exit code."""
    from trl_dapo.ablation.report import write_report

    from .ablate_display import print_tables

    try:
        found = [find_results(one) for one in (folder, *options.join)]
    except ResultError as error:
        raise UsageError(one_line(error)) from error
    runs = [one for part in found for one in part.runs]
    left_out = [line for part in found for line in part.left_out]
    if not runs:
        raise UsageError(f"--output_dir {folder} has no results. Run the ablation, or name another folder.")
    manifest = read_manifest(folder)
    matches = manifest.matches or tuple(dict.fromkeys(match for one in runs for match in one.ends))
    try:
        written = write_report(
            folder / "report",
            runs,
            manifest.designs,
            matches,
            title=_title(runs),
            left_out=left_out,
            bounds=_bounds(),
        )
    except ValueError as error:
        raise UsageError(f"--output_dir {folder}: {one_line(error)}") from error
    except OSError as error:
        raise UsageError(f"--output_dir {folder}: the report cannot be written: {error.strerror}.") from error
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    print_tables(_console(), runs, manifest.designs, matches, _bounds())
    print(f"Report: {next(path for path in written if path.name == 'index.html')}")
    return 0


def compare_reports(first: Path, second: Path) -> int:
    """Prints two reports side by side and returns the exit code."""
    from trl_dapo.ablation.report.compare import compare

    try:
        print(compare(first, second))
    except ValueError as error:
        raise UsageError(f"--compare: {one_line(error)}") from error
    return 0


def _title(runs: Sequence[RunResult]) -> str:
    first = runs[0]
    return "The built-in task" if first.regime is not None else f"{first.start}"


def _bounds() -> dict[str | None, dict[str, float]]:
    """Returns from which mean on a technique counts as having acted, in each regime of the built-in task."""
    return {name: {one.metric: one.bound for one in regime.checks} for name, regime in REGIMES.items()}
