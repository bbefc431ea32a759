"""The notebooks are those of `cells.md`; the one for the CPU runs as it is, and the one for a T4 on a tiny model."""

import ast
import json
import re
import shlex
from pathlib import Path

import matplotlib
import pytest

from notebooks import make_notebooks
from tiny import conversational_dataset, save_tiny_model, tiny_tokenizer
from trl_dapo.cli.main import main
from trl_dapo.planning.cards import GIB, card


FOLDER = Path(make_notebooks.__file__).parent
SMALL = {"max_steps": 2, "logging_steps": 1, "updates_per_rollout": 2, "warmup_steps": 1}


def code(name: str) -> list[str]:
    """The code cells of a notebook, read from its file."""
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def defining(name: str, variable: str) -> int:
    """Place of the code cell that sets a variable."""
    (place,) = [i for i, cell in enumerate(code(name)) if re.search(rf"^{variable} = ", cell, re.M)]
    return place


def run_cell(cell: str, names: dict) -> object:
    """Runs a cell as a notebook does, and returns its last value: `%pip` installs nothing, and `!` is the command."""
    python = []
    for line in cell.replace("\\\n", " ").splitlines():
        if line.startswith("!trl-dapo "):
            # Names in braces are Python's
            line = f"assert command(f{line.removeprefix('!trl-dapo ')!r}) == 0"
        python.append("" if line.startswith("%pip ") else line)
    tree = ast.parse("\n".join(python))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    names["command"] = lambda words: main(shlex.split(words))
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", make_notebooks.NAMES)
def test_a_notebook_is_that_of_the_cells(name):
    assert (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8") == make_notebooks.notebook(name), (
        "run python examples/notebooks/make_notebooks.py"
    )


@pytest.mark.parametrize("name", make_notebooks.NAMES)
def test_a_notebook_is_one_of_format_4_without_outputs(name):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert 12 <= len(notebook["cells"]) <= 20
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        empty = {"execution_count": None, "outputs": []} if cell["cell_type"] == "code" else {}
        assert {key: cell[key] for key in empty} == empty
        assert set(cell) == {"cell_type", "id", "metadata", "source", *empty}
        # A fence left in the text would be code that does not run
        assert "```" not in "".join(cell["source"])


def test_an_unknown_owner_of_cells_is_refused(tmp_path, monkeypatch):
    (tmp_path / "cells.md").write_text("<!-- dapo_on_a_t5 -->\n\nText\n")
    monkeypatch.setattr(make_notebooks, "HERE", tmp_path)
    with pytest.raises(ValueError, match="dapo_on_a_t5"):
        make_notebooks.cells("dapo_on_a_t4")


def test_the_notebook_for_the_cpu_runs(capsys):
    name, names, shown = "dapo_in_one_notebook", {}, []
    for place, cell in enumerate(code(name)):
        shown.append(run_cell(cell, names))
        if place == defining(name, "problems"):
            names["held_out"] = names["held_out"].select(range(8))
        if place == defining(name, "SETTINGS"):
            names["SETTINGS"] |= SMALL
    # The reward's own example: right, right, wrong
    assert [1.0, 1.0, 0.0] in shown
    summary, accuracy = (one for one in shown if hasattr(one, "columns"))
    assert list(summary.columns) == ["DAPO", "without dynamic sampling"]
    # Two updates of 16 rows, in groups of 4
    assert summary.loc["informative groups per batch", "DAPO"] == 8
    assert list(accuracy.index) == ["start", "DAPO", "without dynamic sampling"]
    assert names["without"].args.dynamic_sampling is False
    out = capsys.readouterr().out
    assert "findings" in out
    assert "done: step 2 of 2" in out


@pytest.mark.slow
def test_the_notebook_for_the_cpu_shows_what_its_text_says():
    names, shown = {}, []
    for cell in code("dapo_in_one_notebook"):
        shown.append(run_cell(cell, names))
    summary, accuracy = (one for one in shown if hasattr(one, "columns"))
    full, part = summary.loc["informative groups per batch"]
    assert full == 32
    assert part < 0.75 * full
    more, fewer = summary.loc["completions generated"]
    assert more > fewer
    # At this many updates the intervals are apart: start, without, with
    low = {row: float(one.split(" to ")[0]) for row, one in accuracy["95 % interval"].items()}
    high = {row: float(one.split(" to ")[1]) for row, one in accuracy["95 % interval"].items()}
    assert high["start"] < low["without dynamic sampling"]
    assert high["without dynamic sampling"] < low["DAPO"]


def parity(completions, **columns):
    """A verdict that varies with any model: whether the number of letters is odd."""
    return [float(sum(map(str.isalpha, completion[0]["content"])) % 2) for completion in completions]


def test_the_notebook_for_a_t4_runs_on_a_tiny_model(tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    # Folders come before the names of the Hub
    save_tiny_model(tmp_path / "Qwen" / "Qwen2.5-1.5B-Instruct", tiny_tokenizer())
    for split in ("train", "test"):
        conversational_dataset(64).rename_column("answer", "solution").to_json(tmp_path / "gsm8k" / f"{split}.jsonl")
    name, names = "dapo_on_a_t4", {}
    size = {"max_completion_length": 8, "optim": "adamw_torch", "gradient_accumulation_steps": 1}
    here = {"use_cpu": True, "bf16": False, "num_generations": 4}
    for place, cell in enumerate(code(name)):
        value = run_cell(cell, names)
        if place == defining(name, "problems"):
            assert value == [1.0, 0.0]
            names["reward"], names["held_out"] = parity, names["held_out"].select(range(8))
        if place == defining(name, "SETTINGS"):
            names["SETTINGS"] |= SMALL | size | here
    assert names["dapo"].model.is_loaded_in_4bit
    assert (tmp_path / "served" / "config.json").is_file()
    out = capsys.readouterr().out
    assert "before: there is no GPU" in out
    assert "t4: " in out


def test_the_settings_for_a_t4_fit_by_the_plan(capsys):
    # Without a folder of that name, the plan knows the model's sizes
    name = "dapo_on_a_t4"
    names = {"MODEL": "Qwen/Qwen2.5-1.5B-Instruct"}
    run_cell(code(name)[defining(name, "SETTINGS")], names)
    out = capsys.readouterr().out
    needs = float(re.search(r"fits: needs ([\d.]+) GiB", out)[1])
    assert needs * GIB < 0.5 * card("t4").usable
    # What is planned is what is trained: every setting is a flag, and float16 is what `card_dtype` finds on a T4
    assert all(f"--{field} {value}" in names["flags"] for field, value in names["SETTINGS"].items())
    assert "--fp16 true --dtype float16" in code(name)[defining(name, "SETTINGS")]
