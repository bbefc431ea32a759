"""The losses against numbers worked out by hand from the papers, and against properties that hold for any rollout."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reference.losses import (
    accumulation_window_tokens,
    clipped_surrogate,
    fixed_length_loss,
    group_advantages,
    importance_ratio,
    local_token_loss,
    policy_loss,
    sequence_level_loss,
    soft_overlong_punishment,
    token_level_loss,
)


NAN = float("nan")
LOSS_TYPES = ["grpo", "bnpo", "dr_grpo", "dapo"]


def close(actual: Tensor, expected: float | list, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), rtol=rtol, atol=atol)


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------- advantages


def test_advantages_use_bessels_standard_deviation():
    # Mean 1/4; squared deviations 9/16 + 3/16 = 3/4; / (4 - 1) = 1/4; std 1/2. So (3/4) / 0.5001 and -(1/4) / 0.5001.
    # Dividing by 4 instead of 3 gives std 0.4330 and 1.7317.
    close(group_advantages(double([[1, 0, 0, 0]])), [[0.75 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001]])


def test_advantages_add_the_constant_to_the_standard_deviation():
    # Mean 1e-4; std sqrt(2 * 1e-8 / 1) = sqrt(2) * 1e-4. So 1 / (sqrt(2) + 1) = sqrt(2) - 1 = 0.414.
    # A constant of 1e-6 gives 0.702, one under the root 0.010.
    close(group_advantages(double([[2e-4, 0.0]])), [[math.sqrt(2) - 1, 1 - math.sqrt(2)]])


def test_advantages_scaled_by_the_batch_still_use_the_groups_mean():
    # Group means 1/2 and 3. Batch: 1, 0, 3, 3 has mean 7/4; squared deviations 9/16 + 49/16 + 25/16 + 25/16 = 27/4;
    # / (4 - 1) = 9/4; std 3/2.
    close(group_advantages(double([[1, 0], [3, 3]]), scale="batch"), [[0.5 / 1.5001, -0.5 / 1.5001], [0.0, 0.0]])


def test_advantages_unscaled_are_centered_rewards():
    close(group_advantages(double([[1, 0], [3, 5]]), scale="none"), [[0.5, -0.5], [-1.0, 1.0]])


@pytest.mark.parametrize(
    ("scale", "divisor"),
    # Scorable: 1, 0 with mean 1/2 and std sqrt(2 / 4) = 0.7071, and 4 alone in its group. A NaN read as 0 would make
    # the first mean 1/3. Batch: 1, 0, 4 has mean 5/3; squared deviations 4/9 + 25/9 + 49/9 = 26/3; / 2 = 13/3.
    [("group", math.sqrt(0.5) + 1e-4), ("batch", math.sqrt(13 / 3) + 1e-4), ("none", 1.0)],
)
def test_advantages_leave_nan_rewards_out_of_the_baseline(scale, divisor):
    rewards_PG = double([[1, NAN, 0], [NAN, 4, NAN], [NAN, NAN, NAN]])
    expected = [[0.5 / divisor, 0.0, -0.5 / divisor], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    close(group_advantages(rewards_PG, scale=scale), expected)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("rewards", [[[3.0]], [[3.0], [5.0]], [[7.0, 7.0]], [[NAN]]])
def test_advantages_are_zero_without_a_difference_in_the_group(scale, rewards):
    # G = 1, two groups of one, equal rewards, nothing scorable.
    close(group_advantages(double(rewards), scale=scale), [[0.0] * len(group) for group in rewards])


def test_advantages_reject_an_unknown_scale():
    with pytest.raises(ValueError, match="scale is 'std', but must be one of"):
        group_advantages(double([[1, 0]]), scale="std")


# ----------------------------------------------------------------------------------------------------------- per token


def test_ratio_is_the_quotient_of_the_probabilities():
    # Token by token 0.5 / 0.4 = 1.25 and 0.2 / 0.4 = 0.5; the third is masked.
    ratio_BT = importance_ratio(double([[0.5, 0.2, 0.9]]).log(), double([[0.4, 0.4, 0.1]]).log(), double([[1, 1, 0]]))
    close(ratio_BT, [[1.25, 0.5, 1.0]])


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.25, 1.0, -1.25),  # inside [0.8, 1.28]; with the bounds swapped, [0.72, 1.2], it is -1.2
        (1.5, 1.0, -1.28),  # gain capped at 1 + 0.28
        (0.5, 1.0, -0.5),  # no floor where the policy lost what it should have gained
        (0.5, -1.0, 0.8),  # loss floored at 1 - 0.2; swapped bounds 0.72
        (1.5, -1.0, 1.5),  # no cap where the policy gained what it should have lost
        (1.25, -2.0, 2.5),
        (0.5, 0.0, 0.0),
    ],
)
def test_surrogate_clips_gains_only_with_a_range_for_each_side(ratio, advantage, expected):
    close(clipped_surrogate(double([[ratio]]), double([[advantage]]), 0.2, 0.28), [[expected]])


@pytest.mark.parametrize(
    ("ratio", "advantage", "delta", "expected"),
    [
        (5.0, -1.0, 3.0, 3.0),  # min(5, 3) * 1 rather than 5
        (2.0, -1.0, 3.0, 2.0),
        (5.0, 1.0, 3.0, -1.28),  # the cap at 1.28 is lower
        (5.0, 1.0, 1.1, -1.1),  # below 1.28 it bounds gains as well: TRL's meaning, not dual clipping's
        (0.5, -1.0, 3.0, 0.8),
    ],
)
def test_surrogate_with_delta_bounds_the_unclipped_ratio(ratio, advantage, delta, expected):
    close(clipped_surrogate(double([[ratio]]), double([[advantage]]), 0.2, 0.28, delta), [[expected]])


@pytest.mark.parametrize(
    ("ratio", "advantage", "delta", "expected"),
    # d(-rA)/d(log r) = -rA where the ratio is free, and 0 where a bound holds it.
    [(1.25, 1.0, None, -1.25), (1.5, 1.0, None, 0.0), (0.5, -1.0, None, 0.0), (5.0, -1.0, None, 5.0), (5, -1, 3, 0.0)],
)
def test_surrogate_has_no_gradient_where_it_is_clipped(ratio, advantage, delta, expected):
    log_ratio = double([[ratio]]).log().requires_grad_()
    clipped_surrogate(log_ratio.exp(), double([[advantage]]), 0.2, 0.28, delta).sum().backward()
    close(log_ratio.grad, [[expected]])


# --------------------------------------------------------------------------------------------------------- aggregation

# Completions of 1 and 3 tokens whose tokens lose -1 and +1; the padding holds something else.
PER_TOKEN_LOSS = double([[-1, 9, 9], [1, 1, 1]])
MASK = torch.tensor([[1, 0, 0], [1, 1, 1]])


def test_sequence_level_weighs_rows_alike():
    close(sequence_level_loss(PER_TOKEN_LOSS, MASK), 0.0)  # (-1 + 1) / 2


def test_token_level_weighs_tokens_alike():
    close(local_token_loss(PER_TOKEN_LOSS, MASK), 0.5)  # (-1 + 3) / 4
    close(token_level_loss(PER_TOKEN_LOSS, MASK, 4), 0.5)


def test_fixed_length_divides_by_the_budget_of_the_rows():
    close(fixed_length_loss(PER_TOKEN_LOSS, MASK, 5), 0.2)  # 2 / (2 * 5); T would give 2 / 6, tokens 2 / 4


def test_token_level_divides_by_the_tokens_of_the_window():
    # 16 tokens over 4 micro-batches are 8 for a window of 2, and 4 of these on each of 2 processes.
    assert accumulation_window_tokens(16, gradient_accumulation_steps=2, steps_per_generation=4) == 8
    assert accumulation_window_tokens(16, 2, 4, num_processes=2) == 4
    # A window over two generation batches: 32 tokens.
    assert accumulation_window_tokens(torch.tensor(16), gradient_accumulation_steps=4, steps_per_generation=2) == 32
    close(token_level_loss(PER_TOKEN_LOSS, MASK, 8), 0.25)


def test_a_window_without_tokens_counts_one():
    assert accumulation_window_tokens(torch.tensor(0)) == 1


# --------------------------------------------------------------------------------------------------------------- whole


@pytest.mark.parametrize(
    ("ratio", "arguments", "expected"),
    # One token of ratio 1.25 and advantage 1: -1.25. Three of ratio 0.5 and advantage -1: 0.8 each. Sum 1.15.
    [
        (0.5, {"loss_type": "grpo"}, (-1.25 + 0.8) / 2),
        (0.5, {"loss_type": "grpo", "gradient_accumulation_steps": 2}, (-1.25 + 0.8) / 4),
        (0.5, {"loss_type": "bnpo"}, 1.15 / 4),
        (0.5, {"loss_type": "bnpo", "gradient_accumulation_steps": 2}, 1.15 / 8),
        (0.5, {"loss_type": "dr_grpo", "max_completion_length": 5}, 1.15 / 10),
        (0.5, {"loss_type": "dr_grpo", "max_completion_length": 5, "gradient_accumulation_steps": 2}, 1.15 / 20),
        (0.5, {"num_items_in_batch": 4}, 1.15 / 4),
        # 16 / 4 * 2 = 8 tokens in the window, and no further division by its micro-batches.
        (0.5, {"num_items_in_batch": 16, "gradient_accumulation_steps": 2, "steps_per_generation": 4}, 1.15 / 8),
        # Symmetric bounds of 0.2: the first token is capped at 1.2.
        (0.5, {"num_items_in_batch": 4, "epsilon_high": 0.2}, (-1.2 + 2.4) / 4),
        # A lower bound of 0.4: the three tokens are floored at 0.6.
        (0.5, {"num_items_in_batch": 4, "epsilon_low": 0.4}, (-1.25 + 1.8) / 4),
        # The three tokens lose 5 each, or 3 with the bound.
        (5.0, {"num_items_in_batch": 4}, (-1.25 + 15) / 4),
        (5.0, {"num_items_in_batch": 4, "delta": 3.0}, (-1.25 + 9) / 4),
    ],
)
def test_policy_loss_of_two_rows(ratio, arguments, expected):
    logps_BT = double([[1.25, NAN, NAN], [ratio, ratio, ratio]]).log()
    loss = policy_loss(logps_BT, torch.zeros_like(logps_BT), double([1, -1]), MASK, **arguments)
    close(loss, expected)


def test_policy_loss_takes_an_advantage_per_token():
    # -1.25 * 1; then 0.8 * 1, 0.5 * -2, 0.8 * 3: floored, free, floored.
    logps_BT = double([[1.25, 1, 1], [0.5, 0.5, 0.5]]).log()
    advantages_BT = double([[1, 7, 7], [-1, 2, -3]])
    loss = policy_loss(logps_BT, torch.zeros_like(logps_BT), advantages_BT, MASK, num_items_in_batch=4)
    close(loss, (-1.25 + 0.8 - 1.0 + 2.4) / 4)


def test_policy_loss_on_policy_has_the_policy_gradient():
    # Ratio 1 throughout: the gradient of a token's loss is -A, over 4 tokens.
    logps_BT = double([[-1, -2, -3], [-4, -5, -6]]).requires_grad_()
    policy_loss(logps_BT, logps_BT.detach(), double([1, -2]), MASK, num_items_in_batch=4).backward()
    close(logps_BT.grad, [[-0.25, 0, 0], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_policy_loss_without_tokens_is_zero(loss_type):
    logps_BT = double([[-1, NAN], [float("-inf"), -2]]).requires_grad_()
    loss = policy_loss(
        logps_BT,
        logps_BT.detach(),
        double([1, -1]),
        torch.zeros(2, 2),
        loss_type=loss_type,
        num_items_in_batch=0,
        max_completion_length=2,
    )
    loss.backward()
    close(loss, 0.0)
    close(logps_BT.grad, [[0.0, 0.0], [0.0, 0.0]])


def test_a_row_without_tokens_still_counts_as_a_row():
    # Rows lose 1 and nothing: 1 / 2 by sequences, 1 / (2 * 4) of the budget, 1 / 1 by tokens.
    logps_BT, mask_BT = torch.zeros(2, 1, dtype=torch.float64), torch.tensor([[1], [0]])
    expected = {"grpo": 0.5, "dr_grpo": 0.125, "bnpo": 1.0, "dapo": 1.0}
    for loss_type, loss in expected.items():
        arguments = {"loss_type": loss_type, "num_items_in_batch": 1, "max_completion_length": 4}
        close(policy_loss(logps_BT, logps_BT, double([-1, -1]), mask_BT, **arguments), loss)


@pytest.mark.parametrize(
    ("loss_type", "message"),
    [
        ("dapo", "'dapo' needs num_items_in_batch"),
        ("dr_grpo", "'dr_grpo' needs max_completion_length"),
        ("ppo", "loss_type is 'ppo', but must be one of"),
    ],
)
def test_policy_loss_says_what_it_needs(loss_type, message):
    with pytest.raises(ValueError, match=message):
        policy_loss(PER_TOKEN_LOSS, PER_TOKEN_LOSS, double([1, 1]), MASK, loss_type=loss_type)


# -------------------------------------------------------------------------------------------------------------- reward


def test_soft_overlong_punishment_rises_over_the_band():
    # L_max 100, L_cache 20: the band is 81 to 100. Were L_cache the length where it begins, 81 would give -61/80.
    lengths = torch.tensor([0, 80, 81, 90, 100, 101, 500])
    close(soft_overlong_punishment(lengths, 100, 20), [0.0, 0.0, -0.05, -0.5, -1.0, -1.0, -1.0], rtol=1e-6)


def test_soft_overlong_punishment_without_a_band_is_a_step():
    close(soft_overlong_punishment(torch.tensor([[99, 100], [101, 102]]), 100, 0), [[0.0, 0.0], [-1.0, -1.0]])


# ---------------------------------------------------------------------------------------------------------- properties

# Dyadic numbers: sums and shifts of them are exact, so that only the formula can be wrong.
REWARDS = st.integers(-16, 16).map(lambda n: n / 4)
LOG_RATIOS = st.integers(-24, 24).map(lambda n: n / 16)
ADVANTAGES = st.integers(-12, 12).map(lambda n: n / 4)


def matrix(elements: st.SearchStrategy, rows: int, columns: int) -> st.SearchStrategy[Tensor]:
    row = st.lists(elements, min_size=columns, max_size=columns)
    return st.lists(row, min_size=rows, max_size=rows).map(double)


@st.composite
def reward_groups(draw: st.DrawFn) -> Tensor:
    elements = draw(st.sampled_from([REWARDS, st.one_of(REWARDS, st.just(NAN)), st.sampled_from([0.0, 1.0])]))
    return draw(matrix(elements, draw(st.integers(1, 3)), draw(st.integers(1, 5))))


@st.composite
def rollouts(draw: st.DrawFn, max_rows: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, columns = draw(st.integers(1, max_rows)), draw(st.integers(1, 4))
    old_logps_BT = draw(matrix(st.integers(-32, -1).map(lambda n: n / 8), rows, columns))
    logps_BT = old_logps_BT + draw(matrix(LOG_RATIOS, rows, columns))
    advantages_B = draw(matrix(ADVANTAGES, 1, rows))[0]
    return logps_BT, old_logps_BT, advantages_B, draw(matrix(st.integers(0, 1), rows, columns)).long()


def loss_and_gradient(logps_BT: Tensor, *rollout: Tensor, **arguments) -> tuple[Tensor, Tensor]:
    logps_BT = logps_BT.detach().clone().requires_grad_()
    loss = policy_loss(logps_BT, *rollout, **arguments)
    (gradient_BT,) = torch.autograd.grad(loss, logps_BT)
    return loss.detach(), gradient_BT


@given(reward_groups())
def test_advantages_of_a_group_sum_to_zero(rewards_PG):
    for scale in ("group", "batch", "none"):
        advantages_PG = group_advantages(rewards_PG, scale=scale)
        assert torch.isfinite(advantages_PG).all()
        close(advantages_PG.sum(dim=1), [0.0] * len(rewards_PG), atol=1e-9)


@given(reward_groups(), REWARDS)
def test_advantages_ignore_a_shift_of_all_rewards(rewards_PG, shift):
    for scale in ("group", "batch", "none"):
        shifted_PG = group_advantages(rewards_PG + shift, scale=scale)
        torch.testing.assert_close(shifted_PG, group_advantages(rewards_PG, scale=scale), rtol=1e-9, atol=1e-9)


@given(rollouts(), st.sampled_from(LOSS_TYPES), st.sampled_from([0.0, 30.0, -1e30, NAN, float("inf"), -float("inf")]))
def test_padded_tokens_never_matter(rollout, loss_type, junk):
    logps_BT, old_logps_BT, advantages_B, mask_BT = rollout
    arguments = {"loss_type": loss_type, "num_items_in_batch": mask_BT.sum(), "max_completion_length": 7}
    loss, gradient_BT = loss_and_gradient(*rollout, **arguments)
    assert not gradient_BT[mask_BT == 0].any()

    # Other values in the padding, and one column more of it.
    padding = torch.full((len(mask_BT), 1), junk, dtype=torch.float64)
    dirty_BT = torch.cat([torch.where(mask_BT.bool(), logps_BT, junk), padding], dim=1)
    dirty_old_BT = torch.cat([torch.where(mask_BT.bool(), old_logps_BT, -1.0), -padding], dim=1)
    wider_BT = torch.cat([mask_BT, torch.zeros_like(mask_BT[:, :1])], dim=1)
    dirty_loss, dirty_gradient_BT = loss_and_gradient(dirty_BT, dirty_old_BT, advantages_B, wider_BT, **arguments)
    torch.testing.assert_close(dirty_loss, loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dirty_gradient_BT[:, :-1], gradient_BT, rtol=1e-12, atol=1e-12)
    assert not dirty_gradient_BT[:, -1].any()


@given(LOG_RATIOS, ADVANTAGES, st.sampled_from([0.1, 0.2, 0.28]))
def test_equal_epsilons_give_ppo_clipping(log_ratio, advantage, epsilon):
    # PPO by cases: the ratio is bounded on the side to which the advantage pulls, and nowhere else.
    ratio = math.exp(log_ratio)
    bounded = min(ratio, 1 + epsilon) if advantage >= 0 else max(ratio, 1 - epsilon)
    surrogate_BT = clipped_surrogate(double([[ratio]]), double([[advantage]]), epsilon, epsilon)
    close(surrogate_BT, [[-bounded * advantage]])


@given(LOG_RATIOS, ADVANTAGES)
def test_clip_higher_changes_only_gains_beyond_the_lower_bound(log_ratio, advantage):
    ratio_BT, advantage_BT = double([[log_ratio]]).exp(), double([[advantage]])
    changed = not torch.equal(
        clipped_surrogate(ratio_BT, advantage_BT, 0.2, 0.28), clipped_surrogate(ratio_BT, advantage_BT, 0.2, 0.2)
    )
    assert changed == (advantage > 0 and ratio_BT.item() > 1.2)


@given(LOG_RATIOS, ADVANTAGES, st.sampled_from([1.28, 2.0, 4.0]))
def test_delta_above_the_clip_range_is_dual_clipping(log_ratio, advantage, delta):
    # max(min(rA, clip(r)A), δA) for A < 0 and nothing for A >= 0, as in https://huggingface.co/papers/1912.09729.
    ratio_BT, advantage_BT = double([[log_ratio]]).exp(), double([[advantage]])
    plain = clipped_surrogate(ratio_BT, advantage_BT, 0.2, 0.28).item()
    expected = min(plain, -delta * advantage) if advantage < 0 else plain
    close(clipped_surrogate(ratio_BT, advantage_BT, 0.2, 0.28, delta), [[expected]])


@given(st.integers(0, 40), st.integers(1, 60))
def test_soft_overlong_punishment_falls_evenly_from_0_to_minus_1(start, width):
    max_len = start + width
    punishment = soft_overlong_punishment(torch.arange(max_len + 5), max_len, width).double()
    assert (punishment <= 0).all()
    assert (punishment >= -1).all()
    # No step is larger than that of one token in the band, its two ends included, and none goes up.
    steps = punishment.diff()
    assert (steps <= 0).all()
    assert (steps >= -1 / width - 1e-6).all()
    assert punishment[start] == 0
    assert punishment[max_len] == -1


@given(rollouts(max_rows=6), st.data())
def test_micro_batches_of_a_window_add_up_to_the_whole_batch(rollout, data):
    # Rows split anyhow into K micro-batches, which are one window and one generation batch.
    rows = len(rollout[0])
    cuts = sorted(data.draw(st.sets(st.integers(1, rows - 1), max_size=rows - 1))) if rows > 1 else []
    num_items = rollout[-1].sum()
    whole_loss, whole_gradient_BT = loss_and_gradient(*rollout, num_items_in_batch=num_items)
    steps = len(cuts) + 1
    micro_batches = zip(*(tensor.tensor_split(cuts) for tensor in rollout), strict=True)
    window = {"num_items_in_batch": num_items, "gradient_accumulation_steps": steps, "steps_per_generation": steps}
    losses, gradients = zip(*(loss_and_gradient(*part, **window) for part in micro_batches), strict=True)
    torch.testing.assert_close(sum(losses), whole_loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat(gradients), whole_gradient_BT, rtol=1e-12, atol=1e-12)


@given(rollouts())
def test_token_level_equals_sequence_level_for_equal_lengths(rollout):
    logps_BT, old_logps_BT, advantages_B, _ = rollout
    full_BT = torch.ones_like(logps_BT)
    token = policy_loss(logps_BT, old_logps_BT, advantages_B, full_BT, num_items_in_batch=full_BT.sum())
    sequence = policy_loss(logps_BT, old_logps_BT, advantages_B, full_BT, loss_type="grpo")
    torch.testing.assert_close(token, sequence, rtol=1e-12, atol=1e-12)
