"""The package's shape: imports point one way, few files know the host, every public name is there and explained."""

import ast
import importlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from types import FunctionType

import pytest
import trl

import trl_dapo


ROOT = Path(trl_dapo.__file__).parent

# Lowest first: a module imports from its own folder and from those before it
FOLDERS = (
    "qlora",
    "host",
    "evaluation",
    "problems",
    "packing",
    "rollouts",
    "reward_model",
    "dpo",
    "grpo",
    "dapo",
    "ppo",
    "monitor",
    "view",
    "arena",
    "verification",
    "planning",
    "export",
    "demo",
    "ablation",
    "rewind",
    "cli",
)

# The only modules that define a trainer
TRAINERS = {
    "host.seams",
    "grpo.trainer",
    "dapo.trainer",
    "ppo.trainer",
    "dpo.trainer",
    "reward_model.trainer",
}

# What a pure module may import besides the standard library: of other packages, and of this one
LEAVES = {
    "ablation.bootstrap": ({"numpy"}, {"ablation.intervals", "ablation.scipy_stats", "ablation.scores"}),
    "ablation.intervals": (set(), set()),
    "ablation.multiple_comparisons": (set(), set()),
    "ablation.pairs": ({"numpy"}, {"ablation.scipy_stats", "ablation.scores"}),
    "ablation.scipy_stats": ({"scipy"}, set()),
    "ablation.scores": ({"numpy"}, set()),
    "ablation.sequential": ({"numpy"}, {"ablation.intervals", "ablation.scores"}),
    "ablation.statistics": (
        {"numpy"},
        {f"ablation.{name}" for name in ("bootstrap", "intervals", "multiple_comparisons", "pairs")}
        | {"ablation.scipy_stats", "ablation.scores"},
    ),
    "dapo.metrics": ({"torch"}, {"dapo.sampling.groups"}),
    "dapo.sampling.candidates": ({"torch"}, {"dapo.sampling.groups", "dapo.sampling.rollouts"}),
    "dapo.sampling.groups": ({"torch"}, set()),
    "dapo.sampling.history": (set(), set()),
    "dapo.sampling.prompts": ({"torch", "datasets"}, {"dapo.sampling.history", "host.required"}),
    "dapo.sampling.refill": ({"torch"}, set()),
    "dapo.token_weights": ({"torch"}, set()),
    "host.checkpoints": ({"safetensors"}, set()),
    "host.plain": ({"numpy", "torch"}, set()),
    "packing.bins": (set(), set()),
    "ppo.estimation": ({"torch"}, set()),
    "problems.answers": (set(), set()),
    "problems.catalogue": (set(), set()),
    "problems.files": (set(), set()),
    "problems.prompts": (set(), {"problems.files"}),
    "reward_model.calibration": ({"torch"}, set()),
    "reward_model.statistics": ({"torch"}, set()),
    "verification.answer_formats": (set(), set()),
    "verification.findings": (set(), set()),
    "verification.group_shares": (set(), set()),
}


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()  # by their name below `trl_dapo`; "" is the package itself


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def walked(kind: type | tuple[type, ...]) -> Iterator[tuple[str, ast.AST]]:
    """Every node of a kind, with its module."""
    for module in MODULES:
        yield from ((module, node) for node in ast.walk(tree(module)) if isinstance(node, kind))


def place(module: str) -> str:
    return str(MODULES[module].relative_to(ROOT))


def assert_none(offenders: Iterable[str]) -> None:
    """Fails with all offenders, one a line."""
    listed = sorted(set(offenders))
    assert not listed, f"{len(listed)} offenders:\n" + "\n".join(listed)


# ------------------------------------------------------------------------------------------------------------- imports


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def import_nodes(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports that can happen at run time, those inside functions included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not _is_type_checking(child):
            yield from import_nodes(child)
        else:
            yield from (found for branch in child.orelse for found in import_nodes(ast.Module([branch], [])))


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
    for node in import_nodes(tree(module)):
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


def floor(module: str) -> int:
    return FOLDERS.index(module.split(".")[0])


def test_the_walk_finds_imports_of_every_kind():
    # Guards the tests below: a walk that finds nothing agrees with everything
    assert {"dapo.config", "host.compat"} <= own("dapo.trainer") | own("grpo.trainer")
    assert {"torch", "trl", "accelerate.utils"} <= foreign("dapo.trainer")
    assert "trl.trainer.grpo_trainer" in foreign("host.compat")  # inside a function
    assert own("dapo.sampling.candidates") == {"dapo.sampling.groups", "dapo.sampling.rollouts"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import a.b", ["a.b"]),
        ("def f():\n    from .b import c", ["b"]),
        ("class C:\n    try:\n        import a\n    except ImportError:\n        import b", ["a", "b"]),
        ("if TYPE_CHECKING:\n    import a", []),
        ("if typing.TYPE_CHECKING:\n    import a\nelse:\n    import b", ["b"]),
    ],
)
def test_an_import_counts_wherever_it_can_run(source, found):
    nodes = list(import_nodes(ast.parse(source)))
    assert [n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in nodes] == found


