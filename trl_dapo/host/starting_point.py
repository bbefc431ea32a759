"""
Where training starts from: what can be trained, and the reference, which is the policy before the first update.

TRL makes the reference by switching the adapter off, by a copy of an adapter, or by loading a model of the same name
once more. None of these is the starting policy in any case: an adapter may start away from zero or change its base,
and a model in memory may have been trained since it was loaded. Here both are asked for log-probabilities of the same
tokens; where they differ, the reference is made a copy of the policy, and the log says so.
"""

import copy
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.logging import get_logger
from peft import PeftModel
from torch import nn
from trl.trainer.utils import get_config_model_id, use_adapter

from ..qlora.precision import is_quantized
from .trainable import REFERENCE, Logps, active_adapters, check_reach, check_trainable, owner


logger = get_logger(__name__)

# Field of LoRA's config that says how an adapter starts; any value but `True` may change the base, or not start at 0.
# `init_weights` of other methods may choose the method itself, and stays
STARTS = ("init_lora_weights",)
# Starts of LoRA at which one factor is 0, so that the model is its base
ZERO_STARTS = (True, None, "gaussian", "eva", "orthogonal")
# Beside a float's own precision: what other kernels may do to a log-probability
ROUNDING = 1e-4


# Before TRL's constructor


def check_given(model: Any, has_reference: bool) -> None:
    """
    Raises `ValueError`, with the fix, for a model that cannot be trained, or whose reference TRL cannot make.

    Args:
        model (`Any`):
            What the user gave. The name of a model is left alone.
        has_reference (`bool`):
            Whether TRL will make the reference from it.
    """
    if model is None:
        raise ValueError("`model` is None: give the name of a model on the Hub, a folder, or a model that is loaded.")
    if not isinstance(model, nn.Module):
        return
    check_trainable(model)
    if isinstance(model, PeftModel) and has_reference and "default" not in model.peft_config:
        names = list(model.peft_config)
        raise ValueError(
            f"The adapter of `model` is named {names[0]!r}, and TRL makes the reference from one named 'default'. "
            "Load it without `adapter_name`: `PeftModel.from_pretrained(base, folder, is_trainable=True)`."
        )


@contextmanager
def copies_start_plainly(model: Any) -> Generator[None]:
    """
    Lets adapters that are made from the configs of a model start as PEFT's default does, while it is entered.

    TRL adds the reference with the config of the trained adapter. With `init_lora_weights="pissa"`, "olora" and their
    like, adding it takes the principal part out of the base a second time, which changes the policy too.
    """
    configs = list(model.peft_config.values()) if isinstance(model, PeftModel) else []
    starts = [(config, name, vars(config)[name]) for config in configs for name in STARTS if name in vars(config)]
    for config, name, _ in starts:
        setattr(config, name, True)
    try:
        yield
    finally:
        for config, name, value in starts:
            setattr(config, name, value)


# After it


