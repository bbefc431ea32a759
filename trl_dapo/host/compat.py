"""
Checks that the installed TRL, transformers, accelerate, datasets and peft are ones that this package works with.

First their versions (`releases`), then every name in `host_names`: TRL promises none of its private methods, so a
release may change one without notice. All is read from classes and their source; no model is loaded and no trainer is
built.
"""

import ast
import inspect
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from .host_names import (
    DATALOADER_KEYWORDS,
    DPO_GATHERED,
    FIRST_RELEASE,
    INHERITED,
    NEEDS_TRITON,
    OTHER_CLASSES,
    RETURNED,
    SCORING_CALLS,
    TESTED,
    TRAINERS,
    UNPACKED,
    WITH_TRITON,
    Names,
)
from .releases import check_releases, newest_tested, tell_untested, untested, untested_sentence


__all__ = ["check_host", "seam_differences"]


def check_host(host: type | None = None) -> None:
    """
    Raise `ImportError` if the installed TRL, or a library that it builds on, is not one that this package works with.

    The message names the installed version, the supported range and the fix. A release that is newer than the tested
    ones, inside the range, and has all that is used passes with a warning, once in a process.

    Args:
        host (`type`, *optional*, defaults to [`~trl.GRPOTrainer`]):
            The TRL trainer to check.

    Raises:
        `ImportError`: If a version is outside its range, or if a name that the package uses is missing or changed.
    """
    check_releases()
    differences = seam_differences(host)
    if differences:
        raise ImportError(_refusal(differences))
    tell_untested()


def _refusal(differences: list[str]) -> str:
    newer = untested()
    if newer:
        begin = f"{untested_sentence(newer)} What is installed differs from the tested releases in what trl_dapo uses:"
    else:
        found = ", ".join(f"{name} {version(name)}" for name in TESTED)
        begin = (
            f"the installed releases are in the ranges that trl_dapo supports ({found}), but they differ from the "
            "tested ones in what trl_dapo uses:"
        )
    listed = "".join(f"\n  - {difference}" for difference in differences)
    return f"{begin}{listed}\nInstall the newest tested releases: {newest_tested()}."


def seam_differences(host: type | None = None) -> list[str]:
    """
    Returns how `host` differs from the trainers that this package was tested with, one sentence each.

    Args:
        host (`type`, *optional*, defaults to [`~trl.GRPOTrainer`]):
            A TRL trainer whose source can be read.

    Returns:
        `list[str]`: Empty if nothing differs. If `host` lacks a method, only what is missing is listed.
    """
    if host is None:
        # Imported here because it takes seconds, and fails on some releases that `check_host` has to name
        from trl.trainer.grpo_trainer import GRPOTrainer as host
    own = TRAINERS[host.__name__]
    missing = [name for name in (*own.overridden, *own.called) if name not in vars(host)]
    if missing:
        return [f"{host.__name__} does not define {name}" for name in missing]
    return [
        *_class_differences(host, own),
        *_inherited_differences(host, INHERITED[host.__name__]),
        *_other_differences(),
        *_kernel_differences(host.__name__),
        *(_flow_differences(host) if host.__name__ == "GRPOTrainer" else []),
        *(_gather_differences(host) if host.__name__ == "DPOTrainer" else []),
    ]


# ------------------------------------------------------------------------------------------------------- names


def _class_differences(owner: type, names: Names) -> list[str]:
    return [*_method_differences(owner, names), *_attribute_differences(owner, names)]


def _inherited_differences(host: type, names: Names) -> list[str]:
    from transformers import Trainer

    # Methods as `host` has them, since TRL may override one in between; attributes where they are assigned
    return [*_method_differences(host, names), *_attribute_differences(Trainer, names)]


def _other_differences() -> list[str]:
    differences = []
    for path, names in OTHER_CLASSES.items():
        module, _, name = path.rpartition(".")
        try:
            owner = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            differences.append(f"there is no {path}")
        else:
            differences += _class_differences(owner, names)
    return differences


def _kernel_differences(host: str) -> list[str]:
    needs = SpecifierSet(NEEDS_TRITON).contains(version("trl"), prereleases=True)
    if needs and host in WITH_TRITON and find_spec("triton") is None:
        return [f"{host} of TRL {version('trl')} computes log-probabilities with Triton alone, and there is no triton"]
    return []


def _method_differences(owner: type, names: Names) -> list[str]:
    missing = [name for name in (*names.overridden, *names.called, *names.defined) if not hasattr(owner, name)]
    differences = [f"{owner.__name__} has no {name}" for name in missing]
    for name, expected in names.overridden.items():
        if name in missing:
            continue
        found = tuple(inspect.signature(getattr(owner, name)).parameters)
        if found != expected:
            differences.append(f"{name} takes ({', '.join(found)}) instead of ({', '.join(expected)})")
    for name, arguments in names.called.items():
        if name in missing:
            continue
        try:
            inspect.signature(getattr(owner, name)).bind(*arguments.positional, **dict.fromkeys(arguments.keywords))
        except TypeError as error:
            listed = ", ".join([*arguments.positional, *arguments.keywords])
            differences.append(f"{name} cannot be called with ({listed}): {error}")
    return differences


