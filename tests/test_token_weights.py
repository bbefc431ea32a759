"""Weights of tokens as factors on advantages: denominators by hand, weights of 1 exactly, errors that name the row."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from trl_dapo.dapo.token_weights import checked_weights, padded, row_factors, weight_sums


NAN, INF = float("nan"), float("inf")


def double(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- factors

# Two groups of 2 rows with 2 and 6 tokens, 8 in all
TOKENS = [1, 1, 2, 4]


@pytest.mark.parametrize(
    ("weights", "scope", "factors"),
    [
        # All weights 1. Over the batch each token has 1/8; by prompt one of group 0 has 1/2 of 1/2, twice as much, and
        # one of group 1 has 1/2 of 1/6, which is 2/3 of 1/8
        ([1, 1, 2, 4], "batch", [1, 1, 1, 1]),
        ([1, 1, 2, 4], "prompt", [2, 2, 2 / 3, 2 / 3]),
        # 16 in all: 8/16. By prompt 4 and 12: 8 / (2 * 4) and 8 / (2 * 12)
        ([1, 3, 2, 10], "batch", [1 / 2] * 4),
        ([1, 3, 2, 10], "prompt", [1, 1, 1 / 3, 1 / 3]),
        # A row without weight is one of a group with weight
        ([0, 4, 0, 4], "batch", [1] * 4),
        ([0, 4, 0, 4], "prompt", [1] * 4),
        # A group without weight: the other is the only one, 8 / (1 * 4)
        ([0, 0, 1, 3], "batch", [2] * 4),
        ([0, 0, 1, 3], "prompt", [0, 0, 2, 2]),
    ],
)
def test_factors_take_the_number_of_tokens_out_and_the_weights_in(weights, scope, factors):
    found = row_factors(double(weights), torch.tensor(TOKENS), num_generations=2, scope=scope)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, double(factors), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("scope", "loss"),
    # Losses of -1 in group 0 and +1 in group 1, weights of 1: (-2 + 6) / 8; the groups' means -1 and 1 cancel
    [("batch", 0.5), ("prompt", 0.0)],
)
def test_scopes_are_told_apart_by_unequal_groups(scope, loss):
    factors = row_factors(double(TOKENS), torch.tensor(TOKENS), 2, scope)
    sums = torch.tensor(TOKENS) * torch.tensor([-1, -1, 1, 1])
    assert (factors * sums).sum().item() / 8 == pytest.approx(loss, abs=1e-15)


def test_the_scope_is_the_batch_by_default():
    assert row_factors(double(TOKENS), torch.tensor(TOKENS), 2).tolist() == [1.0] * 4


def test_groups_are_contiguous_rows():
    # One group of 4, or 4 of 1
    weights, tokens = double([1, 1, 2, 4]), torch.tensor([1, 1, 2, 4])
    assert row_factors(weights, tokens, 4, "prompt").tolist() == [1.0] * 4
    # 8 / (4 * 1), 8 / (4 * 2), 8 / (4 * 4)
    assert row_factors(weights, tokens, 1, "prompt").tolist() == [2.0, 2.0, 1.0, 0.5]


def test_fillers_are_not_among_the_groups():
    # A group that only fills the batch has no token in the loss. Counted, the others would have 2 / 3 of their weight
    factors = row_factors(double([1, 3, 0, 0, 2, 2]), torch.tensor([1, 3, 0, 0, 2, 2]), 2, "prompt")
    assert factors.tolist() == [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("scope", ["batch", "prompt"])
def test_factors_are_one_where_no_token_is_in_the_loss(scope):
    # Every completion truncated, with overlong filtering: the loss is 0, and must not become NaN
    assert row_factors(double([0, 0]), torch.tensor([0, 0]), 2, scope).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("scope", ["batch", "prompt"])
def test_weights_that_are_all_zero_are_refused(scope):
    with pytest.raises(ValueError, match="all token weights of a rollout are 0, and 8 tokens are in its loss"):
        row_factors(double([0] * 4), torch.tensor(TOKENS), 2, scope)


def test_tokens_may_be_counted_in_any_type():
    for dtype in (torch.int32, torch.int64, torch.float32, torch.float64):
        assert row_factors(double([1, 3, 2, 10]), torch.tensor(TOKENS, dtype=dtype), 2).tolist() == [0.5] * 4


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=40))
def test_weights_of_one_have_factors_of_exactly_one(tokens):
    # TRL's own loss, bit for bit
    factors = row_factors(double(tokens), torch.tensor(tokens), num_generations=1, scope="batch")
    assert factors.tolist() == [1.0] * len(tokens)


@given(st.integers(1, 50), st.integers(1, 10**6), st.integers(1, 8))
def test_weights_of_one_in_groups_of_equal_size_have_factors_of_exactly_one(groups, tokens, generations):
    counts = torch.full((groups * generations,), tokens)
    assert row_factors(counts.double(), counts, generations, "prompt").tolist() == [1.0] * (groups * generations)


@st.composite
def rollouts(draw) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Weights, loss mask and losses of some groups, each of shape `(B, T)`, and the rows of a group."""
    generations, groups, width = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    cells = generations * groups * width

    def table(values: st.SearchStrategy) -> torch.Tensor:
        return double(draw(st.lists(values, min_size=cells, max_size=cells))).view(-1, width)

    weights = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(2**-10, 2**10, width=32))
    return table(weights), table(st.sampled_from([0, 1, 1])), table(st.floats(-5, 5)), generations


