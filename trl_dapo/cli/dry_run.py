"""
What `--dry-run` prints: the resolved config and the batch arithmetic. Nothing is trained and nothing written.
"""

import sys
from dataclasses import MISSING, Field, fields
from typing import Any

from trl import GRPOConfig

from trl_dapo.dapo.batch_plan import batch_plan, describe
from trl_dapo.dapo.config import TOGGLES, DAPOConfig

from .arguments import Arguments


# What construction fills in by itself, and what says nothing about the run
NOT_SHOWN = ("accelerator_config", "activation_checkpointing", "disable_tqdm", "notes", "dry_run")

Section = tuple[str, list[tuple[str, Any]]]


def print_dry_run(arguments: Arguments) -> None:
    """Prints the run as it would be: tables on a terminal, `name: value` lines elsewhere."""
    script_args, training_args, model_args, dataset_args = arguments
    sections = [
        ("script", _changed(script_args) + _changed(model_args) + _changed(dataset_args)),
        ("DAPO", _dapo_fields(training_args)),
        ("config, where it differs from GRPOConfig's defaults", _changed(training_args, GRPOConfig)),
    ]
    lines = describe(batch_plan(training_args), training_args)
    remarks = script_args.notes + training_args.inert_parts()
    if sys.stdout.isatty():
        _print_tables(sections, lines, remarks)
    else:
        _print_lines(sections, lines, remarks)


def print_config(arguments: Arguments, host: Any) -> None:
    """Prints what differs from the defaults of a config of TRL's that the command's own extends."""
    script_args, training_args, model_args, dataset_args = arguments
    inherited = {own.name for own in fields(host)}
    own_fields = [(own.name, getattr(training_args, own.name)) for own in fields(training_args)]
    sections = [
        ("script", _changed(script_args) + _changed(model_args) + _changed(dataset_args)),
        ("trl_dapo", [(name, value) for name, value in own_fields if name not in inherited]),
        (f"config, where it differs from {host.__name__}'s defaults", _changed(training_args, host)),
    ]
    if sys.stdout.isatty():
        _print_tables(sections, [], script_args.notes)
    else:
        _print_lines(sections, [], script_args.notes)


def _dapo_fields(args: DAPOConfig) -> list[tuple[str, Any]]:
    inherited = {own.name for own in fields(GRPOConfig)}
    own = [one.name for one in fields(DAPOConfig) if one.name not in inherited]
    return [(name, getattr(args, name)) for name in (*TOGGLES, *(name for name in own if name not in TOGGLES))]


def _changed(args: Any, kind: Any = None) -> list[tuple[str, Any]]:
    pairs = [(own, getattr(args, own.name)) for own in fields(kind or args) if own.name not in NOT_SHOWN]
    return [(own.name, _plain(value)) for own, value in pairs if not _same(value, _default(own))]


def _default(own: Field) -> Any:
    if own.default_factory is not MISSING:
        return own.default_factory()
    return own.default


def _same(value: Any, default: Any) -> bool:
    # Construction writes some fields in another form: an enum for its name, {} or [] for None or "none"
    if _plain(value) == _plain(default):
        return True
    return value in ([], {}, "", None) and default in (None, "none", "", "auto")


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def _print_lines(sections: list[Section], lines: list[str], remarks: list[str]) -> None:
    for title, pairs in sections:
        print(f"# {title}")
        for name, value in pairs:
            print(f"{name}: {value}")
    if lines:
        print("# batch")
        print("\n".join(lines))
    for remark in remarks:
        print(f"note: {remark}")


def _print_tables(sections: list[Section], lines: list[str], remarks: list[str]) -> None:
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
    for remark in remarks:
        console.print(f"note: {remark}", style="yellow", markup=False, highlight=False)
