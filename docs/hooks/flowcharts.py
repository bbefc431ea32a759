"""
Shows a Mermaid flowchart as a table when the site is built: drawing one takes a script of megabytes from elsewhere.
GitHub draws the chart itself.
"""

import re
from itertools import pairwise


CHART = re.compile(r"^```mermaid\nflowchart \w+\n(.*?)^```$", re.S | re.M)
NODE = re.compile(r'(\w+)(?:\[\(?"?([^"\]]+?)"?\)?\])?')


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replaces each flowchart of a page by a table of its arrows."""
    return CHART.sub(lambda found: table(found[1]), markdown)


def table(chart: str) -> str:
    """
    Returns a table with one row for each node that an arrow leaves.

    Args:
        chart (`str`):
            Lines such as `a["a: what it is"] --> b & c`. The colon splits a label into a name and a description.

    Raises:
        `ValueError`: For a line of another form.
    """
    labels: dict[str, str] = {}
    arrows: dict[str, list[str]] = {}
    for line in filter(None, map(str.strip, chart.splitlines())):
        stages = [[_node(text, labels, line) for text in stage.split(" & ")] for stage in line.split(" --> ")]
        for sources, targets in pairwise(stages):
            for source in sources:
                arrows.setdefault(source, []).extend(targets)
    rows = [
        f"| {_named(labels.get(node, node))} | {', '.join(f'`{one}`' for one in targets)} |"
        for node, targets in arrows.items()
    ]
    return "\n".join(["| folder | what it is | imports |", "|---|---|---|", *rows])


def _node(text: str, labels: dict[str, str], line: str) -> str:
    found = NODE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{line!r} is not of the form 'a[\"label\"] --> b & c'.")
    if found[2]:
        labels[found[1]] = found[2].strip('(")')
    return found[1]


def _named(label: str) -> str:
    name, _, text = label.partition(": ")
    return f"`{name}` | {text}"
