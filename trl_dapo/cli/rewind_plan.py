"""
What a rewind will run: checked as a whole before anything is written.
"""

import contextlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from trl_dapo.rewind.branch import Branch
from trl_dapo.rewind.fields import NOT_INSIDE_A_ROLLOUT, OPTIMIZER_FIELDS, refusal
from trl_dapo.rewind.origin import is_inside_rollout

from .command_file import Started
from .commands import COMMANDS
from .errors import UsageError
from .launch import Plan, plan
from .script import make_parser


# What a branch sets for itself: it goes to its own folder and tells nobody
OWN_VALUES: dict[str, Any] = {"report_to": "none", "push_to_hub": False}
# Only where the command has such a field: a branch draws no view, and goes on where the run was stopped
OWN_IF_KNOWN: dict[str, Any] = {"live_view": "off", "stop_on": None, "save_on_finding": False}


@dataclass(frozen=True)
class Resolved:
    """The run's fields with the changes, and all of its fields that are otherwise because of them."""

    values: dict[str, Any]
    changes: dict[str, Any]
    moved: dict[str, tuple[Any, Any]]


def parse_changes(groups: Sequence[Sequence[str]], command: str) -> list[dict[str, Any]]:
    """
    Returns the changes of each branch.

    Args:
        groups (`Sequence[Sequence[str]]`):
            Words `field=value` of each `--set`. A value is JSON, or text where it is no JSON.
        command (`str`):
            The run's training command.

    Raises:
        [`UsageError`]: For a word without a value, a name that is no field, a field that may not change.
    """
    parser = make_parser(COMMANDS[command])
    known = {action.dest for action in parser._actions}
    changes = []
    for group in groups:
        own: dict[str, Any] = {}
        for word in group:
            name, separator, text = word.partition("=")
            if not (name and separator):
                raise UsageError(f"--set {word}: write field=value, as in --set epsilon_high=0.2.")
            if name in own:
                raise UsageError(f"--set {' '.join(group)}: {name} is there twice. One --set is one future.")
            own[name] = _value(text)
        for name in own:
            if name not in known:
                option = parser.nearest_option(f"--{name}")
                hint = f" Did you mean {option.lstrip('-')}?" if option else ""
                raise UsageError(f"--set {name}: `trl-dapo {command}` has no such field.{hint}")
            _check_may_change(name, command)
        if own in changes:
            raise UsageError(f"--set {' '.join(group)} is given twice.")
        changes.append(own)
    return changes


def resolve(start: Started, all_changes: Sequence[Mapping[str, Any]], checkpoint: Path) -> list[Resolved]:
    """
    Returns the fields of each branch, checked as a run of the command is.

    Raises:
        [`UsageError`]: If the command refuses them, or a field that may not change follows from them.
    """
    plain = _fields(start, {}, checkpoint)
    return [_resolve(start, changes, checkpoint, plain) for changes in all_changes]


def _resolve(start: Started, changes: Mapping[str, Any], checkpoint: Path, plain: Mapping[str, Any]) -> Resolved:
    if not changes:
        return Resolved(start.values, {}, {})
    changed = _fields(start, changes, checkpoint)
    # By their texts too: NaN is not equal to itself
    moved = {
        name: (value, changed[name])
        for name, value in plain.items()
        if value != changed[name] and repr(value) != repr(changed[name])
    }
    for name in moved:
        _check_may_change(name, start.command, list(changes))
    if not moved:
        asked = ", ".join(f"{name}={value}" for name, value in changes.items())
        raise UsageError(f"--set {asked} changes nothing: the run has that already.")
    mixed = next((name for name in moved if name in NOT_INSIDE_A_ROLLOUT and is_inside_rollout(checkpoint)), None)
    if mixed:
        raise UsageError(
            f"--set {mixed}: {checkpoint.name} was saved inside a rollout, which was sampled at another one. Rewind "
            "to a checkpoint that was saved at the end of a rollout."
        )
    sharded = next((name for name in ("deepspeed", "fsdp") if changed.get(name)), None)
    held = next((name for name in moved if name in OPTIMIZER_FIELDS), None)
    if sharded and held:
        raise UsageError(f"--set {held}: it may not change at a checkpoint of a run with {sharded}.")
    if held and changed["lr_scheduler_type"] in ("reduce_lr_on_plateau", "greedy"):
        raise UsageError(
            f"--set {held}: with lr_scheduler_type={changed['lr_scheduler_type']} the rate hangs on what was measured "
            "before, so it may not change at a checkpoint."
        )
    return Resolved({**start.values, **changes}, dict(changes), moved)


