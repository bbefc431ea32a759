"""
Defects found in other implementations of DAPO, one test each, so that none of them comes back here.

Four more are in `test_trainer.py`: a last round that nobody looks at, refills that repeat the dataloader's batch,
exhaustion that falls back on the unfiltered batch, and a length penalty that makes a group informative. Two cannot
occur: rounds are synchronous, so that short completions are not favoured, and no rank skips a backward pass that
others run.
"""

import pytest
import torch
from datasets import Dataset

from tiny import parity_reward, plain_dataset, scripted_rollout
from training import dapo_args, even, groups_of, loss_mask, record_rollouts, run, train
from trl_dapo import DAPOTrainer
from trl_dapo.dapo.config import DAPOConfig
from trl_dapo.dapo.overlong import length_penalty_function
from trl_dapo.dapo.sampling.groups import judge_groups


def test_rounding_and_missing_rewards_are_not_variance():
    # In float32, the standard deviation of eight times 0.7 is not 0; and NaN differs from 0
    rewards = torch.full((1, 8), 0.7)
    assert rewards.std() != 0 or (rewards.pow(2).mean() - rewards.mean() ** 2) != 0
    live = torch.ones(2, 8, dtype=torch.bool)
    verdicts = judge_groups(torch.cat([rewards, torch.full((1, 8), torch.nan)]), live, 1e-6)
    assert verdicts.informative_P.tolist() == [False, False]


def test_equal_prompts_do_not_merge_their_groups(tmp_path):
    # Every prompt of the dataset reads alike; groups are rows that stand together, not rows that read alike
    rows = Dataset.from_dict({"prompt": ["0+1="] * 16, "answer": ["1"] * 16})
    _, rollouts, _ = run(tmp_path, dataset=rows, soft_overlong_punishment=False)
    advantages = rollouts[0]["advantages"].view(4, 4)
    torch.testing.assert_close(advantages.sum(dim=1), torch.zeros(4), atol=1e-5, rtol=0)
    assert rollouts[0]["prompts"] == ["0+1="] * 16


@pytest.mark.parametrize("length", [100, 101, 500])
def test_length_penalty_never_passes_minus_one_nor_rewards_what_is_too_long(length):
    assert length_penalty_function(100, 20)(completion_ids=[[1] * length]) == [-1.0]


def test_length_penalty_is_measured_from_the_length_that_is_generated(tmp_path):
    # A recipe with 14336 for the penalty and 16384 for generation penalises up to -1.5
    config = DAPOConfig(str(tmp_path), use_cpu=True, bf16=False, max_completion_length=1000)
    assert config.soft_punish_cache == 200
    penalty = length_penalty_function(1000, 200)
    assert penalty(completion_ids=[[1] * 800, [1] * 900, [1] * 1000]) == [0.0, -0.5, -1.0]


def test_truncated_rows_stay_in_their_group(tmp_path):
    # Dropped before grouping, they would shift every later row into the wrong group
    result, rollouts, _ = run(tmp_path, overlong_filtering=True, soft_overlong_punishment=False)
    assert len(rollouts[0]["prompts"]) == 16
    assert result.logs[0]["completions/clipped_ratio"] == 0.25
    # Rows 0 to 3 of a group are wrong, right, wrong and right; row 2 is truncated and masked, and in the baseline:
    # mean 1/2, standard deviation sqrt(4 * 1/4 / 3) = 0.57735, so 0.5 / 0.57745 = 0.86587 with the sign of the row
    advantages = rollouts[0]["advantages"].view(4, 4)
    torch.testing.assert_close(advantages, torch.tensor([[-1.0, 1, -1, 1]] * 4) * 0.8658754, atol=1e-4, rtol=0)
    assert (loss_mask(rollouts[0]).sum(dim=1).view(4, 4)[:, 2] == 0).all()


def test_groups_of_every_place_are_judged(tmp_path):
    # A flat vector of rows taken for a table of groups would judge the first group alone
    _, rollouts, calls = run(tmp_path, max_refill_rounds=0)
    used = (loss_mask(rollouts[0]).sum(dim=1) > 0).view(4, 4).all(dim=1)
    assert used.tolist() == [even(prompt) for prompt in groups_of(calls[0])]
    assert used[1:].any()


@pytest.mark.parametrize(
    ("group", "informative"), [([0.5] * 4, False), ([-1.0] * 4, False), ([1.0] * 4, False), ([-1.0, 1, 1, 1], True)]
)
def test_a_constant_between_the_extremes_is_degenerate(group, informative):
    # "mean strictly between 0 and 1" keeps a constant 0.5, and drops groups of rewards of -1 and 1
    verdicts = judge_groups(torch.tensor([group]), torch.ones(1, 4, dtype=torch.bool), 1e-6)
    assert verdicts.informative_P.tolist() == [informative]


def test_an_epoch_has_its_steps_although_refills_use_up_prompts(tmp_path):
    # 16 prompts, 4 per rollout, 2 updates each: 8 steps per epoch. Half of the prompts are degenerate, so a rollout
    # uses about 8 of them, and the dataset is passed twice
    args = dapo_args(tmp_path, max_steps=-1, num_train_epochs=1, overlong_filtering=False)
    recorded = []
    result = train(
        DAPOTrainer,
        args,
        prepare=lambda trainer: recorded.append(record_rollouts(trainer)),
        reward_funcs=parity_reward,
        rollout_func=scripted_rollout(even),
        train_dataset=plain_dataset(16),
    )
    assert result.trainer.state.global_step == 8
    # Nothing that was found is lost at the end of an epoch
    assert all(log["dapo/groups_kept"] == 4 for log in result.logs)
