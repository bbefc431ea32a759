"""
Which releases are accepted, and what is said of one that is newer than any that was tested.

Versions are pretended in this process. A whole process meets a copy of the installed TRL that calls itself 1.17.0.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import trl_dapo
from doctored import INSTALLED, doctored_trl
from trl_dapo.host import compat, releases
from trl_dapo.host.host_names import TESTED


ROOT = Path(__file__).parents[1]
NEWEST = {name: tested.highest for name, tested in TESTED.items()}


def pretend(monkeypatch: pytest.MonkeyPatch, differences: tuple[str, ...] = (), **versions: str) -> None:
    """Give the checks these versions instead of the installed ones, and these differences to report."""
    for module in (compat, releases):
        monkeypatch.setattr(module, "version", lambda name: {**NEWEST, **versions}[name])
    monkeypatch.setattr(compat, "seam_differences", lambda host: list(differences))
    releases._warn.cache_clear()


# ------------------------------------------------------------------------------------------------------------- ranges


def declared_ranges() -> dict[str, SpecifierSet]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {one.name: one.specifier for one in map(Requirement, project["dependencies"])}


def lowest_releases() -> dict[str, str]:
    lines = (ROOT / ".ci" / "lowest.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("name", TESTED)
def test_the_package_declares_the_range_that_is_checked(name):
    tested, declared = TESTED[name], declared_ranges()[name]
    assert declared == SpecifierSet(tested.specifier)
    assert tested.highest in declared
    assert tested.lowest == lowest_releases()[name]


@pytest.mark.parametrize("name", TESTED)
def test_the_range_begins_at_the_lowest_tested_release_and_ends_before_the_next_major(name):
    tested = TESTED[name]
    major = Version(tested.highest).major
    assert SpecifierSet(tested.specifier) == SpecifierSet(f">={tested.lowest},<{major + 1}")


@pytest.mark.parametrize("name", TESTED)
def test_pip_keeps_a_release_that_is_newer_than_the_tested_ones(name):
    # A range that ends at the newest tested minor makes `pip install trl-dapo` take an older one
    major, minor, *_ = Version(TESTED[name].highest).release
    for newer in (f"{major}.{minor + 1}.0", f"{major}.{minor + 1}.2", f"{major}.{minor + 40}.0"):
        assert newer in declared_ranges()[name]


@pytest.mark.parametrize("installed", ["1.9.1", "1.11.9", "2.0", "2.0.0.dev0", "2.1.3"])
def test_a_release_outside_of_the_range_is_named_with_the_fix(installed, monkeypatch):
    pretend(monkeypatch, trl=installed)
    message = f"supports trl>=1.12,<2, but trl {installed} is installed. .* `pip install 'trl>=1.12,<2'`"
    with pytest.raises(ImportError, match=message):
        compat.check_host()


@pytest.mark.parametrize("name", TESTED)
def test_both_ends_of_every_range_are_accepted_and_what_lies_beyond_is_named(name, monkeypatch):
    tested = TESTED[name]
    for release in (tested.lowest, tested.highest):
        pretend(monkeypatch, **{name: release})
        compat.check_host()
    for release in ("0.1", tested.specifier.split("<")[1]):
        pretend(monkeypatch, **{name: release})
        message = (
            f"supports {name}{tested.specifier}, but {name} {release} is installed. .* '{name}{tested.specifier}'`"
        )
        with pytest.raises(ImportError, match=message):
            compat.check_host()


def test_several_releases_outside_of_their_ranges_are_named_together(monkeypatch):
    pretend(monkeypatch, transformers="4.57.6", peft="0.17.1")
    with pytest.raises(ImportError) as caught:
        compat.check_host()
    transformers, peft = TESTED["transformers"].specifier, TESTED["peft"].specifier
    assert str(caught.value) == (
        f"trl_dapo supports transformers{transformers}, but transformers 4.57.6 is installed. "
        f"trl_dapo supports peft{peft}, but peft 0.17.1 is installed. "
        f"Install a supported release: `pip install 'transformers{transformers}' 'peft{peft}'`."
    )


# -------------------------------------------------------------------------------------------- newer than the tested


@pytest.mark.parametrize("installed", ["1.12.0", "1.14.2", "1.16.0", "1.16.3", "1.16.0.dev0"])
def test_nothing_is_said_of_a_tested_minor(installed, monkeypatch, caplog):
    pretend(monkeypatch, trl=installed)
    compat.check_host()
    assert caplog.text == ""


@pytest.mark.parametrize("installed", ["1.17.0", "1.17.0.dev0", "1.99.1"])
def test_a_newer_minor_whose_names_are_unchanged_is_told_once(installed, monkeypatch, caplog):
    pretend(monkeypatch, trl=installed)
    for _ in range(3):
        compat.check_host()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message == (
        f"trl {installed} (tested: 1.12.0 to 1.16.0) is newer than what trl_dapo was tested with. Everything that "
        "trl_dapo uses of it was checked and is as expected, so the run goes on. If numbers matter, compare them with "
        "those of the tested releases, which `pip install 'trl==1.16.0'` installs. See docs/compatibility.md."
    )


def test_several_newer_releases_are_told_together(monkeypatch, caplog):
    pretend(monkeypatch, peft="0.22.0", datasets="5.3.1")
    compat.check_host()
    (record,) = caplog.records
    assert record.message.startswith(
        "datasets 5.3.1 (tested: 4.7.0 to 5.2.0), peft 0.22.0 (tested: 0.21.0 to 0.21.2) are newer than"
    )
    assert "`pip install 'datasets==5.2.0' 'peft==0.21.2'`" in record.message


def test_one_process_of_several_tells(monkeypatch, caplog):
    pretend(monkeypatch, trl="1.17.0")
    monkeypatch.setenv("RANK", "3")
    compat.check_host()
    assert caplog.text == ""
    monkeypatch.setenv("RANK", "0")
    compat.check_host()
    assert len(caplog.records) == 1


def test_a_changed_name_is_told_with_the_fix(monkeypatch, caplog):
    changes = ("_generate returns 9 values", "log is gone")
    pretend(monkeypatch, changes)
    message = (
        "in what trl_dapo uses:\n  - _generate returns 9 values\n  - log is gone\n.*'trl==1.16.0' 'transformers=="
    )
    with pytest.raises(ImportError, match=message):
        compat.check_host()
    pretend(monkeypatch, changes, trl="1.17.0")
    with pytest.raises(ImportError, match=r"^trl 1\.17\.0 \(tested: 1\.12\.0 to 1\.16\.0\) is newer .*" + message):
        compat.check_host()
    # It is refused, and is not said to be as expected
    assert caplog.text == ""


# ------------------------------------------------------------------------------------------- names that are imported


def test_an_import_that_fails_in_a_library_is_explained(monkeypatch):
    pretend(monkeypatch, trl="1.17.0")
    error = ImportError("cannot import name 'pad' from 'trl.trainer.utils'", name="trl.trainer.utils")
    explained = str(releases.explain_import(error))
    assert explained.startswith(
        "trl 1.17.0 (tested: 1.12.0 to 1.16.0) lacks what trl_dapo imports: cannot import name"
    )
    assert "`pip install 'trl==1.16.0' 'transformers==5.24.0'" in explained


def test_the_range_is_named_first_where_it_is_the_cause(monkeypatch):
    pretend(monkeypatch, trl="2.0.0")
    error = ModuleNotFoundError("No module named 'trl.trainer'", name="trl.trainer")
    assert str(releases.explain_import(error)).startswith("trl_dapo supports trl>=1.12,<2, but trl 2.0.0 is installed")


@pytest.mark.parametrize("name", [None, "vllm", "trl_dapo.host", "trlx"])
def test_an_import_that_fails_elsewhere_is_left_alone(name):
    assert releases.explain_import(ImportError("gone", name=name)) is None


def test_a_library_that_is_not_installed_is_left_alone(monkeypatch):
    def missing(name: str) -> str:
        raise releases.PackageNotFoundError(name)

    monkeypatch.setattr(releases, "version", missing)
    assert releases.explain_import(ModuleNotFoundError("No module named 'peft'", name="peft")) is None


# ---------------------------------------------------------------------------------------- a TRL that is not out yet

TRAINS = """
import sys
sys.path.insert(0, sys.argv[1])
from tiny import parity_reward, tiny_args
from training import build, dapo_args
from trl_dapo import DAPOTrainer, GRPOTrainer
for trainer, args in (DAPOTrainer, dapo_args), (GRPOTrainer, tiny_args):
    made = build(trainer, args(sys.argv[2], max_steps=2), reward_funcs=parity_reward)
    made.train()
    print("steps", made.state.global_step)
