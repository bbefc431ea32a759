"""
The check of TRL, transformers and accelerate, at both ends of the supported TRL range.

The installed TRL is checked in this process. The other end of the range is installed in a folder of its own, without
its dependencies, and checked in a subprocess that finds it first. Then each name is removed, renamed or changed in
turn, and the check has to report it.
"""

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.version import Version
from transformers import Trainer
from trl import DPOTrainer, GRPOTrainer, RewardTrainer

import trl_dapo
from trl_dapo.host import compat
from trl_dapo.host.host_names import (
    FIRST_RELEASE,
    GRPO,
    HEAD_MODULE,
    HEAD_TILE_ROWS,
    HEAD_TILES,
    INHERITED,
    OTHER_CLASSES,
    TESTED,
    TRAINERS,
    Names,
)


LOWEST, HIGHEST = TESTED["trl"].lowest, TESTED["trl"].highest
PREFERENCE_TRAINERS = (DPOTrainer, RewardTrainer)


def test_the_installed_trl_has_the_seams():
    assert compat.seam_differences() == []
    compat.check_host()


@pytest.mark.parametrize("host", PREFERENCE_TRAINERS)
def test_the_trainers_of_preferences_have_the_seams(host):
    assert compat.seam_differences(host) == []
    compat.check_host(host)


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
                f"trl {release} is the other end of the supported range ({TESTED['trl'].specifier}) and has to be "
                f"checked, but pip could not install it beside trl {version('trl')}:\n{pip.stderr}"
            )
    return release, folder


def test_the_other_end_of_the_range_has_the_seams(pytestconfig):
    release, folder = install_other_end(pytestconfig.cache)
    script = (
        "import json\n"
        "from importlib.metadata import version\n"
        "from trl_dapo.host import compat\n"
        "from trl import DPOTrainer, RewardTrainer, RLOOTrainer\n"
        "for host in (None, DPOTrainer, RewardTrainer, RLOOTrainer):\n"
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


# ------------------------------------------------------------------------------------- the tables hold what is used


def private_names(kind: type[ast.Attribute] | type[ast.FunctionDef]) -> dict[str, set[str]]:
    """The private attributes that the package reads or sets, or the methods that it defines, with the files."""
    folder = Path(trl_dapo.__file__).parent
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kind):
                name = node.attr if isinstance(node, ast.Attribute) else node.name
                found.setdefault(name, set()).add(str(path.relative_to(folder)))
    return {name: files for name, files in found.items() if name.startswith("_") and not name.endswith("__")}


def names_of(owner: type) -> set[str]:
    """The private names of a class: what it and its parents define, and what they assign on `self`."""
    found = set(dir(owner))
    for parent in owner.__mro__[:-1]:
        if parent.__module__.partition(".")[0] in ("trl", "transformers", "accelerate"):
            found |= compat._assigned(inspect.getsource(sys.modules[parent.__module__]), parent.__name__)
    return {name for name in found if name.startswith("_") and not name.endswith("__")}


def class_at(path: str) -> type:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def in_tables(names: Names) -> set[str]:
    return {*names.overridden, *names.called, *names.attributes, *names.defined}


ALL_TABLES = [*TRAINERS.values(), *INHERITED.values(), *OTHER_CLASSES.values()]


def test_every_private_name_of_the_host_that_the_package_uses_is_in_the_tables():
    read, defined = private_names(ast.Attribute), private_names(ast.FunctionDef)
    of_trainers = set().union(*map(names_of, (GRPOTrainer, *PREFERENCE_TRAINERS)))
    # The package may have a method of the same name as a class that it does not subclass
    of_others = set().union(*(names_of(class_at(path)) for path in OTHER_CLASSES)) - defined.keys()
    listed = set().union(*map(in_tables, ALL_TABLES))
    unlisted = (of_trainers & (read.keys() | defined.keys())) | (of_others & read.keys())
    assert {name: read.get(name, defined.get(name)) for name in unlisted - listed} == {}


def test_every_private_name_in_the_tables_is_used():
    listed = {name for names in ALL_TABLES for name in in_tables(names) if name.startswith("_") and name != "__init__"}
    used = private_names(ast.Attribute).keys() | private_names(ast.FunctionDef).keys()
    # DAPOTrainer and PPOTrainer set these in the body of the class
    assert listed - used - {"_name", "_paper", "_tag_names"} == set()


# ------------------------------------------------------------------------------------------ methods that TRL defines


@pytest.mark.parametrize("name", [*GRPO.overridden, *GRPO.called])
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