def weighted_loss(weights, mask, losses, generations, scope) -> float:
    """The loss as TRL would have it: factors on what it sums, over all tokens in the loss."""
    factors = row_factors(weight_sums(weights, mask), mask.sum(dim=1), generations, scope)
    return (losses * mask * weights * factors.unsqueeze(1)).sum().item() / mask.sum().item()


@given(rollouts())
def test_the_loss_over_the_batch_is_the_weighted_mean_of_its_tokens(numbers):
    weights, mask, losses, generations = numbers
    live = [(w, loss) for w, m, loss in zip(*(one.flatten().tolist() for one in numbers[:3]), strict=True) if m]
    total = math.fsum(w for w, _ in live)
    assume(total > 0)
    expected = math.fsum(w * loss for w, loss in live) / total
    assert weighted_loss(weights, mask, losses, generations, "batch") == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(rollouts())
def test_the_loss_over_prompts_is_the_mean_of_their_weighted_means(numbers):
    weights, mask, losses, generations = numbers
    means = []
    for part in zip(
        *(one.flatten().view(-1, generations * weights.size(1)).tolist() for one in numbers[:3]), strict=True
    ):
        live = [(w, loss) for w, m, loss in zip(*part, strict=True) if m]
        if total := math.fsum(w for w, _ in live):
            means.append(math.fsum(w * loss for w, loss in live) / total)
    assume(means)
    expected = math.fsum(means) / len(means)
    assert weighted_loss(weights, mask, losses, generations, "prompt") == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(rollouts(), st.sampled_from(["batch", "prompt"]), st.floats(1e-3, 1e3))
def test_scaling_all_weights_changes_nothing(numbers, scope, scale):
    weights, mask, losses, generations = numbers
    assume((weights * mask).sum() > 0)
    loss = weighted_loss(weights, mask, losses, generations, scope)
    assert weighted_loss(scale * weights, mask, losses, generations, scope) == pytest.approx(
        loss, rel=1e-12, abs=1e-12
    )


@given(rollouts(), st.sampled_from(["batch", "prompt"]))
def test_weights_of_tokens_outside_the_loss_do_not_matter(numbers, scope):
    weights, mask, losses, generations = numbers
    assume((weights * mask).sum() > 0)
    loss = weighted_loss(weights, mask, losses, generations, scope)
    others = torch.where(mask > 0, weights, weights + 7)
    assert weighted_loss(others, mask, losses, generations, scope) == loss


# ---------------------------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_sums_are_over_the_tokens_in_the_loss(dtype):
    weights = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=dtype)
    sums = weight_sums(weights, mask)
    assert sums.dtype == torch.float64
    # 1 + 4; nothing; no weight
    assert sums.tolist() == [5.0, 0.0, 0.0]


def test_sums_do_not_round_as_float32_does():
    # 2^24 + 1 is the first whole number that float32 lacks
    assert weight_sums(torch.tensor([[2.0**24, 1.0]]), torch.ones(1, 2)).tolist() == [2.0**24 + 1]


# ------------------------------------------------------------------------------------------------------------- padding


