"""
What is in charge of one pass of TRL's trainer.

TRL's trainer asks itself five things: inputs, completions, rewards, log-probabilities and a loss. The pass in charge
answers, and [`Pass`] itself lets TRL answer. The trainer has one pass at a time, so two kinds cannot mix. Other kinds
lie where they are used: `packing.update_phase` and `dapo.sampling.rounds`.
"""

from collections.abc import Callable
from typing import Any

import torch


class Pass:
    """
    TRL's own pass. Each method gets TRL's method as `host` and what TRL would call it with.

    Attributes:
        offset (`int`):
            Columns that were cut on the left of the inputs.
        is_hosts (`bool`):
            Whether the loss is that of a micro-batch as TRL dealt it.
    """

    offset = 0
    is_hosts = True

    def inputs(self, host: Callable, batch: Any) -> Any:
        """Returns what the loss takes."""
        return host(batch)

    def generation(self, host: Callable, prompts: list) -> Any:
        """Returns the completions of the prompts, as TRL's `_generate` does."""
        return host(prompts)

    def rewards(self, host: Callable[[], torch.Tensor], inputs: list[dict[str, Any]]) -> torch.Tensor:
        """Returns the rewards of the rows of all processes, shape `(B, reward functions)`."""
        return host()

    def logps(self, host: Callable, model: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Returns log-probabilities, entropies and the auxiliary loss of a model."""
        return host(model, input_ids, *args, **kwargs)

    def loss(self, host: Callable, model: Any, inputs: Any) -> torch.Tensor:
        """Returns the loss of the inputs."""
        return host(model, inputs)