def _attribute_differences(owner: type, names: Names) -> list[str]:
    if not names.attributes:
        return []
    assigned = _assigned(inspect.getsource(sys.modules[owner.__module__]), owner.__name__)
    return [
        f"{owner.__name__} does not assign self.{name}"
        for name in names.attributes
        if name not in assigned and not is_of_a_later_release(name)
    ]


def is_of_a_later_release(name: str) -> bool:
    """Returns whether an attribute came with a release of TRL that is newer than the installed one."""
    return name in FIRST_RELEASE and Version(version("trl")) < Version(FIRST_RELEASE[name])


# One trainer after the other is checked in a process, and a module takes up to 60 ms to parse
@cache
def _assigned(source: str, owner: str) -> frozenset[str]:
    """Returns the attributes that the class `owner` assigns on `self`."""
    attributes = (node for node in ast.walk(_class_node(source, owner)) if isinstance(node, ast.Attribute))
    return frozenset(node.attr for node in attributes if isinstance(node.ctx, ast.Store) and _is_self(node.value))


def _class_node(source: str, name: str) -> ast.ClassDef:
    return next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)


# --------------------------------------------------------------------------------- values passed between methods


def _flow_differences(host: type) -> list[str]:
    body = _class_node(inspect.getsource(sys.modules[host.__module__]), host.__name__)
    nodes = list(ast.walk(body))
    methods = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
    return [
        *_return_differences(methods),
        *_unpacking_differences(nodes),
        *_scoring_differences(methods["_generate_and_score_completions"]),
        *_dataloader_differences(methods["get_train_dataloader"]),
    ]


def _return_differences(methods: dict[str, ast.FunctionDef]) -> list[str]:
    differences = []
    for name, values in RETURNED.items():
        expected = f"({', '.join(values)})"
        for node in ast.walk(methods[name]):
            if isinstance(node, ast.Return):
                found = ast.unparse(node.value) if node.value else "None"
                if found != expected:
                    differences.append(f"{name} returns {found} instead of {expected}")
    return differences


def _unpacking_differences(nodes: list[ast.AST]) -> list[str]:
    differences = []
    for node in nodes:
        if not isinstance(node, ast.Assign):
            continue
        name = _self_call(node.value)
        if name in UNPACKED:
            target = node.targets[0]
            found = len(target.elts) if isinstance(target, ast.Tuple) else 1
            if found != UNPACKED[name]:
                differences.append(f"{name} is unpacked into {found} values instead of {UNPACKED[name]}")
    return differences


def _scoring_differences(scoring: ast.FunctionDef) -> list[str]:
    calls = [node for node in ast.walk(scoring) if isinstance(node, ast.Call) and _self_call(node) in SCORING_CALLS]
    found = tuple(_self_call(node) for node in sorted(calls, key=lambda node: node.lineno))
    if found == SCORING_CALLS:
        return []
    return [f"{scoring.name} calls {found} instead of {SCORING_CALLS}"]


def _dataloader_differences(method: ast.FunctionDef) -> list[str]:
    calls = [node for node in ast.walk(method) if _self_call(node) == "_get_dataloader" and isinstance(node, ast.Call)]
    if len(calls) != 1:
        return [f"{method.name} calls _get_dataloader {len(calls)} times instead of once"]
    passed = {word.arg: ast.unparse(word.value) for word in calls[0].keywords}
    return [
        f"{method.name} calls _get_dataloader without {name}{'' if value is None else '=' + value}"
        for name, value in DATALOADER_KEYWORDS.items()
        if name not in passed or (value is not None and passed[name] != value)
    ]


def _gather_differences(host: type) -> list[str]:
    differences = []
    # With Liger kernels, TRL before 1.14 computes the loss in a method of its own
    for method in _class_node(inspect.getsource(sys.modules[host.__module__]), host.__name__).body:
        if isinstance(method, ast.FunctionDef) and method.name.startswith("_compute_loss"):
            calls = [node for node in ast.walk(method) if isinstance(node, ast.Call)]
            gathers = [node for node in calls if ast.unparse(node.func) == "self.accelerator.gather"]
            found = tuple(
                ast.unparse(node.args[0]) for node in sorted(gathers, key=lambda node: (node.lineno, node.col_offset))
            )
            if found != DPO_GATHERED:
                differences.append(f"{method.name} gathers {found} instead of {DPO_GATHERED}")
    return differences


def _self_call(node: ast.AST) -> str | None:
    """Returns the name of the method if `node` is `self.name(...)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_self(node.func.value):
        return node.func.attr
    return None


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"