"""


# An older one that calls itself newer lacks what came since
NEWEST_TRL = pytest.mark.skipif(
    Version(INSTALLED).release[:2] != Version(TESTED["trl"].highest).release[:2],
    reason="the copies are of the newest tested TRL",
)


def with_trl(folder: Path, *command: str) -> subprocess.CompletedProcess:
    """Runs a command that finds the TRL in `folder` before the installed one."""
    path = os.pathsep.join([str(folder), str(Path(trl_dapo.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)


@NEWEST_TRL
def test_a_newer_trl_that_is_the_same_trains_and_is_told_once(tmp_path):
    folder = doctored_trl(tmp_path / "trl", "1.17.0")
    done = with_trl(folder, "-c", TRAINS, str(Path(__file__).parent), str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("steps")] == ["steps 2", "steps 2"]
    assert done.stderr.count("trl 1.17.0 (tested: 1.12.0 to 1.16.0) is newer than what trl_dapo was tested with") == 1


@pytest.mark.slow
@NEWEST_TRL
def test_a_newer_trl_with_one_change_is_refused_with_the_difference(tmp_path):
    changed = ("trainer/grpo_trainer.py", r"def _generate\(self, prompts: list\b", "def _generate(self, texts: list")
    folder = doctored_trl(tmp_path / "trl", "1.17.0", *changed)
    done = with_trl(folder, "-c", TRAINS, str(Path(__file__).parent), str(tmp_path / "run"))
    assert done.returncode == 1
    assert "\n  - _generate takes (self, texts) instead of (self, prompts)\nInstall the newest" in done.stderr
    assert "steps" not in done.stdout
    assert not (tmp_path / "run").exists()


GONE = ("trainer/reward_trainer.py", r"\bsuppress_seqcls_warning\b", "suppress_a_warning")
COMMAND = ("-m", "trl_dapo.cli.main", "dapo", "--help")


@pytest.mark.parametrize(
    ("release", "change", "said"),
    [
        ("1.17.0", GONE, "trl 1.17.0 (tested: 1.12.0 to 1.16.0) lacks what trl_dapo imports: cannot import name"),
        ("2.0.0", GONE, "trl_dapo supports trl>=1.12,<2, but trl 2.0.0 is installed. Install a supported release:"),
        ("2.0.0", (), "trl_dapo supports trl>=1.12,<2, but trl 2.0.0 is installed. Install a supported release:"),
    ],
)
def test_a_command_says_in_one_line_which_trl_it_needs(tmp_path, release, change, said):
    done = with_trl(doctored_trl(tmp_path / "trl", release, *change), *COMMAND)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("trl-dapo: error")]
    assert line.startswith(f"trl-dapo: error: {said}")
    assert "Traceback" not in done.stderr


def test_an_import_says_which_trl_it_needs(tmp_path):
    done = with_trl(doctored_trl(tmp_path / "trl", "1.17.0", *GONE), "-c", "from trl_dapo import RewardTrainer")
    assert done.stderr.splitlines()[-1].startswith("ImportError: trl 1.17.0 (tested: 1.12.0 to 1.16.0) lacks what")


def test_the_version_is_told_without_trl(tmp_path):
    done = with_trl(doctored_trl(tmp_path / "trl", "2.0.0", *GONE), "-m", "trl_dapo.cli.main", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"trl-dapo {trl_dapo.__version__}\n", "")
