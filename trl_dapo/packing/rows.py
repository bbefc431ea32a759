"""
Rows of TRL's training batches: joined, selected, and cut to their own width.

A batch is what `_generate_and_score_completions` returns. Each tensor and list has one entry per row, with two
exceptions: numbers for the whole rollout have no dimension, and image features are sorted by row with the host's own
functions. Everything that belongs to a row stays with it. Which rows go together is decided in `bins.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

from .bins import Widths


Batch = dict[str, Any]

# Keys with one column per token of the prompt, of the completion, or of both. No other key is cut
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
    """
    Returns the batches as one, in order. [`rows_of`] takes rows out of it again.

    Image features that the host keeps flat become lists with one entry per row.
    """
    by_row = [split_pixel_values_by_grid(batch) for batch in batches]
    first = by_row[0]
    return first if len(by_row) == 1 else {key: _joined_values([batch[key] for batch in by_row]) for key in first}


def rows_of(batch: Batch, rows: Sequence[int], kept: Widths, full: Widths) -> Batch:
    """
    Returns some rows of a [`joined`] batch, cut to the columns that they need.

    Args:
        batch (`dict[str, Any]`):
            Rows with prompts padded on the left and completions padded on the right.
        rows (`Sequence[int]`):
            Numbers of the rows, in the order in which they are wanted.
        kept (`tuple[int, int]`):
            Columns of prompt and completion to keep: the last ones of the prompt, the first ones of the completion.
        full (`tuple[int, int]`):
            Columns of prompt and completion that `batch` has.
    """
    selected = {key: _selected(value, rows) for key, value in batch.items()}
    prompt = slice(full[0] - kept[0], full[0])
    cuts = {
        **dict.fromkeys(PROMPT_COLUMNS, prompt),
        **dict.fromkeys(COMPLETION_COLUMNS, slice(kept[1])),
        **dict.fromkeys(SEQUENCE_COLUMNS, slice(prompt.start, full[0] + kept[1])),
    }
    for key, cut in cuts.items():
        # One value for the whole row, such as an advantage or a ratio per completion, has no columns to cut
        if key in selected and selected[key].dim() > 1 and selected[key].size(1) > 1:
            selected[key] = selected[key][:, cut]
    if isinstance(selected.get("pixel_values"), list) and not any(map(len, selected["pixel_values"])):
        # Given image features, the host runs the vision tower, and these rows have no image to run it on
        return {key: value for key, value in selected.items() if key not in IMAGE_FEATURES}
    return unsplit_pixel_values_by_grid(selected)


def widths(prompt_mask: torch.Tensor, completion_mask: torch.Tensor, multiple: int | None = None) -> list[Widths]:
    """
    Returns the width of each row's prompt and completion in tokens, rounded up to `multiple` if it is given.

    Args:
        prompt_mask (`torch.Tensor`):
            Nonzero where the left-padded prompt has a token, shape `(B, P)`.
        completion_mask (`torch.Tensor`):
            Nonzero where the right-padded completion has a token, shape `(B, T)`.
        multiple (`int`, *optional*):
            Multiple of which the host pads widths.
    """
    # At least one column each: the log-prob of the first completion token comes from the last prompt token
    lengths = torch.stack([_extent(prompt_mask.flip(1)), _extent(completion_mask)], dim=1).clamp(min=1)
    if multiple is not None:
        full = lengths.new_tensor([prompt_mask.size(1), completion_mask.size(1)])
        lengths = torch.minimum((lengths + multiple - 1) // multiple * multiple, full)
    return [(left, right) for left, right in lengths.tolist()]


def live_rows(batch: Batch, needs_advantage: bool) -> torch.Tensor:
    """
    Returns which rows can move the policy, shape `(B,)`.

    Such a row has a token in the loss. With `needs_advantage`, the advantage of such a token must also not be 0.
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
    """How many columns there are up to the last nonzero one, shape `(B,)`."""
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
