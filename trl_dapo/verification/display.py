"""
Prints a report: a table on a terminal, one line per finding elsewhere.

Messages quote data sets and completions, so nothing in them is taken for markup or for control characters.
"""

import sys
from typing import TextIO

from .findings import Finding, Report


STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def print_report(report: Report, file: TextIO | None = None) -> None:
    """Prints the report to `file`, by default standard output."""
    file = sys.stdout if file is None else file
    if file.isatty():
        _print_table(report, file)
    else:
        print("\n".join(printable(line) for line in str(report).splitlines()), file=file)


def printable(text: str) -> str:
    """Returns the text with every control character escaped: data could move the cursor of a terminal."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _print_table(report: Report, file: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file)
    table = Table("check", "", "what was found", title=f"trl-dapo verify {report.trainer}", title_justify="left")
    for finding in report.findings:
        table.add_row(Text(finding.name), Text(finding.status, style=STYLES[finding.status]), Text(_found(finding)))
    console.print(table)
    for note in report.notes:
        console.print(Text(f"note: {printable(note)}", style="yellow"))
    console.print(Text(report.summary(), style=STYLES[report.status]))


def _found(finding: Finding) -> str:
    fix = "" if finding.setting is None else f"\nSet: {printable(finding.setting)}"
    return f"{printable(finding.message)}{fix}"
