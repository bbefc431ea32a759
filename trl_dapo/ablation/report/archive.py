"""
`results.json` of a report, schema 1: all that the report says, and the scores that it says it of.

A reader needs no other file. It has no completions, and curves as they are drawn.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..results import DataSet, RunResult
from ..statistics import LEVEL
from .checks import Check, manipulation_of
from .curve_figures import CurveSet
from .sections import Section
from .settings import described, differing, settings_of
from .tables import Table, TableRow


SCHEMA, KIND = 1, "trl_dapo.ablation.report"
ARCHIVE = "results.json"


class ArchiveError(ValueError):
    """A file is no `results.json` of a report, and the message says why."""


def archive(
    title: str,
    sections: Sequence[Section],
    curves: Mapping[tuple[str | None, str], Sequence[CurveSet]],
    notes: Sequence[str],
    left_out: Sequence[str],
) -> dict[str, Any]:
    """
    Returns the content of `results.json`.

    Args:
        title (`str`):
            Title of the report.
        sections (`Sequence[Section]`):
            The sections.
        curves (`dict[tuple[str | None, str], Sequence[CurveSet]]`):
            What is drawn, by regime and design.
        notes, left_out (`Sequence[str]`):
            Lines of the report.
    """
    questions: dict[tuple[str, ...], str] = {}
    content = {
        "schema": SCHEMA,
        "kind": KIND,
        "title": title,
        "level": LEVEL,
        "notes": list(notes),
        "left_out": list(left_out),
        "sections": [_section(section, curves, questions) for section in sections],
    }
    return content | {"questions": {name: list(ids) for ids, name in questions.items()}}


def _section(
    section: Section, curves: Mapping[tuple[str | None, str], Sequence[CurveSet]], questions: dict
) -> dict[str, Any]:
    settings = settings_of(section.runs)
    return {
        "regime": section.regime,
        "problems": list(section.problems),
        "differs": differing(section.runs),
        "environment": described(run.environment for run in section.runs),
        "checkpoint": described(run.checkpoint for run in section.runs),
        "settings": {"shared": dict(settings.shared), "rows": {key: dict(own) for key, own in settings.own.items()}},
        "manipulation": {
            key: manipulation_of([run for run in section.runs if run.row.key == key])
            for key in dict.fromkeys(run.row.key for run in section.runs)
        },
        "tables": [_table(*one) for one in zip(section.tables, section.checks, strict=True)],
        "curves": {
            design.name: [_curves(one) for one in curves.get((section.regime, design.name), ())]
            for design in section.designs
        },
        "runs": [_run(run, questions) for run in section.runs],
    }


def _table(table: Table, checks: Sequence[Check]) -> dict[str, Any]:
    return {
        "design": table.design.name,
        "is_cumulative": table.design.is_cumulative,
        "match": table.match,
        "data_set": table.data_set,
        "scorers": list(table.scorers),
        "questions": len(table.questions),
        "samples": list(table.samples),
        "problems": list(table.problems),
        "rows": [_row(row) for row in table.rows],
        "checks": [asdict(check) for check in checks],
    }


def _row(row: TableRow) -> dict[str, Any]:
    content = asdict(row)
    content["name"], content["changes"] = row.row.name, dict(row.row.changes)
    for name in ("to_previous", "to_first", "to_last"):
        if content[name] is not None:
            content[name]["is_resolved"] = getattr(row, name).is_resolved
    del content["row"]
    return content


def _curves(one: CurveSet) -> dict[str, Any]:
    rows = {
        name: {
            "seeds": curve.seeds,
            **{field: [_short(value) for value in getattr(curve, field)] for field in ("x", "mean", "low", "high")},
        }
        for name, curve in one.rows.items()
    }
    return {"axis": one.axis, "metric": one.metric, "rows": rows}


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _run(run: RunResult, questions: dict[tuple[str, ...], str]) -> dict[str, Any]:
    ends = {
        match: {
            **{name: getattr(end, name) for name in ("budget", "steps", "completions", "seconds")},
            "data_sets": {name: _data_set(one, questions) for name, one in end.data_sets.items()},
        }
        for match, end in run.ends.items()
    }
    return {"key": run.row.key, "name": run.row.name, "seed": run.seed, "start": run.start, "ends": ends}


def _data_set(one: DataSet, questions: dict[tuple[str, ...], str]) -> dict[str, Any]:
    ids = tuple(question.id for question in one.questions)
    samples = [question.samples for question in one.questions]
    return {
        "scorer": one.scorer,
        "truncated": one.truncated,
        "mean_length": one.mean_length,
        # Runs share their questions, which are listed once
        "questions": questions.setdefault(ids, f"q{len(questions)}"),
        "samples": samples[0] if len(set(samples)) == 1 else samples,
        "right": [question.right for question in one.questions],
    }


def read_archive(folder: Path) -> dict[str, Any]:
    """
    Returns the content of a report's `results.json`.

    Raises:
        [`ArchiveError`]: If there is none, or it is another program's.
    """
    path = folder / ARCHIVE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArchiveError(f"{folder} has no {ARCHIVE}. Name the folder of a report.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArchiveError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ArchiveError(f"{path} is no report's: `kind` is not {KIND!r}.")
    if content.get("schema") != SCHEMA:
        raise ArchiveError(f"{path}: `schema` is {content.get('schema')!r}; this version reads {SCHEMA}.")
    return content
