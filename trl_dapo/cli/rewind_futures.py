"""
The futures of one checkpoint: plans them, runs them, proves the unchanged one, and writes the report.
"""

from pathlib import Path

from trl_dapo.host.checkpoints import damage
from trl_dapo.rewind.branch import AS_IT_WAS, RUN_FOLDER, Future
from trl_dapo.rewind.futures import Told, findings_in, rows_of, shown_metrics
from trl_dapo.rewind.origin import TRAINER_STATE, Origin
from trl_dapo.rewind.proof import Proof, prove, same_log
from trl_dapo.rewind.report import Report, write_report

from .command_file import Started
from .errors import UsageError
from .rewind_options import Options, say
from .rewind_plan import Resolved, made, parse_changes, resolve
from .rewind_run import future_of
from .rewind_source import Source, judge, last_step, read_source


def rewind(options: Options) -> int:
    """Rewinds to a step and returns the exit code: 1 where a future failed."""
    source = read_source(options)
    changes = parse_changes(options.groups, source.command)
    start, other, base, checkpoint = source.begin(int(options.to or 0))
    resolved = resolve(start, [{}, *changes], checkpoint)
    end = _end(options, source.origin, base, checkpoint)
    told = _told(options, source, start, resolved, (base, checkpoint, end))
    if told[0].future is None:
        raise UsageError(f"the branch that changes nothing failed: {told[0].failure}")
    limit = end if other is None else min(end, other)
    proof = proof_of(source.origin, told[0].future, options.folder / told[0].branch.folder_name, base, limit)
    moved = {one.branch.name: own.moved for one, own in zip(told, resolved, strict=True) if own.moved}
    report = Report(
        str(options.run),
        f"trl-dapo {source.command}",
        int(options.to or 0),
        base,
        end,
        told,
        moved,
        proof,
        [entry for entry in source.origin.log if entry["step"] <= base],
        [*_notes(start, other, options, base, end), *_alike(told)],
    )
    folder = options.folder / f"{base}-report"
    page = write_report(report, folder)
    _print(report, page)
    return int(any(one.failure for one in told))


def proof_of(origin: Origin, future: Future, folder: Path, base: int, end: int) -> Proof:
    """Returns whether a branch that changes nothing is the run."""
    runs = folder / RUN_FOLDER
    online = any((path / "dapo_state.json").is_file() for path in origin.checkpoints.values())
    # The run's may be one of an event, which has another name
    own = {step: runs / f"checkpoint-{step}" for step in origin.checkpoints if base < step <= end}
    both = {
        step: (origin.checkpoints[step], path)
        for step, path in own.items()
        if path.is_dir() and damage(path, online) is None
    }
    logs = origin.log, future.log
    if not online:
        # TRL's trainers for preferences begin to count it anew at each resume
        logs = tuple([{key: entry[key] for key in entry if key != "num_tokens"} for entry in log] for log in logs)
    return prove(*logs, both, base, end)


def _told(
    options: Options, source: Source, start: Started, resolved: list[Resolved], span: tuple[int, Path, int]
) -> list[Told]:
    base, checkpoint, end = span
    past = [entry for entry in source.origin.log if entry["step"] <= base]
    told = []
    for one in resolved:
        branch = made(start, one, checkpoint, base, end)
        future, failure = future_of(branch, start, options.folder, say)
        # A run may be over before
        found = None if future is None else findings_in([*past, *future.log], judge(options.run), base)
        told.append(Told(branch, future, failure, found))
        if failure and branch.name == AS_IT_WAS:
            break
    return told


def _end(options: Options, origin: Origin, base: int, checkpoint: Path) -> int:
    """Returns where futures end: not after the run's own last step, beyond which its schedule says nothing."""
    last = last_step(checkpoint / TRAINER_STATE)
    if base >= last:
        raise UsageError(
            f"the run has {last} steps, and {checkpoint.name} is the last: nothing follows it. Give an earlier --to."
        )
    if options.steps is not None:
        return min(base + options.steps, last)
    if origin.last <= base:
        raise UsageError(f"the run's log ends at step {base}, where the futures begin. Say how long with --steps.")
    return origin.last


def _notes(start: Started, other: int | None, options: Options, base: int, end: int) -> list[str]:
    notes = []
    if other is not None:
        notes.append(f"The run was started with other words at step {other}, so it is compared up to there.")
    if start.left_out:
        notes.append(f"Left out of command.json, so not set in the futures: {', '.join(start.left_out)}.")
    if options.steps is not None and end < base + options.steps:
        notes.append(f"The run has {end} steps, so futures are {end - base} long and not {options.steps}.")
    if options.command:
        notes.append("The run's command was given by hand.")
    return notes


def _alike(told: list[Told]) -> list[str]:
    """Returns a line for each change whose future is the unchanged one, number for number."""
    first, *others = told
    return [
        f"{one.name} made no difference: its log is that of the unchanged branch, number for number."
        for one in others
        if one.future and first.future and same_log(first.future.log, one.future.log)
    ]


def _print(report: Report, page: Path) -> None:
    from rich.console import Console

    from .rewind_table import findings_of, tables

    metrics = shown_metrics(report.told)
    rows = rows_of(report.told, metrics)
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    for table in tables(f"{report.title}, ending at step {report.end}", rows, metrics, console.width):
        console.print(table)
    for line in [*findings_of(rows), str(report.proof), *report.notes, f"Report: {page}"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
