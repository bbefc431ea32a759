"""What to change first, and the largest that fits, against plans whose sums are done in the head."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stand_in_plan import MIB, plan
from trl_dapo.planning.advice import chunk_for, first_change, largest, with_group, with_rows
from trl_dapo.planning.plans import Plans
from trl_dapo.planning.run_shape import RunShape
from trl_dapo.planning.throughput import expected_rounds, forward_equivalents, stated_speeds, step_time


# 64 rows of 256 tokens: a cache of 256 MiB. Update: 8 rows, 128 MiB of activations
SHAPE = RunShape(
    "dapo", None, prompt_length=64, completion_length=192, round_rows=64, chunk_rows=64, microbatch_rows=8,
    microbatches=2, lora=object(), updates=4.0,
)  # fmt: skip


def change(shape, free):
    return first_change(shape, Plans(plan), free * MIB)


def test_the_chunk_comes_first_where_generation_is_the_peak():
    # 1000 + 256 = 1256. A chunk of 32 is 1128, and fits; the update needs 1000 + 4 + 128 = 1132, so 1150 is asked
    found = change(SHAPE, 1150)
    assert (found.field, found.value, found.needs, found.brings) == (
        "generation_chunk_size",
        32,
        1132 * MIB,
        124 * MIB,
    )


def test_rows_come_first_where_the_update_is_the_peak():
    # 1004 + 8 rows x 16 MiB = 1132 against a cache of 32: 4 rows are 1068
    found = change(replace(SHAPE, chunk_rows=8), 1100)
    assert (found.field, found.value, found.needs) == ("per_device_train_batch_size", 4, 1068 * MIB)
    assert found.shape.microbatches == 4  # as many rows per update as before


def test_four_bits_come_where_the_weights_are_too_large():
    found = change(replace(SHAPE, chunk_rows=8), 600)
    assert (found.field, found.value) == ("load_in_4bit", True)
    assert found.needs == (250 + 4 + 128) * MIB


def test_the_knob_that_saves_most_is_named_where_none_is_enough():
    found = change(replace(SHAPE, chunk_rows=8), 100)
    assert found.field == "load_in_4bit"
    assert found.needs > 100 * MIB


def test_full_training_is_told_of_8_bit_moments_before_adapters():
    # 1000 + 400 + 128 = 1528; with 100 of optimizer 1228
    found = change(replace(SHAPE, lora=None, chunk_rows=8, gradient_checkpointing=True, microbatch_rows=1), 1200)
    assert (found.field, found.value) == ("optim", "paged_adamw_8bit")


def test_the_largest_of_each_with_all_else_as_it_is():
    # 1300 MiB: 296 for activations is 18 rows of 16; 300 for the cache is 75 rows of 4, so all 64;
    # lengths: the cache takes one MiB per token of a row, so 300, less 64 of the prompt is 236, in whole 16: 224
    most = largest(SHAPE, Plans(plan, 500), 1300 * MIB)
    assert most.per_device_train_batch_size in (17, 18)  # to a sixteenth
    assert most.completion_length == 224
    assert most.generation_chunk_size == 64
    # 8 prompts: a group of 9 has 72 rows, 288 MiB; of 10, 320
    assert most.num_generations == 9


def test_a_recommended_chunk_leaves_a_tenth():
    # 1300 less a tenth is 1170: 170 for the cache is 42 rows, so 40 in whole groups of 8
    assert chunk_for(replace(SHAPE, microbatch_rows=1), Plans(plan), 1300 * MIB, 0.1) == 40
    assert chunk_for(SHAPE, Plans(plan), 900 * MIB) == 0
    assert chunk_for(replace(SHAPE, chunk_rows=0), Plans(plan), 900 * MIB) is None


@settings(max_examples=50, deadline=None)
@given(st.integers(300, 3000), st.integers(1, 64), st.booleans())
def test_what_is_said_to_fit_fits_and_few_plans_are_made(free, rows, checkpointing):
    shape = replace(SHAPE, microbatch_rows=rows, gradient_checkpointing=checkpointing)
    made = []
    plans = Plans(lambda one: made.append(one) or plan(one))
    found = first_change(shape, plans, free * MIB)
    most = largest(shape, plans, free * MIB)
    assert len(made) <= 70
    if found is not None and found.needs <= free * MIB:
        assert plan(found.shape).bytes == found.needs
    if most.per_device_train_batch_size:
        assert plan(with_rows(shape, most.per_device_train_batch_size)).bytes <= free * MIB
    if most.num_generations:
        assert plan(with_group(shape, most.num_generations)).bytes <= free * MIB


def test_pairs_are_two_rows():
    shape = replace(SHAPE, algorithm="dpo", round_rows=0, chunk_rows=0, microbatch_rows=8, microbatches=1)
    assert with_rows(shape, 2).microbatch_rows == 4
    assert with_rows(shape, 2).microbatches == 2


# ---------------------------------------------------------------------------------------------------------------- time


def test_an_update_of_all_weights_costs_three_forward_passes():
    full = replace(SHAPE, lora=None)
    assert forward_equivalents(full) == 3
    assert forward_equivalents(replace(full, gradient_checkpointing=True)) == 4
    assert forward_equivalents(SHAPE) == 2


def test_seconds_of_a_step():
    # 64 rows, 2 batches generated per batch that is trained on: 128 x 192 tokens at 1000 per second are 24.576 s,
    # a quarter of it per update. Update: 64 x 256 tokens at 10,000 / 2 are 3.2768 s, a quarter of it
    time = step_time(replace(SHAPE, rounds=2.0), stated_speeds(SHAPE, 1000), 64, 1.0, 192)
    assert time.seconds == pytest.approx({"generate": 6.144, "update": 0.8192})
    assert time.total == pytest.approx(6.9632)


def test_rounds_are_the_inverse_of_the_share_and_bounded():
    assert expected_rounds(0.25, 10) == 4
    assert expected_rounds(0.25, 3) == 3
    assert expected_rounds(1.0, 3) == 1
    with pytest.raises(ValueError, match=r"share of informative groups must be in \(0, 1\]"):
        expected_rounds(0.0, 3)
