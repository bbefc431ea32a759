"""
What a card says of a run's diagnosis.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from .card_text import Section, as_code, escaped


class Found(Protocol):
    """A fault of a run, as `monitor.finding` describes it."""

    @property
    def rule(self) -> str: ...
    @property
    def onset(self) -> int: ...
    @property
    def message(self) -> str: ...
    @property
    def settings(self) -> Sequence[str]: ...
    @property
    def advice(self) -> str: ...


@runtime_checkable
class Diagnoses(Protocol):
    """A callback that looks for faults."""

    findings: tuple[Any, ...]


def findings_section(findings: Iterable[Found]) -> Section:
    """Returns what was found, or that nothing was."""
    lines = [
        f"- {as_code(one.rule)}, since step {int(one.onset)}: {escaped(one.message)} {escaped(one.advice)}"
        + (f" ({', '.join(as_code(setting) for setting in one.settings)})" if one.settings else "")
        for one in findings
    ]
    return Section("Findings", "\n".join(lines) or "The diagnosis of this run found nothing.")


def diagnosed(callbacks: Iterable[Any]) -> Section | None:
    """Returns what the diagnoses among callbacks found, `None` where there is none."""
    diagnoses = [one for one in callbacks if isinstance(one, Diagnoses)]
    if not diagnoses:
        return None
    return findings_section(finding for one in diagnoses for finding in one.findings)
