"""
Where padding is cut: how wide the tokens of a row are, and batches without the columns that no row needs.
"""

from typing import Any

import torch

from .bins import Widths


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


def without_padding(batch: dict[str, Any], kept: Widths, full: Widths) -> dict[str, Any]:
    """
    Returns a batch without some of its columns, those on the left of the prompt and on the right of the completion.

    Args:
        batch (`dict[str, Any]`):
            Rows with prompts padded on the left and completions padded on the right.
        kept (`tuple[int, int]`):
            Columns of prompt and completion to keep: the last ones of the prompt, the first ones of the completion.
        full (`tuple[int, int]`):
            Columns of prompt and completion that `batch` has.
    """
    prompt = slice(full[0] - kept[0], full[0])
    cuts = {
        **dict.fromkeys(PROMPT_COLUMNS, prompt),
        **dict.fromkeys(COMPLETION_COLUMNS, slice(kept[1])),
        **dict.fromkeys(SEQUENCE_COLUMNS, slice(prompt.start, full[0] + kept[1])),
    }
    result = dict(batch)
    for key, cut in cuts.items():
        # One value for the whole row, such as an advantage or a ratio per completion, has no columns to cut
        if key in result and result[key].dim() > 1 and result[key].size(1) > 1:
            result[key] = result[key][:, cut]
    return result


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


def _extent(mask: torch.Tensor) -> torch.Tensor:
    """How many columns there are up to the last nonzero one, shape `(B,)`."""
    columns = torch.arange(1, mask.size(1) + 1, device=mask.device)
    return (columns * (mask != 0)).amax(dim=1)
