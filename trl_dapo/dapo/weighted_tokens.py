"""
The user's weights of tokens, put into a rollout's advantages.

What a weight is and how denominators follow from it is in `token_weights`.
"""

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import gather

from .sampling.rollouts import Row
from .token_weights import checked_weights, padded, row_factors, weight_sums


class WeightedTokens:
    """
    Gives each token an advantage of its own.

    Args:
        function (`Callable`, *optional*):
            Returns one list of weights per completion. By default all weights are 1.
        scope (`str`):
            `"batch"` or `"prompt"`: the tokens that a token's loss is divided by.
        num_generations (`int`):
            Rows of a group.
    """

    def __init__(self, function: Callable[..., Any] | None, scope: str, num_generations: int) -> None:
        self._function, self._scope, self._num_generations = function, scope, num_generations

    def put_into(self, output: dict[str, Any], rows: list[Row], process_index: int) -> dict[str, Any]:
        """
        Returns a rollout's output with one advantage per token, of which the weights are a factor.

        Args:
            output (`dict[str, Any]`):
                What TRL's scoring pass returned for b rows.
            rows (`list[Row]`):
                The rows.
            process_index (`int`):
                This process. All of them must call it.
        """
        if self._function is None and self._scope == "batch":
            return output
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        weights = self._weights(rows, mask.size(1)).to(mask.device)
        facts = [weight_sums(weights, mask), mask.sum(dim=1).double(), weight_sums((weights - 1).abs(), mask)]
        weight, tokens, difference = gather(torch.stack(facts, dim=1)).T
        if self._scope == "batch" and not difference.any():
            return output
        factors = row_factors(weight, tokens, self._num_generations, self._scope)
        mine = factors[process_index * len(rows) :][: len(rows)].to(weights.dtype)
        output["advantages"] = output["advantages"].unsqueeze(1) * (weights * mine.unsqueeze(1))
        return output

    def _weights(self, rows: list[Row], width: int) -> torch.Tensor:
        completion_ids = [row.completion_ids for row in rows]
        if self._function is None:
            return padded([torch.ones(len(ids)) for ids in completion_ids], width)
        columns = [name for name in rows[0].inputs if name not in ("prompt", "completion", "completion_ids")]
        returned = self._function(
            prompts=[row.prompt for row in rows],
            completions=[row.completion for row in rows],
            completion_ids=completion_ids,
            **{name: [row.inputs[name] for row in rows] for name in columns},
        )
        return padded(checked_weights(returned, completion_ids, "token_importance_func"), width)
