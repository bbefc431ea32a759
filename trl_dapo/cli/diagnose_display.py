"""
How `trl-dapo diagnose` shows findings: a table on a terminal, plain lines elsewhere.

Names in a log are whatever a reward function is called, so nothing in them is taken for markup or control characters.
"""

import sys

from trl_dapo.monitor.diagnosis import Diagnosis
from trl_dapo.monitor.finding import Finding


def show(diagnosis: Diagnosis, log: str, last_step: int) -> None:
    """Prints the findings of a log, what could not be decided, and what may look wrong and is not."""
    if sys.stdout.isatty():
        _show_table(diagnosis.findings)
    else:
        for finding in diagnosis.findings:
            print(f"{_where(finding)}: {finding.rule}: {finding.message} {_change(finding)}".rstrip())
    number = len(diagnosis.findings) or "no"
    print(f"{number} finding{'' if number == 1 else 's'} in {printable(log)}, up to step {last_step}")
    for note in diagnosis.notes():
        print(f"note: {printable(note)}")
    for rule, reason in diagnosis.undecided().items():
        print(f"not decided: {rule}: {printable(reason)}")


def printable(text: str) -> str:
    """Returns a text on one line, with every control character escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _where(finding: Finding) -> str:
    return f"step {finding.step}" if finding.onset == finding.step else f"step {finding.step}, since {finding.onset}"


def _change(finding: Finding) -> str:
    settings = f"Change {' or '.join(printable(one) for one in finding.settings)}. " if finding.settings else ""
    return f"{settings}{finding.advice} ({finding.reference})"


def _show_table(findings: tuple[Finding, ...]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not findings:
        return
    table = Table("since", "told", "rule", "what was found, and what to change", show_lines=True)
    for finding in findings:
        found = Text(f"{printable(finding.message)}\n")
        found.append(_change(finding), style="dim")
        table.add_row(str(finding.onset), str(finding.step), Text(finding.rule, style="bold red"), found)
    Console().print(table)
