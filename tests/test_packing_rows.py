"""Rows of a batch: what belongs to a row moves with it, and only padding is cut."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trl_dapo.packing.padding import COMPLETION_COLUMNS, widths
from trl_dapo.packing.rows import joined, live_rows, rows_of, without_loss


def batch_of(lengths, prompt_width=4, width=6):
    """Rows of the given prompt and completion lengths; every number tells its row (hundreds) and its token."""
    rows = len(lengths)
    prompt_mask = torch.tensor(
        [[int(column >= prompt_width - p) for column in range(prompt_width)] for p, _ in lengths]
    )
    mask = torch.tensor([[int(column < t) for column in range(width)] for _, t in lengths])
    hundreds = 100 * torch.arange(1, rows + 1).unsqueeze(1)
    values = hundreds + torch.arange(width)
    return {
        "prompt_ids": (hundreds + torch.arange(prompt_width)) * prompt_mask,
        "prompt_mask": prompt_mask,
        "completion_ids": values * mask,
        "completion_mask": mask,
        "advantages": torch.arange(1.0, rows + 1),
        "old_per_token_logps": -values.float(),
        "importance_sampling_ratio": hundreds.float(),
        "token_type_ids": torch.cat([hundreds + 50 + torch.arange(prompt_width), values], dim=1),
        "num_items_in_batch": torch.tensor(7),
        "num_images": None,
        "names": [f"row {row}" for row in range(rows)],
    }


def test_rows_are_selected_and_cut_on_both_sides():
    batch = batch_of([(2, 3), (4, 1), (1, 6), (3, 2)])
    part = rows_of(batch, [3, 0], (3, 3), (4, 6))
    assert part["prompt_ids"].tolist() == [[401, 402, 403], [0, 102, 103]]
    assert part["prompt_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert part["completion_ids"].tolist() == [[400, 401, 0], [100, 101, 102]]
    assert part["old_per_token_logps"].tolist() == [[-400.0, -401.0, -402.0], [-100.0, -101.0, -102.0]]
    # Prompt and completion in one: one column less on the left, three on the right
    assert part["token_type_ids"].tolist()[0] == [451, 452, 453, 400, 401, 402]
    assert part["advantages"].tolist() == [4.0, 1.0]
    assert part["importance_sampling_ratio"].tolist() == [[400.0], [100.0]]
    assert part["num_items_in_batch"] == 7
    assert part["num_images"] is None
    assert part["names"] == ["row 3", "row 0"]


@pytest.mark.parametrize("column", COMPLETION_COLUMNS)
def test_every_column_of_tokens_is_cut(column):
    batch = {**batch_of([(1, 2), (1, 3)]), column: torch.arange(12).view(2, 6)}
    assert rows_of(batch, [1], (1, 3), (4, 6))[column].tolist() == [[6, 7, 8]]


def test_joining_what_was_split_gives_the_batch_again():
    batch = batch_of([(2, 3), (4, 1), (1, 6), (3, 2)])
    parts = [rows_of(batch, rows, (4, 6), (4, 6)) for rows in ([0, 1], [2, 3])]
    for key, value in joined(parts).items():
        assert torch.equal(value, batch[key]) if isinstance(value, torch.Tensor) else value == batch[key]


def test_widths_are_those_of_the_tokens():
    batch = batch_of([(2, 3), (4, 1), (1, 6), (0, 0)])
    # At least one column on each side, since the host scores the first token from the last of the prompt
    assert widths(batch["prompt_mask"], batch["completion_mask"]) == [(2, 3), (4, 1), (1, 6), (1, 1)]


def test_widths_are_multiples_where_the_host_pads_to_them():
    batch = batch_of([(2, 3), (4, 5)], prompt_width=5, width=6)
    # 2 -> 4; 4 -> 4; 3 -> 4; 5 -> 8, but there are 6 columns
    assert widths(batch["prompt_mask"], batch["completion_mask"], 4) == [(4, 4), (4, 6)]


def test_a_gap_in_the_mask_is_not_the_end_of_the_row():
    mask = torch.tensor([[1, 0, 0, 1, 0]])
    assert widths(torch.ones(1, 2), mask) == [(2, 4)]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=6), st.data())
def test_no_token_is_cut(lengths, data):
    batch = batch_of(lengths)
    rows = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    sides = widths(batch["prompt_mask"], batch["completion_mask"])
    kept = (max(sides[row][0] for row in rows), max(sides[row][1] for row in rows))
    part = rows_of(batch, rows, kept, (4, 6))
    for column in ("prompt_ids", "completion_ids"):
        for row, ids in zip(rows, part[column], strict=True):
            assert ids[ids > 0].tolist() == batch[column][row][batch[column][row] > 0].tolist()


def test_live_rows_have_a_token_in_the_loss_and_an_advantage():
    batch = batch_of([(1, 2), (1, 0), (1, 3), (1, 2)])
    batch["advantages"] = torch.tensor([1.0, 1.0, 0.0, -1.0])
    batch["tool_mask"] = torch.tensor([[1] * 6, [1] * 6, [1] * 6, [0] * 6])
    assert live_rows(batch, needs_advantage=False).tolist() == [True, False, True, False]
    assert live_rows(batch, needs_advantage=True).tolist() == [True, False, False, False]


def test_one_advantage_per_token_makes_a_row_live_only_where_it_is_in_the_loss():
    batch = batch_of([(1, 2), (1, 2)])
    batch["advantages"] = torch.tensor([[0.0, 0.5, 0, 0, 0, 0], [0.0, 0.0, 3.0, 0, 0, 0]])
    assert live_rows(batch, needs_advantage=True).tolist() == [True, False]


def test_an_advantage_that_is_not_a_number_is_not_hidden():
    batch = batch_of([(1, 2)])
    batch["advantages"] = torch.tensor([torch.nan])
    assert live_rows(batch, needs_advantage=True).tolist() == [True]


def test_without_loss_no_token_counts_and_nothing_else_changes():
    batch = batch_of([(1, 2)])
    silent = without_loss(batch)
    assert not silent["completion_mask"].any()
    assert batch["completion_mask"].any()
    assert silent["completion_ids"] is batch["completion_ids"]


# -------------------------------------------------------------------------------------------------------------- images


def flat_images(counts, **more):
    """Rows with `counts` images of one feature row each, in the host's flat layout."""
    total = sum(counts)
    return {
        **batch_of([(1, 2)] * len(counts)),
        "num_images": list(counts),
        "pixel_values": torch.arange(total * 2.0).view(total, 2),
        **more,
    }


