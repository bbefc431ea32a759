"""
What of a model is trained: whether there is anything, and whether the loss can reach all of it.
"""

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from torch import nn


# The name that TRL looks the reference up by
REFERENCE = "ref"

Logps = Callable[[Any], torch.Tensor]


def check_trainable(model: nn.Module) -> None:
    """Raises `ValueError`, with the fix, where nothing of a model, or of its active adapter, can be trained."""
    if not isinstance(model, PeftModel):
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(
                f"No parameter of `model` ({type(model).__name__}) has requires_grad=True, so that nothing would be "
                "trained. Call `model.requires_grad_(True)`, or give `peft_config`."
            )
        return
    active = active_adapters(model)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not any(owner(model, name) in (None, *active) for name in trainable):
        raise ValueError(
            f"The active adapter {'+'.join(active)!r} of `model` has no parameter with requires_grad=True, so that "
            "nothing would be trained. Load it with `PeftModel.from_pretrained(base, folder, is_trainable=True)`, or "
            f"call `model.set_adapter({active[0]!r})`."
        )
    idle = [name for name in trainable if owner(model, name) not in (None, REFERENCE, *active)]
    if idle:
        raise ValueError(
            f"{len(idle)} parameters of `model` are trainable and belong to adapters that are not active, e.g. "
            f"{idle[0]!r}; the active one is {'+'.join(active)!r}. The loss cannot reach them. Call "
            f"`model.set_adapter({active[0]!r})`, which freezes the others, or delete them."
        )


def active_adapters(model: PeftModel) -> list[str]:
    """Returns the names of the active adapters."""
    # The layers', which may be several; `active_adapter` is only what the model was last told
    active: Any = model.active_adapters
    return [active] if isinstance(active, str) else list(active)


def check_reach(model: nn.Module, logps: Logps) -> None:
    """Raises `ValueError`, with the fix, for trainable parameters that a pass does not use."""
    if hasattr(model.config, "vision_config") or hasattr(model.config, "audio_config"):
        return  # text alone does not reach what sees and hears
    with torch.enable_grad():
        reached = _variables(logps(model).sum().grad_fn)
    # Where rows are dealt to experts one by one, few tokens do not reach all of them
    missed = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in reached and "expert" not in name
    ]
    if missed and reached:
        raise ValueError(
            f"{len(missed)} trainable parameters cannot be reached by the loss, e.g. {missed[0]!r}: no token's "
            "log-probability depends on them. Call `requires_grad_(False)` on them, or leave their modules out of "
            "the adapter's `target_modules` and `modules_to_save`."
        )
    if missed and not any("expert" in name for name, p in model.named_parameters() if p.requires_grad):
        raise ValueError(
            f"The loss can reach no trainable parameter, e.g. not {missed[0]!r}: no token's log-probability depends "
            "on them. Choose other `target_modules` for the adapter, or unfreeze parameters that the model uses."
        )


def _variables(node: Any) -> set[int]:
    """Returns the ids of the parameters that a graph of autograd ends in."""
    found, seen, waiting = set(), set(), [node]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting.extend(following for following, _ in node.next_functions)
    return found


def owner(model: PeftModel, name: str) -> str | None:
    """Returns the adapter that a parameter belongs to; `None` where its name says none."""
    parts = name.split(".")
    return next((adapter for adapter in model.peft_config if adapter in parts), None)
