"""
One step of training on copies of the trained weights: do they move at this precision, and does the model notice?
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .starting_point import as_it_was


@dataclass(frozen=True)
class Step:
    """
    What one step did.

    Args:
        with_gradient (`int`):
            Entries of the trained weights with a gradient other than 0.
        moved (`int`):
            Those of them that are another number after the step.
        change (`float`):
            Largest change of an output, in its own unit.
    """

    with_gradient: int
    moved: int
    change: float


def one_step(model: nn.Module, outputs: Callable[[Any], torch.Tensor], learning_rate: float) -> Step:
    """
    Takes the first step of Adam, `learning_rate * sign(gradient)`, up the sum of some outputs, and takes it back.

    Weights are put back from copies, bit for bit; gradients and optimizer are not touched.

    Args:
        model (`nn.Module`):
            The model, whose trainable parameters are all stepped.
        outputs (`Callable`):
            Gives outputs of the model.
        learning_rate (`float`):
            Size of the step.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with as_it_was(model), torch.enable_grad():
        before = outputs(model)
        gradients = torch.autograd.grad(before.float().sum(), trained, allow_unused=True)
        pairs = [(p, g) for p, g in zip(trained, gradients, strict=True) if g is not None]
        copies = [parameter.detach().clone() for parameter, _ in pairs]
        try:
            with torch.no_grad():
                moved = sum(_stepped(parameter, gradient, learning_rate) for parameter, gradient in pairs)
                change = (outputs(model).float() - before.float()).abs().max().item()
        finally:
            with torch.no_grad():
                for (parameter, _), copy in zip(pairs, copies, strict=True):
                    parameter.copy_(copy)
    return Step(sum(int(gradient.count_nonzero()) for _, gradient in pairs), moved, change)


def _stepped(parameter: nn.Parameter, gradient: torch.Tensor, learning_rate: float) -> int:
    before = parameter.clone()
    parameter.add_(gradient.sign().to(parameter.dtype), alpha=learning_rate)
    return int((parameter != before).sum())
