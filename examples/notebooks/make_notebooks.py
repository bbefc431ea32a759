"""
Writes the notebooks of this folder from `cells.md`: `python examples/notebooks/make_notebooks.py`.

Text and code of that file become cells. A comment says to which notebook the following ones belong, and `both` are
shared, so that what a test runs on a CPU is what runs on a T4.
"""

import json
import re
from pathlib import Path


HERE = Path(__file__).parent
ARENA, T4 = NAMES = "dapo_in_one_notebook", "dapo_on_a_t4"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
COLAB = {"accelerator": "GPU", "colab": {"gpuType": "T4", "provenance": []}}


def cells(name: str) -> list[tuple[str, str]]:
    """Returns kind (`"markdown"` or `"code"`) and source of each cell of a notebook."""
    _, *parts = re.split(r"^<!-- (\w+) -->$", (HERE / "cells.md").read_text(encoding="utf-8"), flags=re.M)
    found = []
    for owner, part in zip(parts[::2], parts[1::2], strict=True):
        if owner not in (*NAMES, "both"):
            raise ValueError(f"cells.md has cells for {owner!r}, which is none of {', '.join(NAMES)} and both.")
        if owner in (name, "both"):
            # Text and code take turns; a piece of text between two blocks may be empty
            pieces = re.split(r"^```python\n(.*?)^```$", part, flags=re.M | re.S)
            found += [("code" if place % 2 else "markdown", piece.strip()) for place, piece in enumerate(pieces)]
    return [(kind, source) for kind, source in found if source]


def notebook(name: str) -> str:
    """Returns a notebook as the text of its file: format 4.5, without outputs."""
    made = []
    for number, (kind, source) in enumerate(cells(name), start=1):
        cell = {"cell_type": kind, "id": f"cell-{number:02}", "metadata": {}}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        made.append(cell | {"source": source.splitlines(keepends=True)})
    metadata = METADATA | (COLAB if name == T4 else {})
    whole = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name in NAMES:
        (HERE / f"{name}.ipynb").write_text(notebook(name), encoding="utf-8")
        print(f"{name}.ipynb: {len(cells(name))} cells")