def test_the_top_level_holds_folders_alone():
    entries = {path.name for path in ROOT.iterdir() if path.name != "__pycache__"}
    # `skills` holds no code: it is for coding assistants
    assert entries == {"__init__.py", "py.typed", "skills", *FOLDERS}
    assert not list((ROOT / "skills").rglob("*.py"))
    assert all((ROOT / folder / "__init__.py").is_file() for folder in FOLDERS)


def test_no_import_points_to_a_later_folder():
    assert_none(
        f"{place(module)} imports {name}"
        for module in MODULES.keys() - {""}
        for name in own(module) - {""}
        if floor(name) > floor(module)
    )


def test_no_modules_import_each_other():
    # Raises CycleError, which names the cycle
    order = list(TopologicalSorter({module: own(module) - {""} for module in MODULES}).static_order())
    assert order.index("dapo.sampling.groups") < order.index("dapo.metrics") < order.index("dapo.trainer")


def test_pure_modules_import_what_a_pure_module_may():
    assert_none(
        f"{place(module)} imports {name}"
        for module, (others, ours) in LEAVES.items()
        for name in (foreign(module) - others) | (own(module) - ours)
    )


def test_nothing_imports_the_tests():
    tests = {path.stem for path in Path(__file__).parent.glob("*.py")} | {"tests", "reference", "pytest", "hypothesis"}
    assert_none(
        f"{place(module)} imports {name}"
        for module in MODULES
        for name in imported(module)
        if name.split(".")[0] in tests
    )


def test_importing_the_package_does_not_import_torch():
    # `trl-dapo --help` must not wait for it
    code = "import sys, trl_dapo; dir(trl_dapo); trl_dapo.__version__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "trl_dapo" in loaded
    assert not {"torch", "transformers", "trl", "datasets", "accelerate", "numpy"} & set(loaded)


# ------------------------------------------------------------------------------------------------------------ the host


def host_names() -> set[str]:
    """The private names of TRL, transformers and accelerate that tables in `host/` list, for `compat` to check."""
    nodes = [node for module in MODULES if module.startswith("host.") for node in tree(module).body]
    tables = [node.value for node in nodes if isinstance(node, ast.Assign | ast.AnnAssign) and node.value]
    strings = [node.value for table in tables for node in ast.walk(table) if isinstance(node, ast.Constant)]
    return {name for name in strings if isinstance(name, str) and re.fullmatch(r"_[a-z]\w*", name)}


def test_the_tables_of_the_hosts_private_names_are_found():
    assert {"_metrics", "_buffered_inputs", "_generate", "_get_per_token_logps_and_entropies"} <= host_names()


def _may_know_the_host(module: str) -> bool:
    return module.split(".")[0] == "host" or module.split(".")[-1] == "trainer"


