"""
Train and eval mode of a model's modules.
"""

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Generator[None]:
    """Puts a model into eval mode while it is entered; afterwards every submodule is in the mode that it was in."""
    # `model.train(mode)` would set all submodules alike, even those that were in another mode
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