def test_images_follow_their_row():
    # Rows 0, 1, 2 have 2, 0, 1 images: feature rows 0 and 1, none, 2
    batch = joined([flat_images([2, 0, 1])])
    part = rows_of(batch, [2, 0], (1, 2), (4, 6))
    assert part["pixel_values"].tolist() == [[4.0, 5.0], [0.0, 1.0], [2.0, 3.0]]
    assert part["num_images"] == [1, 2]


def test_rows_without_images_have_no_image_features():
    batch = joined([flat_images([2, 0, 1])])
    part = rows_of(batch, [1], (1, 2), (4, 6))
    assert not {"pixel_values", "num_images"} & set(part)
    assert part["completion_ids"].tolist() == [[200, 201]]


def test_patches_and_grids_follow_their_image():
    # Qwen: an image of grid (1, h, w) has h * w patch rows. Row 0: 1 x 2, row 1: 1 x 3 and 1 x 1
    grid = torch.tensor([[1, 1, 2], [1, 1, 3], [1, 1, 1]])
    pixels = torch.arange(6.0).unsqueeze(1)
    halves = [
        {**batch_of([(1, 1)]), "num_images": [1], "pixel_values": pixels[:2], "image_grid_thw": grid[:1]},
        {**batch_of([(1, 1)]), "num_images": [2], "pixel_values": pixels[2:], "image_grid_thw": grid[1:]},
    ]
    part = rows_of(joined(halves), [1, 0], (1, 1), (4, 6))
    assert part["pixel_values"].flatten().tolist() == [2.0, 3.0, 4.0, 5.0, 0.0, 1.0]
    assert part["image_grid_thw"].tolist() == [[1, 1, 3], [1, 1, 1], [1, 1, 2]]


def test_tiles_follow_their_image():
    # LFM2-VL and InternVL: several tiles per image, counted per row
    batch = flat_images([1, 1], pixel_values=torch.arange(5.0).unsqueeze(1), num_tiles=[3, 2])
    part = rows_of(joined([batch]), [1], (1, 1), (4, 6))
    assert part["pixel_values"].flatten().tolist() == [3.0, 4.0]
    assert part["num_tiles"] == [2]
