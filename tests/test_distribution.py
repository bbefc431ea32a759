"""What is released: the wheel, the sdist, their metadata, and the files that state the version."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import trl_dapo


ROOT = Path(__file__).parents[1]
VERSION = trl_dapo.__version__


# ------------------------------------------------------------------------------------------------------- the version


def test_citation_and_changelog_have_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == VERSION
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    # The topmost entry is the next release, or the release that this is
    (first, *_) = re.findall(r"(?m)^## \[?(\S+?)\]?(?: .*)?$", (ROOT / "CHANGELOG.md").read_text())
    assert first in ("Unreleased", VERSION)


def test_the_paper_is_cited_as_in_the_readme():
    (paper,) = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    readme = (ROOT / "README.md").read_text()
    assert paper["title"] in readme
    assert f"year   = {paper['year']}" in readme
    assert paper["identifiers"][0]["value"] in readme


@pytest.mark.parametrize("name", ["bug", "question"])
def test_issue_forms_are_valid_and_ask_for_the_versions(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert {"name", "description", "body"} <= form.keys()
    ids = [part["id"] for part in form["body"]]
    assert len(ids) == len(set(ids))
    (versions,) = [part["attributes"]["description"] for part in form["body"] if part["id"] == "versions"]
    assert "`trl-dapo --version`" in versions
    assert "`trl env`" in versions


# ------------------------------------------------------------------------------------------------ wheel and sdist


def tracked() -> list[str]:
    """The files in git, or a skip outside of a checkout."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a checkout: what the sdist lacks cannot be told")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def build(source: Path, folder: Path) -> dict[str, Path]:
    """Builds both from `source` with the installed hatchling, and returns them by their ending."""
    pytest.importorskip("hatchling", reason="hatchling is not installed; `make` installs it")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return {path.suffix: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    return build(ROOT, tmp_path_factory.mktemp("dist"))


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(wheel: Path) -> Message:
    return Parser().parsestr(contents(wheel)[f"trl_dapo-{VERSION}.dist-info/METADATA"].decode())


def test_their_names_have_the_version(built):
    assert {path.name for path in built.values()} == {
        f"trl_dapo-{VERSION}-py3-none-any.whl",
        f"trl_dapo-{VERSION}.tar.gz",
    }


def test_the_wheel_holds_the_package_and_nothing_else(built):
    files = set(contents(built[".whl"]))
    info = f"trl_dapo-{VERSION}.dist-info/"
    package = {name for name in files if not name.startswith(info)}
    assert all(name.startswith("trl_dapo/") for name in package)
    assert {"trl_dapo/py.typed", "trl_dapo/arena/warm_start.safetensors"} <= package
    assert not [name for name in package if "__pycache__" in name or "test_" in name]
    assert {info + "licenses/LICENSE", info + "entry_points.txt"} <= files
    assert {name for name in tracked() if name.startswith("trl_dapo/")} <= package


def test_the_sdist_holds_all_that_git_has(built):
    with tarfile.open(built[".gz"]) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    assert set(tracked()) - files == set()


def test_the_sdist_builds_the_same_wheel(built, tmp_path):
    with tarfile.open(built[".gz"]) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build(tmp_path / f"trl_dapo-{VERSION}", tmp_path / "dist")
    assert contents(again[".whl"]) == contents(built[".whl"])


def test_the_metadata_is_what_an_index_shows(built):
    read = metadata(built[".whl"])
    assert read["Name"] == "trl-dapo"
    assert read["Version"] == VERSION
    assert read["Summary"]
    assert read["License-Expression"] == "Apache-2.0"
    assert read["Requires-Python"] == ">=3.11"
    assert read["Description-Content-Type"] == "text/markdown"
    assert read.get_payload() == (ROOT / "README.md").read_text()
    assert "Typing :: Typed" in read.get_all("Classifier", [])
    assert {"quantization", "math", "report", "vllm"} <= set(read.get_all("Provides-Extra", []))


# ---------------------------------------------------------------------------------------------- installed from a wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """
    An environment that has the package from the wheel alone.

    What the package depends on is that of the running environment, through a `.pth` file: installing it again takes
    minutes. An editable installation there is not seen, since only the files of a real site folder are followed.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(built[".whl"])], check=True)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(site) / "shared.pth").write_text("\n".join(sorted(shared)) + "\n")
    return folder


def run_in(environment: Path, folder: Path, *command: str) -> str:
    """What a command of the environment prints in a folder outside of the checkout."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    program = environment / "bin" / command[0]
    done = subprocess.run([program, *command[1:]], cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_command_runs_from_the_wheel(installed, tmp_path):
    assert run_in(installed, tmp_path, "trl-dapo", "--version") == f"trl-dapo {VERSION}\n"
    code = "import trl_dapo; print(trl_dapo.__file__)"
    assert Path(run_in(installed, tmp_path, "python", "-c", code).strip()).is_relative_to(installed)


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel(installed, tmp_path):
    printed = run_in(installed, tmp_path, "trl-dapo", "demo", "--completions", "256", "--output_dir", "out")
    assert "DAPO" in printed
    assert (tmp_path / "out" / "results.json").is_file()
