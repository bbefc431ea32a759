"""Each toggle alone changes what it says, and nothing else."""

import pytest
import torch

from tiny import parity_reward, plain_dataset, scripted_rollout, share_reward, tiny_model, tiny_tokenizer
from training import assert_same_run, assert_same_tensors, dapo_args, loss_mask, record_rollouts, train
from trl_dapo import DAPOTrainer
from trl_dapo.dapo.config import TOGGLES


OFF = dict.fromkeys(TOGGLES, False)


def run(tmp_path, script=True, reward_funcs=parity_reward, model=None, **fields):
    recorded = []
    kwargs = {"rollout_func": scripted_rollout()} if script else {}
    result = train(
        DAPOTrainer,
        dapo_args(tmp_path, **{**OFF, "max_steps": 4, **fields}),
        prepare=lambda trainer: recorded.append(record_rollouts(trainer)),
        model=model,
        reward_funcs=reward_funcs,
        train_dataset=plain_dataset(32),
        **kwargs,
    )
    return result, recorded[0]


def test_clip_higher_is_the_same_until_a_ratio_leaves_the_symmetric_range(tmp_path):
    # The first update of each rollout has ratio 1. With a small learning rate so has the second, nearly.
    small = [run(tmp_path, learning_rate=1e-5, clip_higher=on)[0] for on in (False, True)]
    assert small[0].logs[1]["clip_ratio/high_max"] == 0
    assert_same_run(*small)
    # With a large one the second update clips, and the wider bound clips less
    symmetric, higher = (run(tmp_path, learning_rate=0.01, clip_higher=on)[0] for on in (False, True))
    assert_same_tensors(symmetric.gradients[0], higher.gradients[0])
    assert symmetric.logs[1]["clip_ratio/high_mean"] > higher.logs[1]["clip_ratio/high_mean"]
    assert symmetric.logs[1]["clip_ratio/low_mean"] == higher.logs[1]["clip_ratio/low_mean"]
    assert any(not torch.equal(tensor, higher.gradients[1][name]) for name, tensor in symmetric.gradients[1].items())


def test_overlong_filtering_masks_the_truncated_rows_alone(tmp_path):
    (_, plain), (_, filtered) = run(tmp_path), run(tmp_path, overlong_filtering=True)
    ends = torch.tensor([0, 3])
    last = plain[0]["completion_mask"].sum(dim=1) - 1
    truncated = ~torch.isin(plain[0]["completion_ids"][torch.arange(16), last], ends)
    assert 0 < truncated.sum() < 16
    expected = plain[0]["completion_mask"] * ~truncated.unsqueeze(1)
    assert torch.equal(filtered[0]["completion_mask"], expected)
    assert torch.equal(filtered[0]["advantages"], plain[0]["advantages"])
    assert filtered[0]["num_items_in_batch"] == expected.sum()


def test_soft_overlong_punishment_shifts_rewards_alone(tmp_path):
    # L_max 8 and a band of 4: |y| = 5, 6, 7, 8 cost 1/4, 2/4, 3/4, 1
    fields = {"soft_overlong_punishment": True, "soft_punish_cache": 4, "overlong_penalty_factor": 1.0}
    (plain, before), (shaped, after) = run(tmp_path), run(tmp_path, **fields)
    assert torch.equal(before[0]["completion_ids"], after[0]["completion_ids"])
    lengths = before[0]["completion_mask"].sum(dim=1)
    cost = torch.tensor([0.0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1.0])[lengths]
    assert shaped.logs[0]["reward"] == pytest.approx(plain.logs[0]["reward"] - cost.mean().item())
    assert shaped.logs[0]["rewards/parity_reward/mean"] == plain.logs[0]["rewards/parity_reward/mean"]
    assert not torch.equal(before[0]["advantages"], after[0]["advantages"])
    assert torch.equal(loss_mask(before[0]), loss_mask(after[0]))


def test_token_level_loss_weights_tokens_not_completions(tmp_path):
    (sequence, before), (token, after) = run(tmp_path), run(tmp_path, token_level_loss=True)
    assert torch.equal(before[0]["advantages"], after[0]["advantages"])
    # First update: ratio 1, so each token's loss is minus its row's advantage. TRL shuffles the rows into updates of 8
    # by the same draw, so the rows of an update are found in the buffer of the trainer, which holds the last rollout
    trainer = token.trainer
    for run_of, batch in ((sequence, sequence.trainer._buffered_inputs[0]), (token, trainer._buffered_inputs[0])):
        advantages, mask = batch["advantages"], loss_mask(batch).float()
        if run_of is sequence:
            expected = -advantages.mean()
        else:
            # TRL divides by the mean number of tokens of an update: those of the rollout / 2
            expected = -(advantages * mask.sum(dim=1)).sum() / (batch["num_items_in_batch"] / 2)
        assert run_of.losses[2] == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)


def test_dynamic_sampling_alone_changes_the_rows_and_no_formula(tmp_path):
    # Rollouts without a model: what is kept does not depend on the policy, so the same rows served without dynamic
    # sampling must give the same run
    even = scripted_rollout(lambda text: int(text.split("+")[0]) % 2 == 0)
    recorded = []
    sampled = train(
        DAPOTrainer,
        dapo_args(tmp_path, **{**OFF, "dynamic_sampling": True, "max_steps": 2}),
        prepare=lambda trainer: recorded.append(record_rollouts(trainer)),
        reward_funcs=parity_reward,
        rollout_func=even,
        train_dataset=plain_dataset(32),
    )
    kept = recorded[0][0]["prompts"][::4]
    rows = plain_dataset(32).filter(lambda row: row["prompt"] in kept)
    order = {prompt: place for place, prompt in enumerate(kept)}
    rows = rows.select(sorted(range(4), key=lambda index: order[rows[index]["prompt"]]))
    plain = train(
        DAPOTrainer,
        dapo_args(tmp_path, **{**OFF, "max_steps": 2, "shuffle_dataset": False}),
        reward_funcs=parity_reward,
        rollout_func=scripted_rollout(),
        train_dataset=rows,
    )
    assert sampled.logs[0]["dapo/groups_generated"] > 4
    assert_same_run(sampled, plain)


def test_all_of_dapo_learns(tmp_path):
    # Ids below 60 are about half of a random model's, and can be all of them; one id in six ends a completion
    model = tiny_model(tiny_tokenizer())
    model.generation_config.eos_token_id = list(range(0, 108, 6))
    fields = {**dict.fromkeys(TOGGLES, True), "max_steps": 24, "learning_rate": 3e-2}
    result, rollouts = run(tmp_path, script=False, reward_funcs=share_reward, model=model, **fields)
    assert len(rollouts) == 12
    # Two updates a rollout, of which the first logs the rewards
    shares = [log["rewards/share_reward/mean"] for log in result.logs[::2]]
    # Between two rollouts of a policy that does not learn, the mean of three differs by a tenth at most
    assert sum(shares[-3:]) / 3 > sum(shares[:3]) / 3 + 0.15
