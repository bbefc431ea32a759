r"""
Weights of tokens in the loss, as factors on the advantages.

TRL's losses `"dapo"` and `"cispo"` are a sum over tokens, each term proportional to the token's advantage, divided by
the number N of tokens in the rollout. A factor on a token's advantage is therefore its weight in that sum, and a
common factor replaces N with another denominator. With weights of 1, every factor is exactly 1.

Letters: B rows of all ranks, b rows of this one, T completion tokens, G generations, P groups.
"""

from collections.abc import Sequence
from typing import Any

import torch


def checked_weights(returned: Any, completion_ids: list[list[int]], name: str) -> list[torch.Tensor]:
    """
    Returns one tensor of token weights per completion, each of shape `(length of the completion,)`, float32.

    Args:
        returned (`Any`):
            What the user's function returned: one sequence of weights per completion, one weight per token.
        completion_ids (`list[list[int]]`):
            Tokens of each completion.
        name (`str`):
            Name of the function in messages.

    Raises:
        `ValueError`: If lengths differ, or a weight is negative, infinite, NaN or not a number. It names the row.
    """
    rows_returned = isinstance(returned, Sequence) or (isinstance(returned, torch.Tensor) and returned.dim() > 0)
    if not rows_returned or len(returned) != len(completion_ids):
        got = len(returned) if rows_returned else f"a {type(returned).__name__}"
        raise ValueError(
            f"`{name}` must return one list of weights per completion: {len(completion_ids)} were expected, got {got}."
        )
    rows = []
    for index, (row, ids) in enumerate(zip(returned, completion_ids, strict=True)):
        try:
            weights = torch.as_tensor(row, dtype=torch.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"`{name}` returned {row!r:.200} for row {index}, which are not numbers.") from error
        if weights.shape != (len(ids),):
            raise ValueError(
                f"`{name}` must return one weight per token of the completion: row {index} has {len(ids)} tokens, and "
                f"the weights have shape {tuple(weights.shape)}."
            )
        wrong = ~(weights.isfinite() & (weights >= 0))
        if wrong.any():
            token = int(wrong.nonzero()[0])
            raise ValueError(
                f"`{name}` must return finite weights of at least 0, got {weights[token].item()} for token {token} of "
                f"row {index}."
            )
        rows.append(weights)
    return rows


def row_factors(
    weights_B: torch.Tensor, tokens_B: torch.Tensor, num_generations: int, scope: str = "batch"
) -> torch.Tensor:
    r"""
    Returns a factor for each row's token weights that turns a loss divided by the number of tokens into

    $$ \frac{\sum_t w_t l_t}{\sum_t w_t} \quad\text{or}\quad
    \frac{1}{P} \sum_{p=1}^{P} \frac{\sum_{t \in p} w_t l_t}{\sum_{t \in p} w_t} $$

    over all tokens (`"batch"`), or over the tokens of each group and then over the groups (`"prompt"`, Eq. 12 of
    https://huggingface.co/papers/2503.14476).

    Args:
        weights_B (`torch.Tensor`):
            Sum of each row's weights over the tokens in the loss, shape `(B,)`, float64.
        tokens_B (`torch.Tensor`):
            Number of each row's tokens in the loss, shape `(B,)`.
        num_generations (`int`):
            Rows of a group, G; groups are contiguous.
        scope (`str`, *optional*, defaults to `"batch"`):
            `"batch"` or `"prompt"`.

    Returns:
        `torch.Tensor`: Shape `(B,)`, float64. Rows of a group without weight have 0. If no token is in the loss, all
        rows have 1.

    Raises:
        `ValueError`: If there are tokens in the loss and all their weights are 0.
    """
    tokens = tokens_B.double().sum()
    if tokens == 0:
        return torch.ones_like(weights_B)
    if weights_B.sum() == 0:
        raise ValueError(
            f"all token weights of a rollout are 0, and {int(tokens)} tokens are in its loss: there is nothing to "
            "divide by. Give at least one of them a weight above 0."
        )
    if scope == "batch":
        return (tokens / weights_B.sum()).expand_as(weights_B)
    weights_P = weights_B.view(-1, num_generations).sum(dim=1)
    # A group without weight has no mean to enter the mean over groups
    groups = (weights_P > 0).sum()
    factors_P = torch.where(weights_P > 0, tokens / (groups * weights_P), torch.zeros_like(weights_P))
    return factors_P.repeat_interleave(num_generations)


def padded(rows: list[torch.Tensor], width: int) -> torch.Tensor:
    """Returns the rows as one tensor of shape `(b, width)`, padded with 0 on the right."""
    table = torch.zeros(len(rows), width)
    for row, weights in zip(table, rows, strict=True):
        row[: len(weights)] = weights
    return table


def weight_sums(weights_BT: torch.Tensor, loss_mask_BT: torch.Tensor) -> torch.Tensor:
    """Returns each row's sum of weights over the tokens in the loss, shape `(b,)`, float64: exact for weights of 1."""
    return (weights_BT.double() * loss_mask_BT).sum(dim=1)
