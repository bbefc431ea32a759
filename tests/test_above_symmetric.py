"""Tokens that a symmetric range would clip from above: counted by hand, and as TRL counts them where it does."""

from math import log

import pytest
import torch

from tiny import constant_reward, parity_reward, plain_dataset, scripted_rollout
from training import dapo_args, even, train
from trl_dapo import DAPOTrainer
from trl_dapo.dapo.above_symmetric import CLIPPED_LOSSES, tokens_above
from trl_dapo.dapo.toggles import SEQUENCE_LEVEL_LOSSES, TOGGLES, TOKEN_LEVEL_LOSSES


# An update that moves the policy out of the range within a rollout, on rows of several lengths
SHAPE = {
    "learning_rate": 3e-2,
    "warmup_steps": 0,
    "max_steps": 4,
    "updates_per_rollout": 4,
    "max_completion_length": 24,
}
KEY = "dapo/above_symmetric"


def ratios(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor([[log(ratio) for ratio in row] for row in rows])


def counts(log_ratio, advantages, mask, by_sequence=False):
    return tokens_above(log_ratio, torch.tensor(advantages), torch.tensor(mask), 0.2, by_sequence).tolist()


def test_tokens_above_count_with_a_positive_advantage_alone():
    # Above 1.2 are 1.25 and 1.5 in each row, at the bound of clip-higher or beyond; 0.5 is on the other side
    table = ratios((1.25, 1.1, 1.5, 0.5), (1.25, 1.1, 1.5, 0.5))
    assert counts(table, [1.0, -1.0], [[1] * 4] * 2) == [2, 8]
    assert counts(table, [1.0, 0.0], [[1] * 4] * 2) == [2, 8]
    assert counts(table, [1.0, 0.5], [[1] * 4] * 2) == [4, 8]


def test_tokens_out_of_the_loss_count_neither_way():
    table = ratios((1.25, 1.1, 1.5), (1.25, 1.25, 1.25))
    assert counts(table, [1.0, 1.0], [[1, 1, 0], [0, 0, 0]]) == [1, 2]


def test_advantages_of_tokens_are_theirs():
    assert counts(ratios((1.5, 1.5, 1.1)), [[1.0, -1.0, 1.0]], [[1, 1, 1]]) == [1, 3]


def test_tokens_of_a_sequence_share_its_ratio():
    # Geometric means over tokens in the loss: sqrt(2 * 1) = 1.41, and sqrt(1.3 * 0.9) = 1.08
    table = ratios((2.0, 1.0, 0.01), (1.3, 0.9, 9.0))
    assert counts(table, [1.0, 1.0], [[1, 1, 0], [1, 1, 0]], by_sequence=True) == [2, 4]


def go(tmp_path, toggles, reward=parity_reward, rewardable=None, **fields):
    fields = {**dict.fromkeys(TOGGLES, False), **toggles, **SHAPE, **fields}
    kwargs = {"reward_funcs": reward, "train_dataset": plain_dataset(40)}
    return train(DAPOTrainer, dapo_args(tmp_path, **fields), rollout_func=scripted_rollout(rewardable), **kwargs)


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("loss_type", CLIPPED_LOSSES)
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_with_the_symmetric_range_it_is_what_trl_clips(tmp_path, compact, loss_type, level):
    toggles = {"token_level_loss": loss_type not in SEQUENCE_LEVEL_LOSSES}
    fields = {"loss_type": loss_type, "importance_sampling_level": level}
    if loss_type != "luspo":
        fields["compact_microbatches"] = compact
    if level == "sequence":
        fields |= {"epsilon": 0.02, "num_iterations": 2, "max_steps": 8}
    result = go(tmp_path, toggles, **fields)
    shares = [entry[KEY] for entry in result.logs]
    assert shares[0] == 0 < max(shares)
    if level == "token":
        assert shares == pytest.approx([entry["clip_ratio/high_mean"] for entry in result.logs], abs=1e-7)
    else:  # TRL's is a share of rows there
        assert [share > 0 for share in shares] == [entry["clip_ratio/high_mean"] > 0 for entry in result.logs]


def test_it_counts_all_micro_batches_of_an_update(tmp_path):
    # TRL's is a mean of means, so it has other weights where micro-batches differ in tokens. Rows of constant groups
    # are left out of packed micro-batches, and count as in TRL's
    fields = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_iterations": 2}
    fields |= {"max_steps": 9, "epsilon": 0.02, "learning_rate": 1e-2, "rewardable": even}
    packed, plain = (
        go(tmp_path, {"token_level_loss": True}, **fields, compact_microbatches=compact) for compact in (True, False)
    )
    # The first update of the second pass over the rollout
    assert packed.logs[4]["packing/live_rows"] < 1
    assert packed.logs[4][KEY] > 0
    assert [log[KEY] for log in packed.logs] == pytest.approx([log[KEY] for log in plain.logs], abs=1e-7)
    assert packed.logs[4][KEY] == pytest.approx(packed.logs[4]["clip_ratio/high_mean"], rel=0.3)
    assert packed.logs[8][KEY] == 0  # a rollout begins


def test_it_is_above_what_clip_higher_clips(tmp_path):
    result = go(tmp_path, {"clip_higher": True})
    assert result.logs[-1][KEY] > result.logs[-1]["clip_ratio/high_mean"]


@pytest.mark.parametrize("loss_type", sorted({*TOKEN_LEVEL_LOSSES, *SEQUENCE_LEVEL_LOSSES} - set(CLIPPED_LOSSES)))
def test_losses_that_do_not_clip_leave_it_out(tmp_path, loss_type):
    toggles = {"token_level_loss": loss_type not in SEQUENCE_LEVEL_LOSSES}
    fields = {"epsilon_high": 5.0} if loss_type == "cispo" else {}
    result = go(tmp_path, toggles, loss_type=loss_type, max_steps=2, **fields)
    assert not any(KEY in entry for entry in result.logs)


def test_a_loss_of_ones_own_leaves_it_out(tmp_path):
    class Own(DAPOTrainer):
        def _compute_loss(self, model, inputs):
            return 0.0 * sum(parameter.sum() for parameter in model.parameters())

    fields = {**dict.fromkeys(TOGGLES, False), **SHAPE, "max_steps": 2}
    result = train(Own, dapo_args(tmp_path, **fields), reward_funcs=parity_reward, rollout_func=scripted_rollout(None))
    assert not any(KEY in entry for entry in result.logs)
    assert all("dapo/rows_filtered" in entry for entry in result.logs)


def test_it_is_there_where_no_token_is_in_the_loss(tmp_path):
    fields = {"max_refill_rounds": 0, "max_steps": 2}
    result = go(tmp_path, {"dynamic_sampling": True}, reward=constant_reward, **fields)
    assert [entry[KEY] for entry in result.logs] == [0.0, 0.0]