def settle_start(trainer: Any, logps: Logps, has_reference: bool, chosen_reference: bool = False) -> bool:
    """
    Checks what is trained, and makes the reference the starting policy. Returns whether it was replaced for that.

    Args:
        trainer (`Any`):
            A trainer of TRL's that is constructed, with `model` and, where it has one, `ref_model`.
        logps (`Callable`):
            Gives log-probabilities, or logits, of a few tokens by a model of this kind.
        has_reference (`bool`):
            Whether the loss, or the reward, compares with a reference.
        chosen_reference (`bool`, *optional*, defaults to `False`):
            Whether the user gave the reference, which is then left as it is.

    Raises:
        `ValueError`: Where nothing is trained, a trained parameter is out of reach, or the reference cannot be made
            the starting policy.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel) and REFERENCE in model.peft_config and REFERENCE not in active_adapters(model):
        for name, parameter in model.named_parameters():
            if owner(model, name) == REFERENCE:
                parameter.requires_grad_(False)
    check_trainable(model)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        # The policy is sharded when training begins and not before, so that no pass can be run here
        _check_unprobed(model, has_reference and not chosen_reference)
        return False

    def seeded(model: Any) -> torch.Tensor:
        torch.manual_seed(0)  # attention may have a dropout of its own
        return logps(model)

    with as_it_was(model):
        check_reach(model, seeded)
        replaced = has_reference and _settle_reference(trainer, model, seeded, chosen_reference)
    if has_reference and not chosen_reference and isinstance(model, PeftModel):
        logger.warning(_which_reference(model))
    return replaced


def _which_reference(model: PeftModel) -> str:
    if REFERENCE in model.peft_config:
        return "The reference is the adapter as it is at the start: a copy, frozen."
    return "The reference is the base model: the adapter, switched off."


def probe_ids(vocab_size: int, avoided: list[int], device: Any) -> torch.Tensor:
    """Returns token ids from all over a vocabulary, shape `(2, 8)`, none of them among the avoided ones."""
    allowed = sorted(set(range(vocab_size)).difference(avoided)) or [0]
    chosen = [allowed[(7919 * place + len(allowed) // 3) % len(allowed)] for place in range(16)]
    return torch.tensor(chosen, device=device).view(2, 8)


@contextmanager
def as_it_was(model: nn.Module) -> Generator[None]:
    """Leaves dropout out while it is entered; afterwards, modes and what is trainable are what they were."""
    modes = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    dropouts = [(module, module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
    # In eval mode, bitsandbytes repacks 4-bit weights for some processors
    model.train(is_quantized(model))
    for module, _ in dropouts:
        module.p = 0.0
    device = next(model.parameters()).device
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, share in dropouts:
            module.p = share
        for parameter, was in trainable:
            parameter.requires_grad_(was)


def _check_unprobed(model: nn.Module, has_reference: bool) -> None:
    if not has_reference:
        return
    if not isinstance(model, PeftModel):
        logger.warning(
            "The reference is loaded by name, and with sharded models it cannot be compared with the policy. If the "
            "policy was trained in memory, save it and give its folder as `model`."
        )
        return
    config: Any = model.peft_config[active_adapters(model)[0]]
    start = getattr(config, "init_lora_weights", None)
    if REFERENCE not in model.peft_config and start not in ZERO_STARTS:
        raise ValueError(
            f"init_lora_weights={start!r} starts the adapter away from the base that TRL takes for the reference, and "
            "with sharded models no copy of it can be made. Set init_lora_weights=True, or beta=0."
        )


def _settle_reference(trainer: Any, model: Any, logps: Logps, chosen: bool) -> bool:
    reference = getattr(trainer, "ref_model", None)
    if reference is None and not isinstance(model, PeftModel):
        return False  # DPO with precomputed log-probabilities asks the policy itself
    unlike = None if reference is None or chosen else _other_shapes(model, trainer.accelerator.unwrap_model(reference))
    if unlike is not None:
        name = get_config_model_id(model.config)
        raise ValueError(
            f"The reference that TRL loads by the name of `model`, {name!r}, has other parameters than the model that "
            f"was given: {unlike}. Save the model and give its folder as `model`."
        )
    worst = reference_difference(trainer, model, logps)
    if worst <= tolerance(model):
        return False
    if chosen:
        logger.warning(f"`ref_model` is not the starting policy: log-probabilities differ by up to {worst:.3g} nats.")
        return False
    with torch.no_grad():
        before = logps(model)
        _copy_policy(trainer, model)
        moved = (logps(model) - before).abs().max().item()
    left = max(moved, reference_difference(trainer, model, logps))
    if left > tolerance(model):
        raise ValueError(
            f"The reference is not the starting policy: log-probabilities differ by up to {left:.3g} nats. "
            f"{_fix(model)}"
        )
    logger.warning(
        f"The reference that TRL makes would not be the starting policy: log-probabilities differ by up to "
        f"{worst:.3g} nats. The reference is a copy of the policy instead. {_fix(model)}"
    )
    return True


def tolerance(model: Any) -> float:
    """Returns how far log-probabilities of equal models may be apart, in nats."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return max([ROUNDING, *(8 * torch.finfo(dtype).eps for dtype in dtypes)])


def _fix(model: Any) -> str:
    if not isinstance(model, PeftModel):
        return "To start from the model's own folder, save it and give the folder as `model`."
    config: Any = model.peft_config[active_adapters(model)[0]]
    start = next((f"{name}={getattr(config, name)!r}" for name in STARTS if hasattr(config, name)), "this adapter")
    return f"With {start} the adapter need not start at 0; set it to True for an adapter that does."


def _other_shapes(model: nn.Module, reference: nn.Module) -> str | None:
    mine, theirs = ({name: tuple(p.shape) for name, p in one.state_dict().items()} for one in (model, reference))
    name = next((name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)), None)
    return None if name is None else f"{name!r} is {mine.get(name)} and {theirs.get(name)}"


@torch.no_grad()
def reference_difference(trainer: Any, model: Any, logps: Logps) -> float:
    """Returns the largest difference between log-probabilities of policy and reference, in nats."""
    policy = logps(model)
    if getattr(trainer, "ref_model", None) is not None:
        with as_it_was(trainer.accelerator.unwrap_model(trainer.ref_model)):
            reference = logps(trainer.ref_model)
    else:
        with use_adapter(model, REFERENCE if REFERENCE in model.peft_config else None):
            reference = logps(model)
    return (policy.float() - reference.float().to(policy.device)).abs().max().item()


@torch.no_grad()
def _copy_policy(trainer: Any, model: Any) -> None:
    """Makes the reference a copy of the policy."""
    if getattr(trainer, "ref_model", None) is not None:
        trainer.accelerator.unwrap_model(trainer.ref_model).load_state_dict(model.state_dict())
        return
    active = active_adapters(model)
    if len(active) != 1:
        raise ValueError(
            f"The adapters {active} of `model` are active together, and the reference is not their sum. Merge all but "
            "one into the base, or combine them by `add_weighted_adapter`."
        )
    if REFERENCE not in model.peft_config:
        _add_reference(model, active[0])
    named = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in named.items():
        twin = _renamed(name, active[0], REFERENCE)
        if twin != name and twin in named:
            named[twin].data = parameter.data.clone()
            named[twin].requires_grad_(False)


def _add_reference(model: PeftModel, active: str) -> None:
    config = copy.deepcopy(model.peft_config[active])
    for name in STARTS:
        if hasattr(config, name):
            setattr(config, name, True)
    try:
        model.add_adapter(REFERENCE, config)
    except (ValueError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"The adapter of `model` ({type(config).__name__}) does not start as its base does, and PEFT cannot add a "
            f"copy of it as the reference: {error}. Set beta=0, or start the adapter at 0."
        ) from error
    model.set_adapter(active)


def _renamed(name: str, adapter: str, other: str) -> str:
    return ".".join(other if part == adapter else part for part in name.split("."))
