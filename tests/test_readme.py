"""What README and docs name exists: targets, options, links, metrics. `test_docs_blocks.py` runs their blocks."""

import re
from pathlib import Path

import pytest

from trl_dapo.cli.demo import make_parser


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def test_the_example_of_an_evaluation_during_training_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (script,) = blocks((ROOT / "docs" / "evaluation.md").read_text(), "python")
    names = {}
    exec(compile(script, "evaluation.md", "exec"), names)
    assert sorted(names["accuracy"]) == [0, 2, 4]
    assert all(0.1 < share < 0.9 for share in names["accuracy"].values())
    written = sorted(path.name for path in (tmp_path / "arena-run" / "evaluations").iterdir())
    assert written == ["step-0", "step-2", "step-4"]


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCS], ids=lambda path: path.name)
def test_every_python_block_is_python(path):
    for block in blocks(path.read_text(), "python"):
        # Lines of a console are doctest's, not a script's
        code = "\n".join(line[4:] for line in block.splitlines() if line[:3] in (">>>", "..."))
        compile(code if block.startswith(">>>") else block, path.name, "exec")


def test_it_is_read_in_two_minutes():
    assert len(README.splitlines()) <= 130
    assert len(README.split()) <= 900


def test_commands_of_make_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"demo", "test"} <= named <= targets


def test_options_of_the_demo_exist():
    parser = make_parser()
    known = {option for action in parser._actions for option in action.option_strings}
    for text in (README, *(path.read_text() for path in DOCS)):
        for command in re.findall(r"trl-dapo demo([^\n`#]*)", text):
            assert set(re.findall(r"--[a-z_]+", command)) <= known


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCS], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_toggles_and_metrics_are_in_the_docs(tmp_path):
    from trl_dapo.dapo.config import TOGGLES

    configuration = (ROOT / "docs" / "configuration.md").read_text()
    assert all(f"`{toggle}`" in configuration and f"`{toggle}`" in README for toggle in TOGGLES)
    metrics = (ROOT / "docs" / "metrics.md").read_text()
    source = "".join(path.read_text() for path in (ROOT / "trl_dapo").rglob("*.py"))
    keys = set(re.findall(r'"((?:dapo|packing)/[a-z_]+)"', source))
    assert len(keys) >= 15
    assert all(f"`{key}`" in metrics for key in keys)
