"""
The seams of TRL that the package builds on, at both ends of the supported range.

The installed release is looked at in this process. The other end is installed beside it, without its dependencies, and
looked at in a subprocess that finds it first.
"""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from transformers import Trainer
from trl import DPOTrainer, GRPOTrainer, RewardTrainer

import trl_dapo
from trl_dapo.host import compat


LOWEST, HIGHEST = "1.12.0", "1.16.0"
ROOT = Path(__file__).parents[1]


def test_the_installed_trl_has_the_seams():
    assert compat.seam_differences() == []
    compat.check_host()


@pytest.mark.parametrize("host", [DPOTrainer, RewardTrainer])
def test_the_trainers_of_preferences_have_the_seams(host):
    assert compat.seam_differences(host) == []
    compat.check_host(host)


def test_the_range_is_the_one_that_the_package_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (declared,) = (r.specifier for r in map(Requirement, project["dependencies"]) if r.name == "trl")
    assert declared == SpecifierSet(compat.SUPPORTED_TRL)
    assert LOWEST in declared
    assert HIGHEST in declared
    assert compat.TESTED_TRL == HIGHEST


# ------------------------------------------------------------------------------------------ the other end of the range


def install_other_end(cache: pytest.Cache) -> tuple[str, Path]:
    """The release at the end of the range that is not installed, and a folder that holds it; kept between runs."""
    release = HIGHEST if Version(version("trl")) < Version(HIGHEST) else LOWEST
    folder = cache.mkdir(f"trl-{release}")
    if not (folder / f"trl-{release}.dist-info" / "RECORD").exists():
        shutil.rmtree(folder)  # what an interrupted installation may have left
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        pip = subprocess.run([*command, "--target", folder, f"trl=={release}"], capture_output=True, text=True)
        if pip.returncode:
            pytest.fail(
                f"trl {release} is the other end of the supported range ({compat.SUPPORTED_TRL}) and has to be "
                f"checked, but pip could not install it beside trl {version('trl')}:\n{pip.stderr}"
            )
    return release, folder