def test_rows_are_padded_with_zeros_on_the_right():
    table = padded([torch.tensor([1.0, 2.0]), torch.tensor([3.0]), torch.tensor([])], width=3)
    assert table.tolist() == [[1.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert table.dtype == torch.float32


def test_rows_of_full_width_are_not_padded():
    assert padded([torch.tensor([1.0, 2.0])], width=2).tolist() == [[1.0, 2.0]]


def test_padding_leaves_the_rows_alone():
    rows = [torch.tensor([1.0])]
    padded(rows, width=2)[0, 0] = 5.0
    assert rows[0].tolist() == [1.0]


# ----------------------------------------------------------------------------------------------------- checked weights

# Completions of 2 and 1 tokens
IDS = [[5, 6], [7]]


@pytest.mark.parametrize(
    "returned",
    [
        [[1.0, 0.5], [2.0]],
        ((1, 0.5), (2,)),
        [torch.tensor([1.0, 0.5]), torch.tensor([2])],
        [torch.tensor([1.0, 0.5], dtype=torch.bfloat16), torch.tensor([2.0], dtype=torch.float64)],
        [np.array([1.0, 0.5]), np.array([2])],
        [[1.0, 0.5], np.float64([2.0])],
    ],
)
def test_weights_are_taken_as_lists_tensors_or_arrays(returned):
    weights = checked_weights(returned, IDS, "f")
    assert [row.tolist() for row in weights] == [[1.0, 0.5], [2.0]]
    assert all(type(row) is torch.Tensor and row.dtype == torch.float32 for row in weights)


def test_weights_of_equal_lengths_may_come_as_one_tensor():
    assert [row.tolist() for row in checked_weights(torch.tensor([[1.0], [3.0]]), [[5], [7]], "f")] == [[1.0], [3.0]]


def test_a_weight_of_zero_is_allowed():
    assert [row.tolist() for row in checked_weights([[0, 0], [0.0]], IDS, "f")] == [[0.0, 0.0], [0.0]]


def test_marks_of_tokens_are_weights():
    assert [row.tolist() for row in checked_weights([[True, False], [True]], IDS, "f")] == [[1.0, 0.0], [1.0]]


def test_a_completion_without_tokens_has_no_weights():
    assert [row.shape for row in checked_weights([[], [1.0]], [[], [7]], "f")] == [(0,), (1,)]


def test_no_completions_have_no_weights():
    assert checked_weights([], [], "f") == []


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        ([[1.0, 1.0]], "2 were expected, got 1"),
        ([[1.0, 1.0], [1.0], [1.0]], "2 were expected, got 3"),
        ([], "2 were expected, got 0"),
        (torch.ones(3, 2), "2 were expected, got 3"),
        (None, "2 were expected, got a NoneType"),
        (1.0, "2 were expected, got a float"),
        ({0: [1.0, 1.0], 1: [1.0]}, "2 were expected, got a dict"),
        (iter([[1.0, 1.0], [1.0]]), "2 were expected, got a list_iterator"),
        (torch.tensor(1.0), "2 were expected, got a Tensor"),
    ],
    ids=lambda value: type(value).__name__,  # the same in every process, unlike an address
)
def test_anything_but_one_row_per_completion_is_refused(returned, found):
    with pytest.raises(ValueError, match=f"`weigh` must return one list of weights per completion: {found}"):
        checked_weights(returned, IDS, "weigh")


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ([], r"\(0,\)"),
        ([1.0, 1.0], r"\(2,\)"),
        (1.0, r"\(\)"),
        ([[1.0]], r"\(1, 1\)"),
        (torch.ones(1, 1), r"\(1, 1\)"),
    ],
    ids=str,
)
def test_anything_but_one_weight_per_token_is_refused(row, shape):
    message = f"`weigh` must return one weight per token .* row 1 has 1 tokens, and the weights have shape {shape}"
    with pytest.raises(ValueError, match=message):
        checked_weights([[1.0, 1.0], row], IDS, "weigh")


@pytest.mark.parametrize(
    ("weight", "shown"), [(-1.0, "-1.0"), (-1e-9, "-9.99"), (NAN, "nan"), (INF, "inf"), (-INF, "-inf"), (1e300, "inf")]
)
def test_weights_below_zero_or_without_bounds_are_refused_by_row_and_token(weight, shown):
    message = f"`weigh` must return finite weights of at least 0, got {shown}.* for token 1 of row 0"
    with pytest.raises(ValueError, match=message):
        checked_weights([[1.0, weight], [1.0]], IDS, "weigh")


def test_the_first_wrong_weight_is_named():
    with pytest.raises(ValueError, match="got nan for token 2 of row 1"):
        checked_weights([[1.0], [0.0, 1.0, NAN, -3.0], [-2.0]], [[1], [1, 2, 3, 4], [1]], "f")


@pytest.mark.parametrize(
    "row",
    [None, ["x"], "1", [None], [1j], {"a": 1}, {1.0}, [[1.0], [1.0, 2.0]], object()],
    ids=lambda row: str(row)[:9],
)
def test_what_is_not_numbers_is_refused_by_row(row):
    with pytest.raises(ValueError, match=r"`weigh` returned .* for row 1, which are not numbers"):
        checked_weights([[1.0, 1.0], row], IDS, "weigh")


def test_a_long_row_is_not_shown_whole():
    with pytest.raises(ValueError, match="not numbers") as caught:
        checked_weights([["x"] * 10_000], [[1] * 10_000], "f")
    assert len(str(caught.value)) < 300


@given(st.lists(st.lists(st.floats(0, 1e6, width=32), max_size=5), max_size=4), st.integers(0, 3))
def test_padded_weights_hold_all_weights_and_nothing_else(rows, more):
    ids = [[0] * len(row) for row in rows]
    width = max(map(len, rows), default=0) + more
    table = padded(checked_weights(rows, ids, "f"), width)
    assert table.shape == (len(rows), width)
    assert [found[: len(row)] for found, row in zip(table.tolist(), rows, strict=True)] == rows
    assert all(value == 0 for found, row in zip(table.tolist(), rows, strict=True) for value in found[len(row) :])
