"""PPO's numbers against values derived by hand, and their properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trl_dapo.ppo.estimation import (
    adapted_kl_coef,
    explained_variance,
    generalized_advantages,
    moments,
    per_token_kl,
    token_rewards,
    value_loss,
    variance,
    whitened,
)


def near(expected):
    return pytest.approx(expected, rel=1e-5, abs=1e-6)


def row(*values):
    return torch.tensor([values], dtype=torch.float32)


def test_kl_estimators_of_one_ratio():
    # log p = -1, log p_ref = -1.5: r = -0.5. k1 = 0.5; k3 = exp(-0.5) - (-0.5) - 1 = 0.60653 + 0.5 - 1 = 0.10653
    logps, ref_logps = row(-1.0), row(-1.5)
    assert per_token_kl(logps, ref_logps, "k1").item() == near(0.5)
    assert per_token_kl(logps, ref_logps, "k3").item() == near(0.1065306597)
    # The other way round r = 0.5: k1 = -0.5; k3 = 1.64872 - 0.5 - 1 = 0.14872
    assert per_token_kl(ref_logps, logps, "k1").item() == near(-0.5)
    assert per_token_kl(ref_logps, logps, "k3").item() == near(0.1487212707)


def test_k3_of_a_tiny_difference_does_not_cancel():
    # k3 = r^2 / 2 + ... = 5e-9; in float32, exp(r) - 1 - r by itself is off by 1e-8
    assert per_token_kl(torch.zeros(1), torch.full((1,), 1e-4), "k3").item() == pytest.approx(5e-9, rel=0.5)


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="'k1' or 'k3', got 'k2'"):
        per_token_kl(row(0.0), row(0.0), "k2")


def test_the_score_is_on_the_last_token_of_the_policy():
    # KL 1, 2, 3, 4 at coefficient 0.1; the third token is a tool's, the fourth padding
    rewards = token_rewards(torch.tensor([5.0]), row(1, 2, 3, 4), row(1, 1, 0, 0), 0.1)
    assert rewards.tolist() == [near([-0.1, 4.8, 0.0, 0.0])]
    # A tool's token in the middle has no reward, and a row without tokens none at all
    assert token_rewards(torch.tensor([5.0]), row(1, 2, 3), row(1, 0, 1), 0.1).tolist() == [near([-0.1, 0.0, 4.7])]
    assert token_rewards(torch.tensor([5.0]), row(1, 2), row(0, 0), 0.1).tolist() == [[0.0, 0.0]]


def test_generalized_advantages_of_three_tokens():
    # gamma 0.9, lambda 0.8, gamma * lambda = 0.72; values 1, 2, 3; rewards 0, 0, 10
    # delta_3 = 10 - 3 = 7; delta_2 = 0.9 * 3 - 2 = 0.7; delta_1 = 0.9 * 2 - 1 = 0.8
    # A_3 = 7; A_2 = 0.7 + 0.72 * 7 = 5.74; A_1 = 0.8 + 0.72 * 5.74 = 4.9328
    found = generalized_advantages(row(0, 0, 10), row(1, 2, 3), row(1, 1, 1), 0.9, 0.8)
    assert found.advantages.tolist() == [near([4.9328, 5.74, 7.0])]
    assert found.returns.tolist() == [near([5.9328, 7.74, 10.0])]


def test_a_masked_token_is_no_step_in_time():
    # As above with the second token a tool's: delta_3 = 7; delta_1 = 0.9 * 3 - 1 = 1.7; A_1 = 1.7 + 0.72 * 7 = 6.74
    found = generalized_advantages(row(0, 99, 10), row(1, 77, 3), row(1, 0, 1), 0.9, 0.8)
    assert found.advantages.tolist() == [near([6.74, 0.0, 7.0])]
    assert found.returns.tolist() == [near([7.74, 0.0, 10.0])]
    # And with padding at the end: delta_2 = 10 - 2 = 8; A_1 = (0.9 * 2 - 1) + 0.72 * 8 = 6.56
    found = generalized_advantages(row(0, 10, 99), row(1, 2, 77), row(1, 1, 0), 0.9, 0.8)
    assert found.advantages.tolist() == [near([6.56, 8.0, 0.0])]


def test_a_row_without_tokens_has_no_advantage():
    found = generalized_advantages(row(5, 5), row(1, 2), row(0, 0), 1.0, 1.0)
    assert found.advantages.tolist() == found.returns.tolist() == [[0.0, 0.0]]


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 100), st.floats(0, 1), st.floats(0, 1))
def test_masked_positions_could_be_cut_out(chosen, seed, gamma, lam):
    draw = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, 1, len(chosen), generator=draw).unbind()
    mask = torch.tensor([chosen])
    found = generalized_advantages(rewards, values, mask, gamma, lam)
    if any(chosen):
        short = generalized_advantages(rewards[mask][None], values[mask][None], mask[mask][None], gamma, lam)
        assert torch.allclose(found.advantages[mask], short.advantages[0])
        assert torch.allclose(found.returns[mask], short.returns[0])
    assert (found.advantages[~mask] == 0).all()


def test_with_lambda_1_returns_are_the_discounted_rewards():
    # 1 + 0.5 * 2 + 0.25 * 4 = 3; 2 + 0.5 * 4 = 4; 4: whatever the values are
    found = generalized_advantages(row(1, 2, 4), row(7, -3, 11), row(1, 1, 1), 0.5, 1.0)
    assert found.returns.tolist() == [near([3.0, 4.0, 4.0])]


def test_whitening_of_two_ranks():
    # 1, 2 here and 6 there: mean 3, squares 4 + 1 + 9 = 14, Bessel's variance 7
    here, there = torch.tensor([1.0, 2.0, 50.0]), torch.tensor([6.0])
    mask = torch.tensor([1, 1, 0])
    sums = moments(here, mask) + moments(there, torch.ones(1))
    assert sums.tolist() == [3.0, 9.0, 41.0]
    assert variance(sums).item() == near(7.0)
    assert whitened(here, mask, sums).tolist() == near([-2 / math.sqrt(7), -1 / math.sqrt(7), 0.0])
    assert whitened(there, torch.ones(1), sums).tolist() == near([3 / math.sqrt(7)])


def test_whitening_of_equal_values_and_of_none():
    equal = torch.full((3,), 4.0)
    assert whitened(equal, torch.ones(3), moments(equal, torch.ones(3))).tolist() == [0.0, 0.0, 0.0]
    assert whitened(equal, torch.zeros(3), moments(equal, torch.zeros(3))).tolist() == [0.0, 0.0, 0.0]


def test_value_clipping():
    # Old value 1, range 0.2.
    # V = 1.5, R = 2: (1.5 - 2)^2 = 0.25, clipped to 1.2: (1.2 - 2)^2 = 0.64, half of it 0.32, and no gradient
    # V = 1.5, R = 0: 2.25 against 1.44: half of 2.25 = 1.125, unclipped
    # V = 1.1, R = 2: inside the range: half of 0.81 = 0.405
    values = row(1.5, 1.5, 1.1).requires_grad_()
    found = value_loss(values, row(1, 1, 1), row(2, 0, 2), 0.2)
    assert found.per_token.tolist() == [near([0.32, 1.125, 0.405])]
    assert found.clipped.tolist() == [[True, False, False]]
    found.per_token.sum().backward()
    assert values.grad.tolist() == [near([0.0, 1.5, -0.9])]


def test_value_loss_without_clipping():
    found = value_loss(row(1.5), row(1), row(2), None)
    assert found.per_token.item() == near(0.125)
    assert not found.clipped.any()


def test_explained_variance():
    # Returns 1, 2, 3 (variance 1), values 1, 2, 5: errors 0, 0, -2, mean -2/3, squares 4 - 4/3 = 8/3, variance 4/3
    returns, values, mask = row(1, 2, 3), row(1, 2, 5), row(1, 1, 1)
    found = explained_variance(moments(returns, mask), moments(returns - values, mask))
    assert found == near(1 - 4 / 3)
    assert explained_variance(moments(returns, mask), moments(returns - returns, mask)) == near(1.0)
    constant = row(2, 2, 2)
    assert math.isnan(explained_variance(moments(constant, mask), moments(constant, mask)))


def test_the_kl_coefficient_follows_the_target():
    # kl 7 at target 6: e = 1/6, 100 of 1000 completions: 0.1 * (1 + 1/60)
    assert adapted_kl_coef(0.1, 7.0, 6.0, 100, 1000) == near(0.1 * (1 + 1 / 60))
    # Far off, e is 0.2 at most in either direction
    assert adapted_kl_coef(0.1, 60.0, 6.0, 100, 1000) == near(0.102)
    assert adapted_kl_coef(0.1, -60.0, 6.0, 100, 1000) == near(0.098)
