"""What a type checker says of a user's script: nothing where it is right, and each mistake in its line."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest


SCRIPTS = Path(__file__).parent / "typing_scripts"
WRONG = SCRIPTS / "wrong.py"


def checker() -> str:
    found = shutil.which("ty", path=sysconfig.get_path("scripts")) or shutil.which("ty")
    if found is None:
        pytest.skip("ty is not installed; the extra `lint` has it")
    return found


def complaints(path: Path) -> list[tuple[int, str]]:
    """The lines of what ty says of a script, with its rules."""
    words = [checker(), "check", "--output-format", "concise", "--python", sys.prefix, str(path)]
    done = subprocess.run(words, cwd=SCRIPTS.parent.parent, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return [(int(line), rule) for line, rule in re.findall(r"^\S+?:(\d+):\d+: (.+)$", done.stdout, flags=re.M)]


@pytest.mark.parametrize("path", sorted(set(SCRIPTS.glob("*.py")) - {WRONG}), ids=lambda path: path.stem)
def test_a_script_that_is_right_has_no_error(path):
    compile(path.read_text(), str(path), "exec")
    assert complaints(path) == []


def test_every_mistake_is_found_in_its_line_and_nothing_else():
    marked = {number for number, line in enumerate(WRONG.read_text().splitlines(), 1) if line.endswith("# wrong")}
    found = complaints(WRONG)
    assert {line for line, _ in found} == marked
    assert len(marked) >= 15
    assert all("error[" in rule for _, rule in found)


def test_a_wrong_type_of_a_field_names_what_is_expected():
    (found,) = [
        text for line, text in complaints(WRONG) if 'clip_higher="yes"' in WRONG.read_text().splitlines()[line - 1]
    ]
    assert "Expected `bool`" in found
