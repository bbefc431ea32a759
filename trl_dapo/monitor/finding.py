"""
What a diagnosis finds: one fault of a run, since when, and what to change.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..host.whole_files import write_whole


FILE = "findings.json"
VERSION = 1


@dataclass(frozen=True)
class Finding:
    """
    One fault of a run.

    Args:
        rule (`str`):
            Name of the rule that found it, such as `"entropy_collapse"`.
        onset (`int`):
            Step at which it began.
        step (`int`):
            Step at which it was told.
        message (`str`):
            One sentence with its numbers.
        numbers (`dict[str, float]`):
            What it was told from.
        settings (`tuple[str, ...]`):
            The one or two settings to change, each as `name=value`; empty where none helps.
        advice (`str`):
            One sentence: what to change and why.
        reference (`str`):
            A paper's section, or a page of the documentation.
    """

    rule: str
    onset: int
    step: int
    message: str
    numbers: dict[str, float]
    settings: tuple[str, ...]
    advice: str
    reference: str


def write_findings(folder: Path, findings: Iterable[Finding]) -> None:
    """Writes the findings of a run into its folder, whole or not at all."""
    values = {"version": VERSION, "findings": [asdict(one) for one in findings]}
    write_whole(folder / FILE, json.dumps(values, indent=1, allow_nan=False))


def read_findings(folder: Path) -> tuple[Finding, ...]:
    """
    Returns the findings that a run has written, none where it has written no file.

    Raises:
        `ValueError`: If the file is not one of these.
    """
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["version"] != VERSION:
            raise ValueError(f"version {values['version']}")
        return tuple(_finding(one) for one in values["findings"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as the findings of a run: {error}.") from error


def _finding(values: dict[str, Any]) -> Finding:
    made: dict[str, Any] = {**values, "settings": tuple(values["settings"])}
    return Finding(**made)
