"""
Which TRL this is, and whether the parts of it that we build on are the ones we know.

The package overrides, calls and replaces private methods of TRL's trainers, its seams, and TRL promises none of
them. Here they are written down, read off the class and its source and never off an instance: no model, no trainer.
The invariant: a release that passes [`check_host`] differs from the tested ones only in what is not listed here.
"""

import ast
import inspect
import sys
from importlib.metadata import version

from packaging.specifiers import SpecifierSet


__all__ = ["SUPPORTED_TRL", "check_host", "seam_differences"]

SUPPORTED_TRL = ">=1.12,<1.17"
TESTED_TRL = "1.16.0"

# The first release whose trainer has `eos_token_ids`, the end tokens of the model and of the tokenizer
SEVERAL_END_TOKENS_SINCE = "1.13.0"

# Methods that a subclass overrides, hence exact parameter names, in order.
OVERRIDDEN = {
    "__init__": (
        "self",
        "model",
        "reward_funcs",
        "args",
        "train_dataset",
        "eval_dataset",
        "processing_class",
        "reward_processing_classes",
        "callbacks",
        "optimizers",
        "quantization_config",
        "peft_config",
        "tools",
        "rollout_func",
        "environment_factory",
    ),
    "_generate": ("self", "prompts"),
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("self", "inputs"),
    "_prepare_inputs": ("self", "generation_batch"),
    "_compute_loss": ("self", "model", "inputs"),
    "training_step": ("self", "model", "inputs", "num_items_in_batch"),
    "log": ("self", "logs", "start_time"),
    "_save_checkpoint": ("self", "model", "trial"),
    "_load_optimizer_and_scheduler": ("self", "checkpoint"),
    "_get_train_sampler": ("self", "dataset"),
    "get_train_dataloader": ("self",),
}

# The same of transformers' trainer, below each of the hosts. How an epoch is called is passed on as it comes.
INHERITED = {
    "_run_epoch": None,
    "_save_checkpoint": ("self", "model", "trial"),
    "_save_rng_state": ("self", "output_dir"),
    "_load_from_checkpoint": ("self", "resume_from_checkpoint", "model"),
    "_load_best_model": ("self",),
}

# Methods that are called or stubbed, hence only the arguments that must be accepted: positional, then by keyword.
# TRL 1.14 spells this one `(model, *args, batch_size, compute_aux_loss, **kwargs)`.
CALLED = {
    "_get_per_token_logps_and_entropies": (
        ("self", "model", "input_ids", "attention_mask", "logits_to_keep"),
        ("batch_size", "compute_entropy", "compute_aux_loss"),
    ),
}

# The names that a method's `return` gives, in order.
RETURNED = {
    "_generate": (
        "prompt_ids",
        "completion_ids",
        "tool_mask",
        "completions",
        "logprobs",
        "extra_fields",
        "images",
        "tool_images",
    ),
}

# How many values every caller takes apart, which is what a replacement has to return.
UNPACKED = {"_generate": 8, "_get_per_token_logps_and_entropies": 3}

# What one scoring pass calls, in order and once each: a replayed batch passes through both.
SCORING_CALLS = ("_generate", "_calculate_rewards")

ATTRIBUTES = (
    "_buffered_inputs",
    "_current_train_step_time",
    "_environment_pool",
    "_logs",
    "_metrics",
    "_pending_extra_logs",
    "_pending_metrics",
    "_step",
    "aux_loss_enabled",
    "beta",
    "environments",
    "loss_type",
    "pad_to_multiple_of",
    "reward_func_names",
    "reward_funcs",
    "reward_processing_classes",
    "reward_weights",
    "use_vllm",
    "vllm_generation",
)

# The same of the trainers that learn from preferences, by the name of their host
PREFERENCE_OVERRIDDEN = {
    "RewardTrainer": {
        "__init__": (
            "self",
            "model",
            "args",
            "data_collator",
            "train_dataset",
            "eval_dataset",
            "processing_class",
            "compute_metrics",
            "callbacks",
            "optimizers",
            "optimizer_cls_and_kwargs",
            "preprocess_logits_for_metrics",
            "quantization_config",
            "peft_config",
        ),
        "_prepare_dataset": ("self", "dataset", "processing_class", "args", "dataset_name"),
        "compute_loss": ("self", "model", "inputs", "return_outputs", "num_items_in_batch"),
        "log": ("self", "logs", "start_time"),
    },
    "DPOTrainer": {
        "__init__": (
            "self",
            "model",
            "ref_model",
            "args",
            "data_collator",
            "train_dataset",
            "eval_dataset",
            "processing_class",
            "compute_metrics",
            "callbacks",
            "optimizers",
            "quantization_config",
            "peft_config",
        ),
        "_prepare_dataset": ("self", "dataset", "processing_class", "args", "dataset_name"),
        "_precompute_ref_logps": ("self", "dataset", "name", "batch_size"),
        "compute_loss": ("self", "model", "inputs", "return_outputs", "num_items_in_batch"),
    },
}

# What DPO's loss gathers over processes as rows, in order; the means of these are all that it keeps
DPO_GATHERED = ("chosen_rewards", "rejected_rewards", "reward_accuracies", "margins", "chosen_logps", "rejected_logps")


