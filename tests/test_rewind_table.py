"""The table of futures on a terminal: names stay whole, and no table is wider than the terminal."""

import io
import re

import pytest
from rich.console import Console

from trl_dapo.cli.rewind_table import broken, findings_of, tables
from trl_dapo.rewind.futures import METRICS, Row


NAMES = [line[0] for line in METRICS]
CHANGES = ["epsilon_high=0.2", "learning_rate=1e-06, beta=0.0", "max_completion_length=10", "dynamic_sampling=true"]


def row(name: str, findings=(), failure: str = "") -> Row:
    # Widths of a value and its mean: 8.75e-07 (8.75e-07) is the widest there is
    values = (None,) * len(NAMES) if failure else tuple(-0.598 if at % 2 else 8.75e-7 for at in range(len(NAMES)))
    return Row(name, values, values, findings, failure)


def drawn(rows: list[Row], width: int) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    for table in tables("Futures of step 3", rows, NAMES, width):
        console.print(table)
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 160, 400])
@pytest.mark.parametrize("others", [0, 1, 4])
def test_names_of_metrics_stay_whole_and_no_line_is_too_wide(width, others):
    text = drawn([row("as it was"), *map(row, CHANGES[:others])], width)
    assert max(map(len, text.splitlines())) <= width
    found = [re.split(r"\s*│\s*", line)[1] for line in text.splitlines() if line.startswith("│")]
    assert {one for one in found if one} == {*NAMES, "findings"}


def test_each_table_begins_with_the_run_as_it_was():
    rows = [row("as it was"), *map(row, CHANGES)]
    assert drawn(rows, 80).count("as it was") == 2
    assert drawn(rows, 160).count("as it was") == 1
    for name in ("epsilon_high", "1e-06", "beta=0.0", "true"):
        assert drawn(rows, 80).count(name) == 1


def test_values_stand_beside_their_means_where_there_is_room():
    assert "│ -0.598 (-0.598) " in drawn([row("as it was"), row("epsilon=0.1")], 160)
    lines = drawn([row("as it was"), *map(row, CHANGES)], 80)
    assert "│ -0.598 " in lines
    assert "│ (-0.598) " in lines


def test_findings_are_counted_in_the_table_and_told_below():
    rows = [
        row("as it was", ("kl_runaway (step 4)",)),
        row("epsilon=0.1"),
        row("beta=1", None, "no room (exit code 2)"),
    ]
    last = next(line for line in drawn(rows, 160).splitlines() if "findings" in line)
    assert re.split(r"\s*│\s*", last)[1:-1] == ["findings", "1", "none", "failed"]
    assert findings_of(rows) == ["as it was: kl_runaway (step 4)", "beta=1: failed: no room (exit code 2)"]
    unknown = drawn([row("as it was", None)], 80)
    assert re.search(r"findings +│ – ", unknown)


def test_a_name_is_broken_between_changes_and_where_words_end():
    assert broken("as it was", 12) == "as it was"
    assert broken("epsilon=0.1, beta=0", 40) == "epsilon=0.1,\nbeta=0"
    assert broken("max_completion_length=10", 16) == "max_completion_\nlength=10"
    assert broken("__=_", 2) == "__\n=_"
