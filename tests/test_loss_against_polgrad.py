"""
The specification against [polgrad](https://pypi.org/project/polgrad/), an independent set of reference losses.

What both define must agree to 1e-9, in value and gradient. They part in five places, each with its test below:

- **Denominator.** Eq. (12) of the DAPO paper divides by the tokens of one prompt's group and takes the expectation
  over prompts. polgrad's `TOKEN_MEAN` divides by the tokens of the batch that it is given, ours (and TRL's) by those
  of an accumulation window. For one group in one micro-batch all three are the same.
- **Accumulation.** polgrad models micro-batches as a mean of their token means (`microbatch_token_weights`), which is
  our `"bnpo"`. Our `"dapo"` sums parts of one mean.
- **Rows without tokens.** polgrad rejects them; here they add nothing, as truncated rows under overlong filtering.
- **Dual clip.** polgrad's `ratio_cap` acts on negative advantages only. TRL's `delta` bounds the unclipped ratio for
  both signs, which is the same thing for `delta >= 1 + epsilon_high`.
- **Advantages.** The same formula; polgrad rejects NaN rewards and groups of one, here their advantage is 0.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from polgrad import (
    Aggregation,
    ClipConfig,
    GroupNormConfig,
    PolicyLossConfig,
    get_algorithm,
    grpo_advantages,
    microbatch_token_weights,
)
from polgrad import policy_loss as policy_loss_of_polgrad
from polgrad.testing import assert_conforms
from torch import Tensor

from reference.losses import group_advantages, policy_loss


def ours(**arguments) -> Callable[..., Tensor]:
    def loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, response_mask: Tensor) -> Tensor:
        tokens = response_mask.sum()  # the batch is the window
        return policy_loss(logprobs, old_logprobs, advantages, response_mask, num_items_in_batch=tokens, **arguments)

    return loss


def reference(name: str, **changes) -> PolicyLossConfig:
    return replace(get_algorithm(name).loss, **changes)


def test_token_level_loss_conforms_to_dapo():
    # Log-ratios are uniform in [-2, 2]: most ratios lie outside of [0.8, 1.28], on either side.
    report = assert_conforms(ours(epsilon_low=0.2, epsilon_high=0.28), "dapo", n_cases=256)
    assert report.n_cases == 256


@pytest.mark.parametrize(
    "arguments",
    [
        {"epsilon_low": 0.28, "epsilon_high": 0.2},
        {"epsilon_low": 0.2, "epsilon_high": 0.2},
        {"epsilon_low": 0.2, "epsilon_high": 0.28, "loss_type": "grpo"},
        {"epsilon_low": 0.2, "epsilon_high": 0.28, "delta": 2.0},
    ],
)
def test_another_loss_does_not_conform_to_dapo(arguments):
    with pytest.raises(AssertionError, match="polgrad conformance violation"):
        assert_conforms(ours(**arguments), "dapo")


def test_local_token_loss_conforms_to_dapo():
    assert_conforms(ours(loss_type="bnpo", epsilon_low=0.2, epsilon_high=0.28), "dapo")


def test_sequence_level_loss_conforms_to_grpo_without_its_kl_term():
    assert_conforms(ours(loss_type="grpo", epsilon_low=0.2, epsilon_high=0.2), "grpo")


def test_fixed_length_loss_conforms_to_dr_grpo():
    loss = ours(loss_type="dr_grpo", epsilon_low=0.2, epsilon_high=0.2, max_completion_length=20)
    assert_conforms(loss, reference("dr_grpo", norm_len=20))


@pytest.mark.parametrize("delta", [1.28, 3.0, 10.0])
def test_delta_conforms_to_dual_clip(delta):
    clip = ClipConfig(eps_low=0.2, eps_high=0.28, ratio_cap=delta)
    assert_conforms(ours(delta=delta, epsilon_low=0.2, epsilon_high=0.28), reference("dapo", clip=clip))


def test_delta_inside_the_clip_range_is_not_dual_clip():
    clip = ClipConfig(eps_low=0.2, eps_high=0.28, ratio_cap=1.1)
    with pytest.raises(AssertionError, match="polgrad conformance violation"):
        assert_conforms(ours(delta=1.1, epsilon_low=0.2, epsilon_high=0.28), reference("dapo", clip=clip))


@pytest.mark.parametrize(
    ("loss_type", "weights"),
    # Rows of 1, 3, 3, 1 tokens in micro-batches of 1, 2 and 1 rows. Parts of one mean over 8 tokens: 1/8 each. A mean
    # of three means over 1, 6 and 1 tokens: 1/3, 1/18 and 1/3.
    [("dapo", (1 / 8, 1 / 8, 1 / 8)), ("bnpo", (1 / 3, 1 / 18, 1 / 3))],
)
def test_micro_batches_are_parts_of_one_mean_or_means_of_their_own(loss_type, weights):
    mask_BT = torch.arange(3) < torch.tensor([1, 3, 3, 1]).unsqueeze(1)
    logps_BT = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    for rows in torch.arange(4).split([1, 2, 1]):
        policy_loss(
            logps_BT[rows],
            logps_BT[rows].detach(),
            -torch.ones(len(rows), dtype=torch.float64),  # so that a token's gradient is its weight
            mask_BT[rows],
            loss_type=loss_type,
            num_items_in_batch=8,
            gradient_accumulation_steps=3,
            steps_per_generation=3,
        ).backward()
    expected_BT = torch.tensor([weights[0], weights[1], weights[1], weights[2]]).unsqueeze(1) * mask_BT
    torch.testing.assert_close(logps_BT.grad, expected_BT.double(), rtol=1e-6, atol=0)
    polgrads_BT = microbatch_token_weights(mask_BT, Aggregation.TOKEN_MEAN, [1, 2, 1])
    assert torch.allclose(polgrads_BT, logps_BT.grad) == (loss_type == "bnpo")


def test_the_papers_mean_over_prompts_is_ours_for_one_group_only():
    # Two groups, of 1 + 1 and 3 + 3 tokens, that lose -1 and +1 per token. Eq. (12) of each group: -1 and +1, with
    # mean 0. All tokens alike: (-2 + 6) / 8 = 0.5.
    mask_BT = torch.arange(3) < torch.tensor([1, 1, 3, 3]).unsqueeze(1)
    logps_BT = torch.zeros(4, 3, dtype=torch.float64)
    advantages_B = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    loss = ours()
    assert loss(logps_BT, logps_BT, advantages_B, mask_BT) == 0.5
    groups = [loss(logps_BT[rows], logps_BT[rows], advantages_B[rows], mask_BT[rows]) for rows in ([0, 1], [2, 3])]
    assert groups == [-1.0, 1.0]


@pytest.mark.parametrize("scale", ["group", "none"])
def test_advantages_agree(scale):
    generator = torch.Generator().manual_seed(0)
    rewards_PG = torch.randint(-4, 5, (16, 5), generator=generator).double() / 4
    ids = torch.arange(16).repeat_interleave(5)
    config = GroupNormConfig(scale="std" if scale == "group" else "none")
    expected = grpo_advantages(rewards_PG.flatten(), ids, config).view(16, 5)
    torch.testing.assert_close(group_advantages(rewards_PG, scale=scale), expected, rtol=1e-9, atol=1e-12)


def test_empty_rows_nan_rewards_and_groups_of_one_are_ours_alone():
    empty_row = {
        "logprobs": torch.zeros(2, 1),
        "old_logprobs": torch.zeros(2, 1),
        "advantages": torch.tensor([1.0, 1.0]),
        "response_mask": torch.tensor([[True], [False]]),
    }
    assert ours()(**empty_row) == -1
    with pytest.raises(ValueError, match="rows with zero response tokens"):
        policy_loss_of_polgrad(reference("dapo"), **empty_row)
    nan = float("nan")
    for rewards_PG, message in [([[1.0, nan]], "non-finite"), ([[1.0]], "at least 2 rewards")]:
        rewards_PG = torch.tensor(rewards_PG)
        assert not group_advantages(rewards_PG).any()
        ids = torch.zeros(rewards_PG.numel(), dtype=torch.long)
        with pytest.raises(ValueError, match=message):
            grpo_advantages(rewards_PG.flatten(), ids, GroupNormConfig())
