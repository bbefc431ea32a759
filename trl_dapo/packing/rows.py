"""
Rows of TRL's training batches: joined, selected, and cut to their own width.

A batch is what `_generate_and_score_completions` returns: one entry per row in each tensor and list, but for numbers
of the whole rollout, which have no dimension, and image features, which the host's own functions sort by row. The
invariant: all that belongs to a row stays with it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

from .bins import Widths


Batch = dict[str, Any]

# One column per token of the prompt, of the completion, of both; what is not named here is not cut
PROMPT_COLUMNS = ("prompt_ids", "prompt_mask")
COMPLETION_COLUMNS = (
    "completion_ids",
    "completion_mask",
    "tool_mask",
    "advantages",
    "old_per_token_logps",
    "ref_per_token_logps",
    "sampling_per_token_logps",
    "importance_sampling_ratio",
    "values",
    "returns",
)
SEQUENCE_COLUMNS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")

IMAGE_FEATURES = (
    "pixel_values",
    "image_grid_thw",
    "image_position_ids",
    "pixel_attention_mask",
    "spatial_shapes",
    "image_sizes",
    "num_images",
    "num_tiles",
)


def joined(batches: Sequence[Batch]) -> Batch:
    """Returns the batches as one, in order, with image features as one list entry per row where the host keeps them
    flat; [`rows_of`] takes it apart again."""
    by_row = [split_pixel_values_by_grid(batch) for batch in batches]
    first = by_row[0]
    return first if len(by_row) == 1 else {key: _joined_values([batch[key] for batch in by_row]) for key in first}


def rows_of(batch: Batch, rows: Sequence[int], sides: Widths, full: Widths) -> Batch:
    """
    Returns some rows of a [`joined`] batch, without the padding that none of them needs.

    Args:
        batch (`dict[str, Any]`):
            Rows, padded on the left of the prompt and on the right of the completion.
        rows (`Sequence[int]`):
            Numbers of the rows, in the order in which they are wanted.
        sides (`tuple[int, int]`):
            Columns of prompt and completion to keep.
        full (`tuple[int, int]`):
            Columns of prompt and completion that `batch` has.
    """
    selected = {key: _selected(value, rows) for key, value in batch.items()}
    prompt = slice(full[0] - sides[0], full[0])
    cuts = {
        **dict.fromkeys(PROMPT_COLUMNS, prompt),
        **dict.fromkeys(COMPLETION_COLUMNS, slice(sides[1])),
        **dict.fromkeys(SEQUENCE_COLUMNS, slice(prompt.start, full[0] + sides[1])),
    }
    for key, cut in cuts.items():
        # A column for the whole row, such as an advantage or a ratio per completion, has nothing to cut
        if key in selected and selected[key].dim() > 1 and selected[key].size(1) > 1:
            selected[key] = selected[key][:, cut]
    if isinstance(selected.get("pixel_values"), list) and not any(map(len, selected["pixel_values"])):
        # The host runs the vision tower wherever there are features, and it has nothing to run on here
        return {key: value for key, value in selected.items() if key not in IMAGE_FEATURES}
    return unsplit_pixel_values_by_grid(selected)


def widths(prompt_mask: torch.Tensor, completion_mask: torch.Tensor, multiple: int | None = None) -> list[Widths]:
    """
    Returns the width of each row's prompt and completion, in tokens, rounded up to a multiple where one is given.

    Args:
        prompt_mask (`torch.Tensor`):
            Nonzero where the prompt, padded on the left, has a token, shape `(B, P)`.
        completion_mask (`torch.Tensor`):
            Nonzero where the completion, padded on the right, has a token, shape `(B, T)`.
        multiple (`int`, *optional*):
            What the host pads to a multiple of.
    """
    # At least one column each: the host scores the first token of the completion from the last of the prompt
    lengths = torch.stack([_extent(prompt_mask.flip(1)), _extent(completion_mask)], dim=1).clamp(min=1)
    if multiple is not None:
        full = lengths.new_tensor([prompt_mask.size(1), completion_mask.size(1)])
        lengths = torch.minimum((lengths + multiple - 1) // multiple * multiple, full)
    return [(left, right) for left, right in lengths.tolist()]


def live_rows(batch: Batch, needs_advantage: bool) -> torch.Tensor:
    """
    Returns which rows can move the policy, shape `(B,)`: those with a token in the loss and, where `needs_advantage`,
    with an advantage that is not 0 on one of these tokens.
    """
    weight = batch["completion_mask"] * batch.get("tool_mask", 1)
    if needs_advantage:
        advantages = batch["advantages"]
        weight = weight * (advantages if advantages.dim() > 1 else advantages.unsqueeze(1))
    return (weight != 0).any(dim=1)


def without_loss(batch: Batch) -> Batch:
    """Returns the batch with none of its tokens in the loss."""
    return {**batch, "completion_mask": torch.zeros_like(batch["completion_mask"])}


def _extent(mask: torch.Tensor) -> torch.Tensor:
    """The number of columns up to the last one that is not 0, shape `(B,)`."""
    columns = torch.arange(1, mask.size(1) + 1, device=mask.device)
    return (columns * (mask != 0)).amax(dim=1)


def _joined_values(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, list):
        return [item for value in values for item in value]
    if isinstance(first, torch.Tensor) and first.dim() > 0:
        return torch.cat(values)
    return first


def _selected(value: Any, rows: Sequence[int]) -> Any:
    if isinstance(value, list):
        return [value[row] for row in rows]
    if isinstance(value, torch.Tensor) and value.dim() > 0:
        return value[torch.as_tensor(rows, device=value.device)]
    return value
