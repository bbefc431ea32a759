"""
Activations that wait in the CPU's memory between forward and backward.

TRL has this for its offline trainers. It knows the weights, which stay where they are, and copies while the card
computes. Here it surrounds each accumulation step, so that it covers packed micro-batches and a critic's passes too;
what generates and scores in a step keeps nothing for a backward pass, and is not touched.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.logging import get_logger
from torch import nn
from trl.models import get_act_offloading_ctx_manager
from trl.models.activation_offloading import OffloadActivations


logger = get_logger(__name__)


def offloading(model: Any, wanted: bool, on_cpu: bool) -> AbstractContextManager[Any]:
    """
    Returns what surrounds an accumulation step.

    Args:
        model (`Any`):
            The policy.
        wanted (`bool`):
            `activation_offloading` of the config.
        on_cpu (`bool`):
            Whether it is trained on a CPU, where activations are already.
    """
    if not wanted:
        return nullcontext()
    if on_cpu or not torch.accelerator.is_available():
        logger.warning("activation_offloading=True has no effect on a CPU: activations are in its memory already.")
        return nullcontext()
    return get_act_offloading_ctx_manager(model)


def leave_weights(manager: AbstractContextManager[Any], *models: nn.Module) -> None:
    """Names the models whose weights stay where they are: those of a critic are made after TRL has looked."""
    if isinstance(manager, OffloadActivations):
        manager.update_model_params(nn.ModuleList(models))
