"""
How runs were set: what is the same for all, what each row has of its own, and what differs though it should not.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..results import RunResult


# Differ from run to run by nature
OF_THE_RUN = ("seed", "data_seed", "output_dir", "logging_dir", "run_name")
ABSENT = "absent"


@dataclass(frozen=True)
class Settings:
    """
    Settings of the runs of a section.

    Args:
        shared (`dict[str, str]`):
            Fields that all runs have alike, as JSON.
        own (`dict[str, dict[str, str]]`):
            For each row by key the fields in which rows differ, as JSON; where seeds of a row differ, both values.
        unsettled (`tuple[str, ...]`):
            Fields that differ between seeds of one row.
    """

    shared: Mapping[str, str]
    own: Mapping[str, Mapping[str, str]]
    unsettled: tuple[str, ...]


def settings_of(runs: Sequence[RunResult]) -> Settings:
    """Returns the settings of runs, taken from their configs and, for fields that these lack, their rows' changes."""
    configs = [(run.row.key, _flat({**run.row.changes, **run.config})) for run in runs]
    names = dict.fromkeys(name for _, config in configs for name in config if name not in OF_THE_RUN)
    values = {name: dict.fromkeys(config.get(name, ABSENT) for _, config in configs) for name in names}
    shared = {name: next(iter(found)) for name, found in values.items() if len(found) == 1}
    own: dict[str, dict[str, str]] = {}
    unsettled = []
    for name in (name for name in names if name not in shared):
        for key in dict.fromkeys(key for key, _ in configs):
            found = dict.fromkeys(config.get(name, ABSENT) for other, config in configs if other == key)
            own.setdefault(key, {})[name] = " or ".join(found)
            unsettled += [name] if len(found) > 1 and name not in unsettled else []
    return Settings(shared, own, tuple(unsettled))


def described(values: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Returns for each field of some descriptions, such as environments, all its values in the order of occurrence."""
    found: dict[str, dict[str, None]] = {}
    for one in values:
        for name, value in _flat(one).items():
            found.setdefault(name, {})[value] = None
    return {name: list(those) for name, those in found.items()}


def differing(runs: Sequence[RunResult]) -> list[str]:
    """Returns what differs between runs besides what their rows change, a line each."""
    lines = [
        f"{name} differs between runs: {', '.join(those)}."
        for name, those in described(run.environment for run in runs).items()
        if len(those) > 1
    ]
    starts = dict.fromkeys(run.start for run in runs if run.start is not None)
    if len(starts) > 1:
        lines.append(
            f"Training started from {len(starts)} policies: {', '.join(starts)}. "
            "Intervals take seeds that share one as independent."
        )
    unsettled = settings_of(runs).unsettled
    if unsettled:
        lines.append(f"Fields that differ between seeds of one row: {', '.join(unsettled)}.")
    return lines


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat
