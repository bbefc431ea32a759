"""
What `--dry-run` prints: the resolved config and, for DAPO, the batch arithmetic and what is otherwise than the paper.
"""

import sys
from dataclasses import MISSING, Field, fields
from typing import Any

from trl_dapo.dapo.batch_plan import batch_plan, describe
from trl_dapo.dapo.deviations import Deviations
from trl_dapo.dapo.toggles import TOGGLES

from .arguments import Arguments


# Filled in on construction, or saying nothing about the run
NOT_SHOWN = ("accelerator_config", "activation_checkpointing", "disable_tqdm", "notes", "dry_run")

# What becomes of a field that was left out, where only the run can tell
RULES = {
    "overlong_penalty_factor": "half of the distance between a wrong and a right answer, which the run's log states"
}

OTHERWISE = "otherwise than the paper"

Section = tuple[str, list[tuple[str, Any]]]


def print_config(arguments: Arguments, host_config: Any) -> None:
    """
    Prints the run as tables on a terminal, and as `name: value` lines elsewhere.

    Args:
        arguments ([`Arguments`]):
            As parsed.
        host_config (`type`):
            The config of TRL's that the command's own extends: of its fields, those that differ from its defaults are
            printed, and of the fields added to it, all.
    """
    added = _added_fields(arguments.training_args, host_config)
    _print(_sections(arguments, host_config, "trl_dapo", added), [], arguments.script_args.notes)


def print_dapo_config(arguments: Arguments, host_config: Any) -> None:
    """
    Prints what [`print_config`] does, with the five toggles first, the batch arithmetic, what is otherwise than the
    paper, and inactive parts.
    """
    args = arguments.training_args
    added = [(name, _with_rule(name, value)) for name, value in _added_fields(args, host_config)]
    # Sorting is stable: the other fields keep their order
    added.sort(key=lambda pair: TOGGLES.index(pair[0]) if pair[0] in TOGGLES else len(TOGGLES))
    remarks = arguments.script_args.notes + args.inert_parts()
    _print(
        _sections(arguments, host_config, "DAPO", added), describe(batch_plan(args), args), remarks, args.deviations()
    )


def _sections(arguments: Arguments, host_config: Any, title: str, added: list[tuple[str, Any]]) -> list[Section]:
    script_args, training_args, model_args, dataset_args = arguments
    return [
        ("script", _changed(script_args) + _changed(model_args) + _changed(dataset_args)),
        (title, added),
        (
            f"config, where it differs from {host_config.__name__}'s defaults",
            _changed(training_args, host_config),
        ),
    ]


def _added_fields(args: Any, host_config: Any) -> list[tuple[str, Any]]:
    inherited = {one.name for one in fields(host_config)}
    return [(one.name, getattr(args, one.name)) for one in fields(args) if one.name not in inherited]


def _with_rule(name: str, value: Any) -> Any:
    return f"None ({RULES[name]})" if value is None and name in RULES else value


def _changed(args: Any, kind: Any = None) -> list[tuple[str, Any]]:
    pairs = [(own, getattr(args, own.name)) for own in fields(kind or args) if own.name not in NOT_SHOWN]
    return [(own.name, _plain(value)) for own, value in pairs if not _same(value, _default(own))]


def _default(own: Field) -> Any:
    if own.default_factory is not MISSING:
        return own.default_factory()
    return own.default


def _same(value: Any, default: Any) -> bool:
    # Construction rewrites some fields: a name as an enum, None or "none" as {} or []
    if _plain(value) == _plain(default):
        return True
    return value in ([], {}, "", None) and default in (None, "none", "", "auto")


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def _print(
    sections: list[Section], lines: list[str], remarks: list[str], deviations: Deviations | None = None
) -> None:
    if sys.stdout.isatty():
        _print_tables(sections, lines, remarks, deviations)
    else:
        _print_lines(sections, lines, remarks, deviations)


def _print_lines(sections: list[Section], lines: list[str], remarks: list[str], deviations: Deviations | None) -> None:
    for title, pairs in sections:
        print(f"# {title}")
        for name, value in pairs:
            print(f"{name}: {value}")
    if lines:
        print("# batch")
        print("\n".join(lines))
    if deviations is not None:
        print(f"# {OTHERWISE}\n{deviations}")
    for remark in remarks:
        print(f"note: {remark}")


def _print_tables(
    sections: list[Section], lines: list[str], remarks: list[str], deviations: Deviations | None
) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for title, pairs in sections:
        table = Table("field", "value", title=title, title_justify="left")
        for name, value in pairs:
            table.add_row(name, escape(str(value)))
        if pairs:
            console.print(table)
    for line in lines:
        console.print(line, markup=False, highlight=False)
    if deviations is not None:
        console.print(OTHERWISE, style="italic", highlight=False)
        console.print(deviations)
    for remark in remarks:
        console.print(f"note: {remark}", style="yellow", markup=False, highlight=False)
