"""`examples/README.md` names every example, and its commands are ones that the programs take."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.launch import plan as checked


FOLDER = Path(__file__).parents[1] / "examples"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
LINKS = re.findall(r"\]\(([^)]+)\)", README)
COMMAND = re.compile(r"`trl-dapo (\w+ --config examples/[^`]+)`")
TRAINING = sorted({tuple(shlex.split(line)) for line in COMMAND.findall(README)})


def test_every_example_is_in_a_table():
    files = {
        path.relative_to(FOLDER).as_posix()
        for path in FOLDER.rglob("*")
        if path.suffix in (".py", ".yaml", ".ipynb") and "configs/" not in path.relative_to(FOLDER).as_posix()
    }
    launched = {f"accelerate_configs/{path.name}" for path in (FOLDER / "accelerate_configs").iterdir()}
    assert files | launched <= set(LINKS)


@pytest.mark.parametrize("target", LINKS)
def test_links_lead_somewhere(target):
    assert (FOLDER / target).exists()


@pytest.mark.parametrize("words", TRAINING, ids=" ".join)
def test_commands_of_the_table_are_read(words, monkeypatch):
    monkeypatch.chdir(FOLDER.parent)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert checked(COMMANDS[words[0]], [*words[1:], "--dry_run", "true"], "trl-dapo", []).arguments


def test_the_skill_is_copied(tmp_path):
    (copy,) = [block for block in re.findall(r"```bash\n(.*?)```", README, re.S) if ".agents" in block]
    # `python` is the one of the environment, activated or not
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euc", copy], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".agents" / "skills" / "dapo-training" / "SKILL.md").is_file()
    assert (tmp_path / ".agents" / "skills" / "dapo-training" / "references" / "python.md").is_file()