# --------------------------------------------------------------------- methods of transformers and accelerate


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (host, name)
        for host in (GRPOTrainer, *PREFERENCE_TRAINERS)
        for name in (*INHERITED[host.__name__].overridden, *INHERITED[host.__name__].called)
    ],
)
def test_a_removed_or_changed_method_of_the_trainer_of_transformers_is_seen(host, name, monkeypatch):
    monkeypatch.setattr(Trainer, name, lambda self, *, everything: None)
    (found,) = compat.seam_differences(host)
    assert found.startswith(
        (f"{name} takes (self, everything) instead of (self", f"{name} cannot be called with (self")
    )
    monkeypatch.delattr(Trainer, name)
    assert compat.seam_differences(host) == [f"{host.__name__} has no {name}"]


def test_a_method_that_trl_puts_over_the_one_of_transformers_is_seen(monkeypatch):
    monkeypatch.setattr(GRPOTrainer, "_save", lambda self, folder: None, raising=False)
    assert compat.seam_differences() == ["_save takes (self, folder) instead of (self, output_dir, state_dict)"]


@pytest.mark.parametrize(
    ("path", "name"),
    [(path, name) for path, names in OTHER_CLASSES.items() for name in (*names.called, *names.defined)],
)
def test_a_removed_or_changed_method_of_another_class_is_seen(path, name, monkeypatch):
    owner = class_at(path)
    if name in OTHER_CLASSES[path].called:
        monkeypatch.setattr(owner, name, lambda self, *, everything: None)
        (found,) = compat.seam_differences()
        assert found.startswith(f"{name} cannot be called with (self")
    monkeypatch.delattr(owner, name)
    assert compat.seam_differences() == [f"{owner.__name__} has no {name}"]


@pytest.mark.parametrize("path", OTHER_CLASSES)
def test_a_class_that_is_gone_or_moved_is_seen(path, monkeypatch):
    names = OTHER_CLASSES[path]
    module, _, name = path.rpartition(".")
    for wrong in (f"{module}.Renamed{name}", f"{module}.moved.{name}"):
        monkeypatch.setattr(compat, "OTHER_CLASSES", {wrong: names})
        assert compat.seam_differences() == [f"there is no {wrong}"]


# ---------------------------------------------------------------------------------------- attributes and values passed


@pytest.fixture
def edit_source(monkeypatch: pytest.MonkeyPatch) -> Callable[[type, str, str], int]:
    """Make `compat` read the source of a class with a pattern replaced; returns how often the pattern was found."""
    read = inspect.getsource

    def edit(owner: type, pattern: str, replacement: str) -> int:
        edited = sys.modules[owner.__module__]
        source, count = re.subn(pattern, replacement, read(edited))

        def getsource(module: ModuleType) -> str:
            return source if module is edited else read(module)

        monkeypatch.setattr(compat.inspect, "getsource", getsource)
        return count

    return edit


def classes_with_attributes() -> list[tuple[type | None, type, Names]]:
    """The trainer to check, a class that assigns attributes, and what the tables have for it."""
    hosts = (GRPOTrainer, *PREFERENCE_TRAINERS)
    own = [(host, host, TRAINERS[host.__name__]) for host in hosts]
    inherited = [(host, Trainer, INHERITED[host.__name__]) for host in hosts]
    other = [(None, class_at(path), names) for path, names in OTHER_CLASSES.items()]
    return [one for one in own + inherited + other if one[2].attributes]


@pytest.mark.parametrize(("host", "owner", "names"), classes_with_attributes())
def test_every_attribute_that_is_no_longer_assigned_is_seen(host, owner, names, edit_source):
    expected = [name for name in names.attributes if not compat.is_of_a_later_release(name)]
    assert edit_source(owner, rf"\bself\.({'|'.join(expected)})\b", "self.renamed") >= len(expected)
    assert compat.seam_differences(host) == [f"{owner.__name__} does not assign self.{name}" for name in expected]


def test_an_attribute_that_is_read_and_no_longer_assigned_is_seen(edit_source):
    assert edit_source(GRPOTrainer, r"\bself\._step(?= \+?= )", "self.renamed") > 0
    assert compat.seam_differences() == ["GRPOTrainer does not assign self._step"]


def test_an_attribute_is_asked_for_from_the_release_that_brought_it(edit_source, monkeypatch):
    assert FIRST_RELEASE["eos_token_ids"] == "1.14.2"
    edit_source(GRPOTrainer, r"\bself\.eos_token_ids\b", "self.renamed")
    monkeypatch.setattr(compat, "version", lambda name: "1.14.1")
    assert compat.seam_differences() == []
    monkeypatch.setattr(compat, "version", lambda name: "1.14.2")
    assert compat.seam_differences() == ["GRPOTrainer does not assign self.eos_token_ids"]