def _own_names(module: str) -> set[str]:
    """Names that a module gives its own functions, and what its classes that derive from none have."""
    functions = {node.name for node in tree(module).body if isinstance(node, ast.FunctionDef)}
    classes = [node for node in tree(module).body if isinstance(node, ast.ClassDef) and not node.bases]
    stored = {
        node.attr
        for one in classes
        for node in ast.walk(one)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    return functions.union(stored, *(made(node) for node in classes))


def test_private_names_of_the_host_are_touched_in_host_and_in_trainers_alone():
    names = host_names()
    spelled = {ast.Attribute: "attr", ast.FunctionDef: "name", ast.Constant: "value"}
    assert_none(
        f"{place(module)}:{node.lineno} {name}"
        for module, node in walked(tuple(spelled))
        if isinstance(name := getattr(node, spelled[type(node)]), str) and name in names - _own_names(module)
        if not _may_know_the_host(module)
    )


def _last_part(base: ast.expr) -> str:
    return ast.unparse(base.value if isinstance(base, ast.Subscript) else base).split(".")[-1]


def trainers() -> dict[str, str]:
    """Module of every class here that is a trainer, by its name: TRL's end in `Trainer`, and ours derive from them."""
    classes = {(module, node.name): {_last_part(base) for base in node.bases} for module, node in walked(ast.ClassDef)}
    found: dict[str, str] = {}
    while more := {
        name: module
        for (module, name), bases in classes.items()
        if name not in found and any(base.endswith("Trainer") or base in found for base in bases)
    }:
        found |= more
    return found


def test_trainers_are_defined_where_one_looks_for_them():
    assert_none(f"{place(module)}: {name}" for name, module in trainers().items() if module not in TRAINERS)
    assert set(trainers().values()) == TRAINERS


def test_one_layer_leads_from_trls_trainer_to_ours():
    line = [cls.__module__.removeprefix("trl_dapo.") for cls in trl_dapo.DAPOTrainer.__mro__]
    # What saves and loads is the same for the trainers of preferences, so it is a class of its own beside the host
    assert line[:4] == ["dapo.trainer", "grpo.trainer", "host.seams", "host.checkpoint_seams"]
    assert line[4] == "trl.trainer.grpo_trainer"
    assert trl_dapo.DAPOTrainer.__bases__ == trl_dapo.PPOTrainer.__bases__ == (trl_dapo.GRPOTrainer,)
    assert [len(cls.__bases__) for cls in trl_dapo.DAPOTrainer.__mro__[:3]] == [1, 1, 2]


def overrides() -> list[tuple[str, str]]:
    """Every method of TRL's trainer that a class of the online trainers has too, with the class."""
    classes = dict.fromkeys([*trl_dapo.DAPOTrainer.__mro__, *trl_dapo.PPOTrainer.__mro__])
    return [
        (name, cls.__name__)
        for cls in classes
        if cls.__module__.startswith("trl_dapo.")
        for name, value in vars(cls).items()
        if isinstance(value, FunctionType | property | classmethod | staticmethod) and hasattr(trl.GRPOTrainer, name)
    ]


def test_few_methods_of_the_host_are_overridden_and_none_often():
    assert {name for name, _ in overrides()} >= {"__init__", "_generate", "training_step"}
    by_name = {name: [cls for other, cls in overrides() if other == name] for name, _ in overrides()}
    assert_none(
        f"{name} of {', '.join(classes)}"
        for name, classes in by_name.items()
        if name != "__init__" and len(classes) > (3 if name == "_generate_and_score_completions" else 2)
    )
    # 20 for passes and parts. Three for what a load leaves out: `_run_epoch`, `_load_from_checkpoint`,
    # `_load_best_model`. Three for evaluations inside of a step, weights that must not be saved, and stale files
    # and one that counts what vLLM's importance sampling does to a rollout. One for the model card
    assert len(overrides()) <= 28, "\n".join(f"{cls}.{name}" for name, cls in overrides())


def made(node: ast.ClassDef) -> set[str]:
    """Names that a class brings: its methods, its class attributes, and what `__init__` assigns on `self`."""
    names = set()
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(child.name)
        elif isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            stored = [n for n in ast.walk(child) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
            names |= {n.attr for n in stored if ast.unparse(n.value) == "self"}
    return names


def used(node: ast.ClassDef) -> dict[str, int]:
    """Private names that a class reads, calls or writes on itself, each with a line."""
    return {
        child.attr: child.lineno
        for child in ast.walk(node)
        if isinstance(child, ast.Attribute)
        and re.fullmatch(r"_[a-z]\w*", child.attr)
        and ast.unparse(child.value) in ("self", "cls", "super()")
    }


def test_no_class_uses_a_private_name_from_above_its_parent():
    # A name of the host is listed in `host/`; every other belongs to the class itself or to the one it derives from
    classes = {node.name: node for _, node in walked(ast.ClassDef)}
    strangers = []
    for module, node in walked(ast.ClassDef):
        bases = [_last_part(base) for base in node.bases]
        if not bases or any(base not in classes and not base.endswith("Trainer") for base in bases):
            continue  # it has no parent, or one whose names are not written here
        known = host_names().union(made(node), *(made(classes[base]) for base in bases if base in classes))
        strangers += [
            f"{place(module)}:{line} {node.name} uses {name}" for name, line in used(node).items() if name not in known
        ]
    assert_none(strangers)


# -------------------------------------------------------------------------------------------------------- public names

PUBLIC = [name for name in MODULES if not any(part.startswith("_") for part in name.split("."))]


def test_every_public_module_says_what_is_in_it():
    assert_none(place(module) for module in PUBLIC if not ast.get_docstring(tree(module)))


def test_every_public_function_and_class_has_a_docstring():
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    named = [(module, node) for module in PUBLIC for node in tree(module).body if isinstance(node, kinds)]
    assert_none(
        f"{place(module)}:{node.lineno} {node.name}"
        for module, node in named
        if not node.name.startswith("_") and not ast.get_docstring(node)
    )


def _declares_all(module: str) -> bool:
    targets = [target for node in tree(module).body if isinstance(node, ast.Assign) for target in node.targets]
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def test_every_name_in_all_resolves():
    wrong = []
    for module in filter(_declares_all, PUBLIC):
        loaded = importlib.import_module(f"trl_dapo.{module}".rstrip("."))
        wrong += [f"{module}.{name} is missing" for name in loaded.__all__ if not hasattr(loaded, name)]
        wrong += [f"{module}.{name} is listed twice" for name, n in Counter(loaded.__all__).items() if n > 1]
    assert_none(wrong)


def test_the_package_lists_its_names():
    assert dir(trl_dapo) == sorted(trl_dapo.__all__)
    assert trl_dapo.DAPOConfig.__module__ == "trl_dapo.dapo.config"
    assert trl_dapo.DAPOTrainer.__module__ == "trl_dapo.dapo.trainer"


def test_an_unknown_name_of_the_package_raises_as_python_does():
    with pytest.raises(AttributeError, match="module 'trl_dapo' has no attribute 'DAPOTrainr'"):
        trl_dapo.DAPOTrainr  # noqa: B018
