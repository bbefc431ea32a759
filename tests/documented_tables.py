"""
The tables of `docs/ablation.md`, made from the archives of reports in `docs/ablation/`.

    python tests/documented_tables.py

prints them as the page has them; `test_documented_tables.py` holds the page to them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


DOCS = Path(__file__).parent.parent / "docs"
REGIMES = ("default", "off-policy", "truncation", "punishment", "lengths", "degenerate")


def archives() -> dict[str, dict[str, Any]]:
    """Returns the content of each archive by regime."""
    return {name: json.loads((DOCS / "ablation" / f"{name}.json").read_text()) for name in REGIMES}


def tables() -> Iterator[tuple[str, str]]:
    """Yields the title and the Markdown of each table."""
    for regime, archive in archives().items():
        for table in archive["sections"][0]["tables"]:
            yield f"{regime}, {table['design']}, matched by {table['match']}", markdown(table)


def markdown(table: dict[str, Any]) -> str:
    """Returns a table: accuracy in percent, differences in points, with intervals over seeds."""
    kind = "previous" if table["is_cumulative"] else "first"
    lines = [
        f"| row | accuracy | minus the {kind} | wins | p (Holm) | completions | steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table["rows"]:
        found, scores = row[f"to_{kind}"], row["statistics"]
        cells = [row["name"], f"{_percent(scores['mean'])} {_interval(scores['over_seeds'], _percent)}"]
        cells += ["", "", ""] if found is None else _difference(found)
        cells += [f"{row['spent'][name]['mean']:,.0f}" for name in ("completions", "steps")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _difference(found: dict[str, Any]) -> list[str]:
    between = _interval(found["over_seeds"], _points)
    verdict = f"**{_points(found['mean'])}** {between}" if found["is_resolved"] else ""
    return [
        verdict or f"{_points(found['mean'])} {between}, not resolved",
        f"{found['wins']} of {found['seeds']}",
        f"{found['p_holm']:.2f}" if found["p_holm"] is not None else "–",
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _interval(found: dict[str, float] | None, reader) -> str:
    return "" if found is None else f"[{reader(found['low'])}, {reader(found['high'])}]"


if __name__ == "__main__":
    for title, text in tables():
        print(f"{title}\n\n{text}\n")  # noqa: T201
