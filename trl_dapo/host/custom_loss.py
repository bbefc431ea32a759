"""
Whether the loss is still the one that the update phase knows: TRL's, or that of a trainer of this package.

A subclass that adds a term in `_compute_loss`, as TRL's documentation recommends, may add a mean over its micro-batch
or count its calls. Packed micro-batches hold other rows, and TRL's loss is asked once more for what it logs, so that
such a term would get another weight. Where a method of the loss is not the known one, TRL's own micro-batches are run.
"""

from typing import Any

from trl import GRPOTrainer as HostTrainer


# What gives `_compute_loss` its micro-batch, what calls it, and what it calls
LOSS_METHODS = (
    "_compute_loss",
    "compute_loss",
    "_prepare_inputs",
    "_get_per_token_logps_and_entropies",
    "get_off_policy_mask",
    "get_gamma_weights",
    "get_high_entropy_mask",
)
PACKAGE = __name__.split(".")[0]
KNOWN = (PACKAGE, "trl.trainer", "transformers")
# Where TRL's profiling and `torch.no_grad` wrap what they decorate
DECORATORS = ("trl.extras", "torch")


def changed_loss(trainer: Any) -> str | None:
    """
    Returns the method of the loss that a trainer does not have from this package or from its host, as
    `"Class.method"`; `None` where there is none.
    """
    own = vars(trainer)
    for name in LOSS_METHODS:
        if name in own and not _is_known(own[name]):
            return f"{type(trainer).__name__}.{name}, set on the instance"
        for cls in type(trainer).__mro__:
            if name in vars(cls) and not (_is_ours_or_hosts(cls) and _is_known(vars(cls)[name])):
                return f"{cls.__name__}.{name}"
    return None


def _is_ours_or_hosts(cls: type) -> bool:
    return cls.__module__.split(".")[0] == PACKAGE or issubclass(HostTrainer, cls)


def _is_known(function: Any) -> bool:
    """Whether a function was written in one of the known places; what wraps another counts by its own place."""
    function = getattr(function, "__func__", function)
    while _is_in(function, DECORATORS) and hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return _is_in(function, KNOWN)


def _is_in(function: Any, places: tuple[str, ...]) -> bool:
    module = getattr(function, "__globals__", {}).get("__name__", "")
    return any(module == place or module.startswith(f"{place}.") for place in places)
