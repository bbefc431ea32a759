"""
What a check found, and the report of all of them.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


Status = Literal["pass", "warn", "fail", "skipped"]
SEVERITY: tuple[Status, ...] = ("skipped", "pass", "warn", "fail")
STATUSES: tuple[Status, ...] = ("pass", "warn", "fail", "skipped")


@dataclass(frozen=True)
class Finding:
    """
    What one check found.

    Args:
        name (`str`):
            Name of the check, as in the documentation.
        status (`str`):
            `"pass"`, `"warn"`, `"fail"` or `"skipped"`.
        message (`str`):
            What was measured, in one line; of a skipped check, why.
        numbers (`dict[str, float]`, *optional*):
            What the status was decided from.
        setting (`str`, *optional*):
            The one setting to change, with a value.
        details (`dict[str, Any]`, *optional*):
            More than fits into a line, for `--json`: plain values.
    """

    name: str
    status: Status
    message: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    setting: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"`status` must be one of {list(STATUSES)}, got {self.status!r}.")


def skipped(name: str, why: str) -> Finding:
    """Returns the finding of a check that was not made."""
    return Finding(name, "skipped", why)


@dataclass(frozen=True)
class Report:
    """
    All findings of a certificate.

    Args:
        trainer (`str`):
            What was verified, e.g. `"dapo"`.
        findings (`tuple[Finding, ...]`):
            In the order of the checks.
        notes (`tuple[str, ...]`, *optional*):
            What was set aside to verify on this machine.
        seconds (`float`, *optional*):
            How long it took.
    """

    trainer: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def status(self) -> Status:
        """`"fail"` if any check failed, else `"warn"` if any warned, else `"pass"`."""
        found = {finding.status for finding in self.findings}
        return "fail" if "fail" in found else "warn" if "warn" in found else "pass"

    @property
    def exit_code(self) -> int:
        """1 if any check failed, else 0."""
        return int(self.status == "fail")

    def finding(self, name: str) -> Finding:
        """Returns the finding of that name, the worst if there are several; raises `KeyError` if there is none."""
        found = [finding for finding in self.findings if finding.name == name]
        if not found:
            raise KeyError(name)
        return max(found, key=lambda finding: SEVERITY.index(finding.status))

    def summary(self) -> str:
        """Returns one line: how many checks passed, warned, failed and were skipped."""
        counts = Counter(finding.status for finding in self.findings)
        words = {"pass": "passed", "warn": "warned", "fail": "failed", "skipped": "skipped"}
        counted = ", ".join(f"{counts[status]} {words[status]}" for status in STATUSES)
        return f"{self.status}: {counted}, in {self.seconds:.0f} s"

    def as_json(self) -> str:
        """Returns the report as JSON text; numbers that are not finite are null."""
        content = {**asdict(self), "status": self.status, "exit_code": self.exit_code}
        return json.dumps(_plain(content), indent=2, allow_nan=False)

    def __str__(self) -> str:
        lines = [_line(finding) for finding in self.findings]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), self.summary()])


def _line(finding: Finding) -> str:
    fix = "" if finding.setting is None else f" Set: {finding.setting}"
    return " ".join(f"{finding.status:<7} {finding.name}: {finding.message}{fix}".split("\n"))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