def check_host(host: type | None = None) -> None:
    """
    Raise `ImportError` unless the installed TRL is in the supported range and its seams are the known ones.

    The message names the installed version, the range and the fix. The version is looked at first, without importing
    TRL, so that a release which fails to import here is named too.

    Args:
        host (`type`, *optional*, defaults to [`~trl.GRPOTrainer`]):
            The trainer of TRL's that is built on.
    """
    installed = version("trl")
    if not SpecifierSet(SUPPORTED_TRL).contains(installed, prereleases=True):
        raise ImportError(
            f"trl_dapo supports trl{SUPPORTED_TRL}, but trl {installed} is installed. Install a supported release: "
            f"`pip install 'trl{SUPPORTED_TRL}'`."
        )
    differences = seam_differences(host)
    if differences:
        listed = "".join(f"\n  - {difference}" for difference in differences)
        raise ImportError(
            f"trl {installed} is in the range that trl_dapo supports (trl{SUPPORTED_TRL}), but it differs in what "
            f"trl_dapo builds on:{listed}\nInstall the release that trl_dapo is developed on: "
            f"`pip install 'trl=={TESTED_TRL}'`."
        )


def seam_differences(host: type | None = None) -> list[str]:
    """
    What `host` does otherwise than the trainers that this package knows, one sentence each; empty if nothing.

    Args:
        host (`type`, *optional*, defaults to [`~trl.GRPOTrainer`]):
            Class to look at. Its source has to be readable.
    """
    if host is None:
        # Here and not above: the import takes seconds, and fails on some releases that `check_host` has to name.
        from trl.trainer.grpo_trainer import GRPOTrainer as host
    if inherited := _inherited_differences(host):
        return inherited
    if host.__name__ in PREFERENCE_OVERRIDDEN:
        return _preference_differences(host)
    missing = [name for name in (*OVERRIDDEN, *CALLED) if name not in vars(host)]
    if missing:
        return [f"{host.__name__} does not define {name}" for name in missing]
    nodes = list(ast.walk(_class_body(host)))
    methods = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
    return [
        *_signature_differences(host, OVERRIDDEN),
        *_call_differences(host),
        *_return_differences(methods),
        *_unpacking_differences(nodes),
        *_scoring_differences(methods["_generate_and_score_completions"]),
        *_attribute_differences(nodes),
    ]


def _class_body(host: type) -> ast.ClassDef:
    # `inspect.getsource(host)` would parse the module to find the class, and be parsed again.
    module = ast.parse(inspect.getsource(sys.modules[host.__module__]))
    return next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == host.__name__)


def _preference_differences(host: type) -> list[str]:
    overridden = PREFERENCE_OVERRIDDEN[host.__name__]
    missing = [name for name in overridden if name not in vars(host)]
    if missing:
        return [f"{host.__name__} does not define {name}" for name in missing]
    return [*_signature_differences(host, overridden), *_gather_differences(_class_body(host))]


def _gather_differences(body: ast.ClassDef) -> list[str]:
    if body.name != "DPOTrainer":
        return []
    differences = []
    # With Liger kernels, TRL before 1.14 computes the loss in a method of its own
    for method in body.body:
        if isinstance(method, ast.FunctionDef) and method.name.startswith("_compute_loss"):
            calls = [node for node in ast.walk(method) if isinstance(node, ast.Call)]
            gathers = [node for node in calls if ast.unparse(node.func) == "self.accelerator.gather"]
            found = tuple(
                ast.unparse(node.args[0]) for node in sorted(gathers, key=lambda node: (node.lineno, node.col_offset))
            )
            if found != DPO_GATHERED:
                differences.append(f"{method.name} gathers {found} instead of {DPO_GATHERED}")
    return differences


def _inherited_differences(host: type) -> list[str]:
    missing = [name for name in INHERITED if not hasattr(host, name)]
    if missing:
        return [f"{host.__name__} does not inherit {name} from transformers' Trainer" for name in missing]
    return _signature_differences(host, {name: taken for name, taken in INHERITED.items() if taken is not None})


def _signature_differences(host: type, overridden: dict[str, tuple[str, ...]]) -> list[str]:
    differences = []
    for name, expected in overridden.items():
        found = tuple(inspect.signature(getattr(host, name)).parameters)
        if found != expected:
            differences.append(f"{name} takes ({', '.join(found)}) instead of ({', '.join(expected)})")
    return differences


def _call_differences(host: type) -> list[str]:
    differences = []
    for name, (positional, keywords) in CALLED.items():
        signature = inspect.signature(getattr(host, name))
        try:
            signature.bind(*positional, **dict.fromkeys(keywords))
        except TypeError as error:
            differences.append(f"{name} cannot be called with ({', '.join([*positional, *keywords])}): {error}")
    return differences


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


def _attribute_differences(nodes: list[ast.AST]) -> list[str]:
    stored = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    assigned = {node.attr for node in stored if _is_self(node.value)}
    return [f"the attribute {name} is not assigned" for name in ATTRIBUTES if name not in assigned]


def _self_call(node: ast.AST) -> str | None:
    """The name of the method, where `node` is `self.name(...)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_self(node.func.value):
        return node.func.attr
    return None


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"
