"""Packing of rows into micro-batches: hand-made cases, and against every possible partition."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_dapo.packing.bins import chunks, pack, pack_within, padded_tokens, turns


WIDTHS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), max_size=14)


def sizes(plan, widths):
    return [padded_tokens([widths[row] for row in rows]) for rows in plan]


def test_padded_tokens_are_rows_times_the_widest_sides():
    # 3 rows, widest prompt 5, widest completion 7: 3 * (5 + 7) = 36
    assert padded_tokens([(5, 1), (2, 7), (1, 2)]) == 36
    assert padded_tokens([]) == 0


def test_long_rows_stand_alone_and_short_ones_together():
    # Completions of 8, 2, 2, 2, 2 behind prompts of 0, in two micro-batches: 8 | 2 2 2 2 has 8 padded tokens in each.
    # TRL's halves of 5 rows would have up to 3 * 8 = 24
    widths = [(0, 2), (0, 2), (0, 8), (0, 2), (0, 2)]
    plan = pack(widths, 2)
    assert plan[0] == [2]
    assert sorted(plan[1]) == [0, 1, 3, 4]
    assert sizes(plan, widths) == [8, 8]


def test_a_cut_that_is_left_over_saves_padding():
    # Two micro-batches bring the largest to 10: 10 | 5 5 (and 10 5 | 5 would be 20). A third cut cannot lower 10, and
    # goes between rows of unequal length if there are any
    widths = [(0, 10), (0, 5), (0, 3)]
    assert pack(widths, 2) == [[0], [1, 2]]
    assert pack(widths, 3) == [[0], [1], [2]]
    assert pack(widths, 9) == [[0], [1], [2]]


def test_the_better_order_is_taken_where_prompts_and_completions_differ():
    # By whole length the pairs are (9, 1) with (1, 8): 2 * (9 + 8) = 34. By completion they are (1, 8) (1, 7) and
    # (9, 1) (8, 1): 2 * (1 + 8) = 18 and 2 * (9 + 1) = 20
    widths = [(9, 1), (1, 8), (8, 1), (1, 7)]
    plan = pack(widths, 2)
    assert sorted(map(sorted, plan)) == [[0, 2], [1, 3]]
    assert max(sizes(plan, widths)) == 20


@given(WIDTHS, st.integers(1, 16))
def test_every_row_is_in_exactly_one_micro_batch(widths, count):
    plan = pack(widths, count)
    assert sorted(row for rows in plan for row in rows) == list(range(len(widths)))
    assert len(plan) == min(count, len(widths))
    assert all(plan)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 3), st.integers(0, 5))
def test_no_partition_has_a_smaller_largest_micro_batch(lengths, count, prompt):
    widths = [(prompt, length) for length in lengths]
    best = min(
        max(sizes([[row for row, bin_ in enumerate(bins) if bin_ == one] for one in range(count)], widths))
        for bins in product(range(count), repeat=len(widths))
    )
    assert max(sizes(pack(widths, count), widths)) == best


@given(WIDTHS, st.integers(1, 10))
def test_more_micro_batches_never_pad_more(widths, count):
    fewer, more = pack(widths, count), pack(widths, count + 1)
    assert max(sizes(more, widths), default=0) <= max(sizes(fewer, widths), default=0)


@given(WIDTHS, st.integers(1, 120))
def test_none_is_above_the_limit_unless_a_single_row_is(widths, limit):
    for rows, tokens in zip(plan := pack_within(widths, limit), sizes(plan, widths), strict=True):
        assert tokens <= limit or len(rows) == 1


@given(st.lists(st.integers(1, 20), min_size=1, max_size=7), st.integers(1, 60))
def test_no_fewer_would_do(lengths, limit):
    widths = [(0, length) for length in lengths]
    plan = pack_within(widths, limit)
    if len(plan) > 1:
        fewer = pack(widths, len(plan) - 1)
        assert any(tokens > limit and len(rows) > 1 for rows, tokens in zip(fewer, sizes(fewer, widths), strict=True))


def test_rows_need_a_micro_batch():
    with pytest.raises(ValueError, match="2 rows need at least one micro-batch, and count=0"):
        pack([(1, 1), (1, 2)], 0)
    assert pack([], 0) == pack_within([], 5) == []


def test_chunks_hold_rows_of_similar_length():
    # Longest first: 9 7 | 4 3 | 1
    assert chunks([3, 9, 1, 7, 4], 2) == [[1, 3], [4, 0], [2]]
    with pytest.raises(ValueError, match="most_rows=0"):
        chunks([1], 0)


def test_turns_share_the_micro_batches_and_end_with_one():
    assert turns(4, 4) == [range(0, 1), range(1, 2), range(2, 3), range(3, 4)]
    assert turns(1, 3) == [range(0, 0), range(0, 0), range(0, 1)]
    assert turns(5, 2) == [range(0, 2), range(2, 5)]


@given(st.integers(1, 40), st.integers(1, 12))
def test_each_micro_batch_has_one_turn(microbatches, steps):
    dealt = turns(microbatches, steps)
    assert [number for turn in dealt for number in turn] == list(range(microbatches))
    assert len(dealt) == steps
    assert len(dealt[-1]) >= 1
