"""The package's shape: imports point one way, few modules know the host, every public name is there and explained."""

import ast
import importlib
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import trl_dapo


ROOT = Path(trl_dapo.__file__).parent

# The only modules that know a trainer of TRL's; `compat` looks at one without subclassing it
TRAINERS = {"trainer", "replay", "shaping", "grpo", "update", "passes", "dpo", "reward", "ppo"}

# What a leaf module may import besides the standard library: of other packages, and of this one
LEAVES = {
    "advantages": ({"torch"}, set()),
    "critic": (
        {"torch", "peft", "peft.utils.constants", "safetensors.torch", "transformers", "trl.trainer.utils"},
        set(),
    ),
    "calibration": ({"torch"}, set()),
    "checkpoints": (set(), set()),
    "environments": (set(), set()),
    "generation": ({"torch", "transformers", "transformers.cache_utils"}, set()),
    "loading": ({"torch.utils.data"}, set()),
    "loss": ({"torch"}, set()),
    "metrics": ({"torch"}, {"sampling.groups"}),
    "microbatch": (set(), set()),
    "batch_rows": ({"torch", "trl.trainer.utils"}, {"microbatch"}),
    "plain": ({"torch"}, set()),
    "positions": ({"torch", "accelerate.utils", "transformers"}, set()),
    "shared_prompts": ({"torch", "transformers"}, {"positions"}),
    "preferences": ({"torch", "datasets"}, set()),
    "promotion": (set(), set()),
    "quantization": ({"torch"}, set()),
    "token_weights": ({"torch"}, set()),
    "window": ({"torch"}, {"batch_rows", "microbatch"}),
    "rewards": (set(), set()),
    "rewards.adapter": (
        {"torch", "peft", "peft.utils.constants", "safetensors", "transformers", "trl.trainer.utils"},
        {"microbatch"},
    ),
    "rewards.scores": ({"torch"}, {"advantages"}),
    "rewards.columns": (set(), set()),
    "rewards.failures": ({"torch"}, set()),
    "rewards.loading": (
        {
            "torch",
            "accelerate",
            "peft",
            "peft.utils.constants",
            "safetensors",
            "transformers",
            "transformers.utils",
        },
        {"quantization"},
    ),
    "rewards.model": (
        {"torch", "accelerate.logging", "transformers"},
        {"microbatch", "rewards.loading", "rewards.statistics"},
    ),
    "rewards.overlong": ({"trl.rewards"}, set()),
    "rewards.statistics": ({"torch"}, set()),
    "sampling": (set(), set()),
    "sampling.groups": ({"torch"}, set()),
    "sampling.history": (set(), set()),
    "sampling.prompts": ({"torch", "datasets"}, {"sampling.history"}),
    "sampling.refill": ({"torch"}, set()),
    "sampling.rollouts": ({"torch", "accelerate.utils"}, {"plain"}),
    "sampling.candidates": ({"torch"}, {"sampling.groups", "sampling.rollouts"}),
}


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()  # by their name below `trl_dapo`; "" is the package itself
PUBLIC = [name for name in MODULES if not any(part.startswith("_") for part in name.split("."))]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _import_nodes(node: ast.AST):
    """All imports that can happen at run time, those inside functions included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not _is_type_checking(child):
            yield from _import_nodes(child)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """The full name of the module that a `from` statement names."""
    if not node.level:
        return node.module or ""
    package = ["trl_dapo", *module.split(".")] if module else ["trl_dapo"]
    if MODULES[module].name != "__init__.py":
        package = package[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


@cache
def imported(module: str) -> frozenset[str]:
    """Full names of all modules that a module imports; `from package import module` counts as the module."""
    names = set()
    for node in _import_nodes(tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            continue
        base = _absolute(module, node)
        below = {f"{base}.{alias.name}" for alias in node.names}
        submodules = {name for name in below if name.removeprefix("trl_dapo.") in MODULES and name != base}
        names |= submodules if len(submodules) == len(below) else {base, *submodules}
    return frozenset(names)


def own(module: str) -> set[str]:
    """The modules of this package that a module imports, by their name below `trl_dapo`."""
    return {name.removeprefix("trl_dapo").lstrip(".") for name in imported(module) if name.split(".")[0] == "trl_dapo"}


def foreign(module: str) -> set[str]:
    """The modules outside this package and the standard library that a module imports."""
    return {name for name in imported(module) if name.split(".")[0] not in {"trl_dapo", *sys.stdlib_module_names}}


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


# ------------------------------------------------------------------------------------------------------------- one way


def test_the_walk_finds_imports_of_every_kind():
    # Guards the tests below: a walk that finds nothing agrees with everything
    assert {"config", "sampling.groups", "replay"} <= own("trainer")
    assert {"torch", "trl", "trl.trainer.utils", "accelerate.utils"} <= foreign("trainer")
    assert "config" not in own("rewards.columns")  # for type checkers only
    assert own("sampling.candidates") == {"sampling.groups", "sampling.rollouts"}


def test_imports_point_one_way():
    # Raises CycleError, which names the cycle
    order = list(TopologicalSorter({module: own(module) - {""} for module in MODULES}).static_order())
    assert order.index("sampling.groups") < order.index("metrics") < order.index("trainer")
    assert order.index("config") < order.index("planning") < order.index("trainer")


@pytest.mark.parametrize("module", sorted(LEAVES))
def test_a_leaf_imports_what_a_leaf_may(module):
    others, ours = LEAVES[module]
    assert foreign(module) <= others
    assert own(module) <= ours


@pytest.mark.parametrize("module", sorted(name for name in MODULES if within(name, "sampling")))
def test_sampling_knows_neither_trainer_nor_config(module):
    assert not {name.split(".")[0] for name in foreign(module)} & {"trl", "transformers", "peft"}
    assert all(within(name, "sampling") for name in own(module) - {"plain"})


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_trainers_subclass_a_trainer(module):
    bases = [
        ast.unparse(base) for node in ast.walk(tree(module)) if isinstance(node, ast.ClassDef) for base in node.bases
    ]
    hosts = [base for base in bases if base.split(".")[-1].endswith("Trainer")]
    assert module in TRAINERS or not hosts


def test_one_line_of_trainers_leads_from_trls_to_ours():
    line = [cls.__module__.removeprefix("trl_dapo.") for cls in trl_dapo.DAPOTrainer.__mro__]
    assert line[:6] == ["trainer", "replay", "shaping", "grpo", "update", "passes"]
    assert line[6] == "trl.trainer.grpo_trainer"
    assert all(len(cls.__bases__) == 1 for cls in trl_dapo.DAPOTrainer.__mro__[:6])
    assert trl_dapo.PPOTrainer.__bases__ == (trl_dapo.GRPOTrainer,)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_imports_the_command_line(module):
    if not within(module, "cli"):
        assert not any(within(name, "cli") for name in own(module))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_the_command_line_imports_the_ablation(module):
    if not within(module, "cli") and not within(module, "ablation"):
        assert not any(within(name, "ablation") for name in own(module))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_imports_the_tests(module):
    assert not {name.split(".")[0] for name in imported(module)} & {
        "tests",
        "tiny",
        "training",
        "pytest",
        "hypothesis",
    }


def test_importing_the_package_does_not_import_torch():
    # `trl-dapo --help` must not wait for it
    code = "import sys, trl_dapo; dir(trl_dapo); trl_dapo.__version__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "trl_dapo" in loaded
    assert not {"torch", "transformers", "trl", "datasets", "accelerate", "numpy"} & set(loaded)


# -------------------------------------------------------------------------------------------------------- public names


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_every_public_module_says_what_is_in_it(module):
    assert ast.get_docstring(tree(module))


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_every_public_function_and_class_has_a_docstring(module):
    named = [
        node for node in tree(module).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    missing = [node.name for node in named if not node.name.startswith("_") and not ast.get_docstring(node)]
    # Hooks of the language: their names are their documentation
    assert [name for name in missing if not name.startswith("__")] == []


def _declares_all(module: str) -> bool:
    targets = [target for node in tree(module).body if isinstance(node, ast.Assign) for target in node.targets]
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


@pytest.mark.parametrize("module", sorted(name for name in PUBLIC if _declares_all(name)))
def test_every_name_in_all_resolves(module):
    loaded = importlib.import_module(f"trl_dapo.{module}".rstrip("."))
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []
    assert len(set(loaded.__all__)) == len(loaded.__all__)


def test_the_package_lists_its_names():
    assert dir(trl_dapo) == sorted(trl_dapo.__all__)
    assert trl_dapo.DAPOConfig.__module__ == "trl_dapo.dapo.config"
    assert trl_dapo.DAPOTrainer.__module__ == "trl_dapo.dapo.trainer"


def test_an_unknown_name_of_the_package_raises_as_python_does():
    with pytest.raises(AttributeError, match="module 'trl_dapo' has no attribute 'DAPOTrainr'"):
        trl_dapo.DAPOTrainr  # noqa: B018