def test_the_other_end_of_the_range_has_the_seams(pytestconfig):
    release, folder = install_other_end(pytestconfig.cache)
    script = (
        "import json\n"
        "from importlib.metadata import version\n"
        "from trl_dapo.host import compat\n"
        "from trl import DPOTrainer, RewardTrainer\n"
        "for host in (None, DPOTrainer, RewardTrainer):\n"
        "    compat.check_host(host)\n"
        "from trl.trainer import grpo_trainer\n"
        "print(json.dumps([version('trl'), grpo_trainer.__file__, compat.seam_differences()]))\n"
    )
    path = os.pathsep.join([str(folder), str(Path(trl_dapo.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    found, file, differences = json.loads(process.stdout.splitlines()[-1])
    assert found == release
    assert Path(file).is_relative_to(folder)
    assert differences == []


# ---------------------------------------------------------------------------------------------------- what is reported


@pytest.mark.parametrize("installed", ["1.9.1", "1.11.9", "1.17.0", "1.17.0.dev0", "2.0"])
def test_a_release_outside_of_the_range_is_named_with_the_fix(installed, monkeypatch):
    monkeypatch.setattr(compat, "version", lambda name: installed)
    message = f"supports trl>=1.12,<1.17, but trl {installed} is installed. .* `pip install 'trl>=1.12,<1.17'`"
    with pytest.raises(ImportError, match=message):
        compat.check_host()


@pytest.mark.parametrize("installed", ["1.12.0", "1.14.2", "1.16.0", "1.16.3", "1.16.0.dev0"])
def test_a_release_inside_of_the_range_is_accepted(installed, monkeypatch):
    monkeypatch.setattr(compat, "version", lambda name: installed)
    compat.check_host()


def test_a_changed_seam_is_named_with_the_fix(monkeypatch):
    monkeypatch.setattr(compat, "seam_differences", lambda host: ["_generate returns 9 values", "log is gone"])
    message = "differs in what trl_dapo builds on:\n  - _generate returns 9 values\n  - log is gone\n.*'trl==1.16.0'"
    with pytest.raises(ImportError, match=message):
        compat.check_host()


@pytest.mark.parametrize("name", [*compat.OVERRIDDEN, *compat.CALLED])
def test_a_removed_method_is_seen(name, monkeypatch):
    monkeypatch.delattr(GRPOTrainer, name)
    assert compat.seam_differences() == [f"GRPOTrainer does not define {name}"]


@pytest.mark.parametrize(
    ("name", "changed", "difference"),
    [
        ("_generate", lambda self, prompts, images: None, "_generate takes (self, prompts, images) instead of"),
        ("log", lambda self, logs: None, "log takes (self, logs) instead of (self, logs, start_time)"),
        # Order counts: callers and subclasses pass these by position.
        ("_compute_loss", lambda self, inputs, model: None, "_compute_loss takes (self, inputs, model) instead of"),
        (
            "_get_per_token_logps_and_entropies",
            lambda self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, entropy=False: None,
            "_get_per_token_logps_and_entropies cannot be called with",
        ),
    ],
)
def test_a_changed_signature_is_seen(name, changed, difference, monkeypatch):
    monkeypatch.setattr(GRPOTrainer, name, changed)
    (found,) = compat.seam_differences()
    assert found.startswith(difference)


def test_another_spelling_of_a_method_that_is_only_called_is_fine(monkeypatch):
    # As in TRL 1.14.
    def spelled(self, model, *args, batch_size=None, compute_aux_loss=False, **kwargs): ...

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", spelled)
    assert compat.seam_differences() == []


@pytest.fixture
def edit_host_source(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], int]:
    """Make `compat` read the host's source with a pattern replaced; returns how often it was found."""
    original = inspect.getsource(sys.modules[GRPOTrainer.__module__])

    def edit(pattern: str, replacement: str) -> int:
        source, count = re.subn(pattern, replacement, original)
        monkeypatch.setattr(compat.inspect, "getsource", lambda module: source)
        return count

    return edit


@pytest.mark.parametrize("name", compat.ATTRIBUTES)
def test_an_attribute_that_is_no_longer_assigned_is_seen(name, edit_host_source):
    assert edit_host_source(rf"\bself\.{name}(?= \+?= )", "self.renamed") > 0
    assert compat.seam_differences() == [f"the attribute {name} is not assigned"]


@pytest.mark.parametrize(
    ("pattern", "replacement", "difference"),
    [
        # A ninth value, and two that change places.
        (
            r"\btool_images,\n(\s+\) = self\._generate)",
            r"tool_images, more,\n\1",
            "_generate is unpacked into 9 values",
        ),
        (r"\bper_token_logps, entropies, aux_loss = self", "per_token_logps, entropies = self", "is unpacked into 2"),
        (
            r"(return\s+\(?\s*)prompt_ids,\s+completion_ids,\s+tool_mask,",
            r"\1completion_ids, prompt_ids, tool_mask,",
            "_generate returns (completion_ids, prompt_ids, tool_mask, ",
        ),
        (
            r"self\._calculate_rewards\(",
            "score(",
            "calls ('_generate',) instead of ('_generate', '_calculate_rewards')",
        ),
    ],
)
def test_a_changed_data_flow_is_seen(pattern, replacement, difference, edit_host_source):
    assert edit_host_source(pattern, replacement) == 1
    (found,) = compat.seam_differences()
    assert difference in found


@pytest.mark.parametrize("host", [GRPOTrainer, DPOTrainer, RewardTrainer])
@pytest.mark.parametrize("name", ["_run_epoch", "_load_best_model"])
def test_a_method_of_transformers_that_is_gone_is_seen(host, name, monkeypatch):
    monkeypatch.delattr(Trainer, name)
    expected = [f"{host.__name__} does not inherit {name} from transformers' Trainer"]
    assert compat.seam_differences(host) == expected


def test_a_changed_method_of_transformers_is_seen(monkeypatch):
    monkeypatch.setattr(Trainer, "_load_from_checkpoint", lambda self, folder: None)
    (found,) = compat.seam_differences()
    assert found.startswith("_load_from_checkpoint takes (self, folder) instead of (self, resume_from_checkpoint")


# ----------------------------------------------------------------------------------------- the trainers of preferences


@pytest.mark.parametrize(
    ("host", "name"),
    [(host, name) for host in (DPOTrainer, RewardTrainer) for name in compat.PREFERENCE_OVERRIDDEN[host.__name__]],
)
def test_a_changed_method_of_a_trainer_of_preferences_is_seen(host, name, monkeypatch):
    monkeypatch.setattr(host, name, lambda self, everything: None)
    (found,) = compat.seam_differences(host)
    assert found.startswith(f"{name} takes (self, everything) instead of (self, ")
    monkeypatch.undo()
    if name != "__init__":
        monkeypatch.delattr(host, name)
        assert compat.seam_differences(host) == [f"{host.__name__} does not define {name}"]


def test_another_order_of_what_is_gathered_is_seen(monkeypatch):
    original = inspect.getsource(sys.modules[DPOTrainer.__module__])
    source, count = re.subn(r"gather\(margins\)", "gather(chosen_rewards)", original)
    assert count > 0
    monkeypatch.setattr(compat.inspect, "getsource", lambda module: source)
    (found,) = compat.seam_differences(DPOTrainer)
    assert found.startswith(
        "_compute_loss gathers ('chosen_rewards', 'rejected_rewards', 'reward_accuracies', 'chosen_r"
    )