def branch_values(
    start: Started, changes: Mapping[str, Any], output_dir: Path, checkpoint: Path, keeps_all: bool = False
) -> dict[str, Any]:
    """Returns the fields of a branch's config file; `keeps_all` where no checkpoint of it may be removed."""
    known = {action.dest for action in make_parser(COMMANDS[start.command])._actions}
    own = {**OWN_VALUES, **{name: value for name, value in OWN_IF_KNOWN.items() if name in known}}
    place = {"output_dir": str(output_dir), "resume_from_checkpoint": str(checkpoint)}
    env = {"env": start.env} if start.env else {}
    if keeps_all:
        own["save_total_limit"] = None
    return {**start.values, **changes, **own, **place, **env}


def as_yaml(values: Mapping[str, Any]) -> str:
    """Returns the text of a config file."""
    return yaml.safe_dump(dict(values), allow_unicode=True, sort_keys=False)


def words_of(branch_config: Path, start: Started) -> list[str]:
    """Returns the words of a branch's command."""
    return ["--config", str(branch_config), *start.launch]


def made(start: Started, resolved: Resolved, checkpoint: Path, base: int, end: int, saves_end: bool = False) -> Branch:
    """Returns the branch."""
    return Branch(
        start.command, resolved.values, resolved.changes, tuple(resolved.moved), str(checkpoint), base, end, saves_end
    )


def _fields(start: Started, changes: Mapping[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Returns all fields that the command makes of the values, by name."""
    command = COMMANDS[start.command]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(start.folder):
        config = Path(folder) / "run.yaml"
        values = branch_values(start, changes, Path(folder) / "run", checkpoint)
        config.write_text(as_yaml(values), encoding="utf-8")
        planned = plan(command, words_of(config, start), f"trl-dapo {command.name}")
    _check_processes(planned, start)
    found = {}
    for part in planned.arguments:
        found |= {one.name: _plain(getattr(part, one.name)) for one in fields(part) if one.name not in _NOT_COMPARED}
    return found


def _check_processes(planned: Plan, start: Started) -> None:
    """A branch of another number of processes would have other random numbers, and wait for machines that are not."""
    again = (
        f"Give a command that starts {start.processes} of them here after --, as in `trl-dapo rewind RUN ... -- "
        + (f"{start.command} --config run.yaml --num_processes {start.processes}`.")
    )
    if planned.machines > 1:
        raise UsageError(f"the run had {planned.machines} machines, and a rewind starts all processes on one. {again}")
    if planned.processes != start.processes:
        raise UsageError(
            f"the run had {start.processes} processes, and its command starts {planned.processes} here: another "
            f"launcher had started them, such as torchrun, or there were other GPUs. {again}"
        )


_NOT_COMPARED = ("output_dir", "notes", "accelerator_config", "logging_dir", "run_name")


def _check_may_change(name: str, command: str, because: Sequence[str] = ()) -> None:
    reason = refusal(name, command)
    if reason is None:
        return
    if name in because or not because:
        raise UsageError(f"--set {name}: it may not change at a checkpoint: {reason}.")
    raise UsageError(
        f"--set {', '.join(because)}: {name} would follow, and it may not change at a checkpoint: {reason}."
    )


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)
