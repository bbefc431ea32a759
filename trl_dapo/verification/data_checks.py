"""
The rows: answers that are missing, rows that are copies, pairs that teach nothing.
"""

import json
from collections import Counter
from typing import Any

from .answers import ALWAYS_GIVEN, ANSWER_COLUMNS, answer_column, required_columns
from .findings import Finding, skipped
from .reward_calls import is_model
from .setup import Sample, Setup


ANSWERS, COPIES, PAIRS = "answers", "copies", "pairs"
# The hub's DAPO-Math-17k has each problem about a hundred times; a few copies may be there on purpose
MANY_COPIES = 5.0


def check_data(setup: Setup) -> list[Finding]:
    """Returns the findings about the rows."""
    if not setup.sample.rows:
        names = (ANSWERS, COPIES) if setup.generates else (COPIES, PAIRS)
        return [skipped(name, setup.sample.missing) for name in names]
    if setup.generates:
        return [_answers(setup), _copies(setup.sample, ("prompt",))]
    return [_copies(setup.sample, ("prompt", "chosen", "rejected")), _pairs(setup.sample)]


def copies_of_a_row(keys: list[str], total: int) -> float:
    """
    Returns how many copies of a row there are, on average over the rows of the dataset.

    With `n_i` copies of content i it is `sum(n_i^2) / sum(n_i)`. From a draw of m of N rows without replacement, it is
    estimated by the pairs of copies in it: `1 + (N - 1) * pairs / (m * (m - 1) / 2)`, which for m = N is the same.

    Args:
        keys (`list[str]`):
            Content of each row that was drawn.
        total (`int`):
            Rows of the dataset, N.
    """
    drawn = len(keys)
    if drawn < 2:
        return 1.0
    pairs = sum(count * (count - 1) for count in Counter(keys).values()) / 2
    return 1 + (total - 1) * pairs / (drawn * (drawn - 1) / 2)


def _answers(setup: Setup) -> Finding:
    rows = setup.sample.rows
    functions = [one for one in setup.functions if not is_model(one)]
    needed = {name for one in functions for name in required_columns(one)}
    absent = sorted(needed - set(rows[0]) - set(ALWAYS_GIVEN))
    if absent:
        message = f"a reward function needs the column {absent[0]!r}; the rows have {', '.join(rows[0])}"
        return Finding(ANSWERS, "fail", message, {"missing": float(len(rows))}, f"rename a column to {absent[0]}")
    column = answer_column(setup)
    columns = sorted(needed | ({column} if column else set()))
    if not columns:
        return skipped(ANSWERS, f"no reward function needs a column, and there is none of {', '.join(ANSWER_COLUMNS)}")
    nested = next(
        ((name, one) for name in columns for one in _values(rows, name) if isinstance(one, dict | list)), None
    )
    if nested is not None and nested[0] in ANSWER_COLUMNS:
        return _nested(*nested)
    empty = [place for place, row in enumerate(rows) if any(_is_empty(row.get(name)) for name in columns)]
    numbers = {"missing": float(len(empty)), "rows": float(len(rows))}
    if not empty:
        return Finding(ANSWERS, "pass", f"none of {len(rows)} rows lacks {', '.join(columns)}", numbers)
    return Finding(
        ANSWERS,
        "fail" if len(empty) == len(rows) else "warn",
        f"{len(empty)} of {len(rows)} rows have nothing in {', '.join(columns)}, the first of them row {empty[0]}",
        numbers,
        "remove these rows: what no answer is compared with has no reward",
    )


def _nested(name: str, value: Any) -> Finding:
    kind = type(value).__name__
    inside = next((key for key in value if key in ("ground_truth", *ANSWER_COLUMNS)), None)
    path = f"{name}.{inside or next(iter(value), '<key>')}" if isinstance(value, dict) else f"{name}.0"
    message = f"the column {name} holds a {kind}, and reward functions compare with text"
    return Finding(ANSWERS, "fail", message, setting=f"answer_column: {path}")


def _copies(sample: Sample, columns: tuple[str, ...]) -> Finding:
    if sample.total is None:
        return skipped(COPIES, "a stream is not read to its end")
    keys = [json.dumps([row.get(name) for name in columns], default=str, sort_keys=True) for row in sample.rows]
    copies = copies_of_a_row(keys, sample.total)
    numbers = {"copies": copies, "rows": float(sample.total), "different": float(len(set(keys)))}
    message = f"a row is there {copies:.1f} times on average, of {sample.total} rows"
    if copies < MANY_COPIES:
        return Finding(COPIES, "pass", message, numbers)
    return Finding(
        COPIES,
        "warn",
        f"{message}: one epoch is {copies:.0f}, and learning rates and steps per epoch mean something else",
        numbers,
        "dataset_name: one without copies (by the name dapo-math-17k, they are removed)",
    )


def _pairs(sample: Sample) -> Finding:
    if "chosen" not in sample.rows[0] or "rejected" not in sample.rows[0]:
        return skipped(PAIRS, "the rows are tokens already")
    alike = sum(row["chosen"] == row["rejected"] for row in sample.rows)
    numbers = {"identical": float(alike), "rows": float(len(sample.rows))}
    message = f"chosen and rejected are identical in {alike} of {len(sample.rows)} pairs"
    if not alike:
        return Finding(PAIRS, "pass", message, numbers)
    status = "fail" if alike == len(sample.rows) else "warn"
    return Finding(PAIRS, status, f"{message}, which teach nothing", numbers, "remove these pairs")


def _values(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row.get(name) for row in rows]


def _is_empty(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, str | list | dict) and not value)
        or (isinstance(value, str) and not value.strip())
    )