@pytest.mark.parametrize(
    ("release", "host", "triton", "refused"),
    [
        ("1.15.0", GRPOTrainer, None, True),
        ("1.15.3", DPOTrainer, None, True),
        ("1.15.0", RewardTrainer, None, False),
        ("1.15.0", GRPOTrainer, "there", False),
        ("1.14.2", GRPOTrainer, None, False),
        ("1.16.0", GRPOTrainer, None, False),
    ],
)
def test_a_release_that_cannot_train_without_triton_is_refused_where_there_is_none(
    release, host, triton, refused, monkeypatch
):
    monkeypatch.setattr(compat, "version", lambda name: release)
    monkeypatch.setattr(compat, "find_spec", {"triton": triton}.get)
    said = [difference for difference in compat.seam_differences(host) if "Triton" in difference]
    name = host.__name__
    sentence = f"{name} of TRL {release} computes log-probabilities with Triton alone, and there is no triton"
    assert said == ([sentence] if refused else [])


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
        (r"description=\"Training\",", "", "calls _get_dataloader without description"),
        (r"dataset=dataset,\n(?=\s+description=\"Training\")", "", "calls _get_dataloader without dataset"),
        (
            r"sampler_fn=self\._get_train_sampler,",
            "",
            "calls _get_dataloader without sampler_fn=self._get_train_sampler",
        ),
        (r"sampler_fn=self\._get_train_sampler,", "sampler_fn=None,", "without sampler_fn=self._get_train_sampler"),
        (r"is_training=True,", "", "calls _get_dataloader without is_training=True"),
        (
            r"return self\._get_dataloader\((?=\n\s+dataset=dataset,)",
            "return DataLoader(",
            "get_train_dataloader calls _get_dataloader 0 times instead of once",
        ),
    ],
)
def test_a_changed_data_flow_is_seen(pattern, replacement, difference, edit_source):
    assert edit_source(GRPOTrainer, pattern, replacement) == 1
    (found,) = compat.seam_differences()
    assert difference in found


# ----------------------------------------------------------------------------------------- trainers of preferences


@pytest.mark.parametrize(
    ("host", "name"),
    [(host, name) for host in PREFERENCE_TRAINERS for name in TRAINERS[host.__name__].overridden],
)
def test_a_changed_method_of_a_trainer_of_preferences_is_seen(host, name, monkeypatch):
    monkeypatch.setattr(host, name, lambda self, everything: None)
    (found,) = compat.seam_differences(host)
    assert found.startswith(f"{name} takes (self, everything) instead of (self, ")
    monkeypatch.undo()
    if name != "__init__":
        monkeypatch.delattr(host, name)
        assert compat.seam_differences(host) == [f"{host.__name__} does not define {name}"]


def test_another_order_of_what_is_gathered_is_seen(edit_source):
    assert edit_source(DPOTrainer, r"gather\(margins\)", "gather(chosen_rewards)") > 0
    found = compat.seam_differences(DPOTrainer)
    gathered = "gathers ('chosen_rewards', 'rejected_rewards', 'reward_accuracies', 'chosen_rewards', "
    assert found
    assert all(gathered in one for one in found)


# ------------------------------------------------------------------------------ what a plan of memory traces


def test_the_head_calls_the_functions_that_a_plan_replaces_and_uses_nothing_they_return():
    # Each stands alone as a statement where it is called, or is chosen as the `fold` that is
    module = pytest.importorskip(HEAD_MODULE, reason="this TRL has no such head, and so no plan of memory")
    tree = ast.parse(inspect.getsource(module.ChunkedLogProbFunction))
    alone = {node.value.func.id for node in ast.walk(tree) if _is_statement(node)}
    chosen = {
        branch.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "fold"
        for branch in ast.walk(node.value)
        if isinstance(branch, ast.Name)
    }
    assert "fold" in alone
    assert set(HEAD_TILES) <= alone | chosen
    assert all(inspect.isfunction(getattr(module, name)) for name in HEAD_TILES)


def test_tiles_of_the_head_have_as_many_tokens_as_its_module_says():
    module = pytest.importorskip(HEAD_MODULE, reason="this TRL has no such head, and so no plan of memory")
    assert isinstance(getattr(module, HEAD_TILE_ROWS), int)
    assert HEAD_TILE_ROWS in inspect.getsource(module.ChunkedLogProbFunction)


def _is_statement(node: ast.AST) -> bool:
    called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    return called and isinstance(node.value.func, ast.Name)
