"""
Whether what a run is about to save can still be used: no weight may be NaN or infinite.

A gradient that is not finite shows in the next step, and the last update has none. The check reads the trained
parameters alone, on each process its own, and asks no other process.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import TrainerCallback


# Names that an error lists at most
SHOWN = 3

Named = Iterable[tuple[str, torch.nn.Parameter]]


def trained_parameters(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """Returns the parameters of a model that are trained, by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def check_finite_weights(parameters: Named, step: int) -> None:
    """
    Raises `ValueError`, naming tensors, where trained parameters are not finite.

    Args:
        parameters (`Iterable[tuple[str, nn.Parameter]]`):
            Trained parameters by name.
        step (`int`):
            Optimizer steps so far, for the message.
    """
    trained = [(name, _held(parameter)) for name, parameter in parameters]
    wrong = [name for name, tensor in trained if not tensor.isfinite().all()]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ValueError(
            f"After optimizer step {step}, {len(wrong)} of {len(trained)} trained tensors hold NaN or infinity "
            f"({', '.join(wrong[:SHOWN])}{more}): they are not saved. Resume from an earlier checkpoint with a lower "
            "`learning_rate` or `max_grad_norm`, and look at the last `grad_norm` in the logs."
        )


class FiniteWeights(TrainerCallback):
    """
    Looks at the weights where a step is to be saved, before anything is written, and at the end of training.

    Args:
        parameters (`Callable[[], Iterable[tuple[str, nn.Parameter]]]`):
            Gives the trained parameters, by name.
    """

    def __init__(self, parameters: Callable[[], Named]) -> None:
        self._parameters = parameters

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_save:
            check_finite_weights(self._parameters(), state.global_step)

    def on_epoch_end(self, args, state, control, **kwargs):
        self.on_step_end(args, state, control)

    def on_train_end(self, args, state, control, **kwargs):
        check_finite_weights(self._parameters(), state.global_step)


def _held(parameter: Any) -> torch.Tensor:
    """The part of a parameter that this process holds."""
    shard = getattr(parameter, "ds_tensor", parameter)  # DeepSpeed ZeRO-3
    shard = shard.to_local() if hasattr(shard, "to_local") else shard  # FSDP2
    return shard.detach()
