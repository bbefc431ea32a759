"""Dynamic sampling in the trainer, on rollouts whose degenerate groups are known beforehand."""

import logging

import pandas as pd
import pytest
import torch
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import get_soft_overlong_punishment

from reference.losses import group_advantages
from tiny import (
    constant_reward,
    iterable_dataset,
    logging_reward,
    none_reward,
    parity_reward,
    plain_dataset,
    scripted_rollout,
    share_reward,
)
from training import build, dapo_args, even, groups_of, host_args, loss_mask, never, run, train
from trl_dapo import DAPOConfig, DAPOTrainer
from trl_dapo.host.passes import Pass


def test_trained_batch_is_full_and_informative(tmp_path):
    result, rollouts, _ = run(tmp_path)
    assert len(rollouts) == 1
    assert all(even(prompt) for prompt in groups_of(rollouts[0]["prompts"]))
    assert len(rollouts[0]["prompts"]) == 16
    assert result.logs[0]["dapo/groups_kept"] == 4
    assert result.logs[0]["dapo/exhausted"] == 0
    assert result.logs[0]["frac_reward_zero_std"] == 0


def test_refills_are_prompts_that_the_batch_does_not_hold(tmp_path):
    # With 4 micro-steps per generation, the dataloader of TRL yields each batch 4 times
    fields = {"updates_per_rollout": 4, "per_device_train_batch_size": 4, "max_steps": 8}
    _, rollouts, calls = run(tmp_path, **fields)
    assert len(rollouts) == 2 < len(calls)
    seen = [prompt for call in calls for prompt in groups_of(call)]
    assert len(seen) == len(set(seen))


def test_the_last_round_is_looked_at(tmp_path):
    # One refill is allowed, and the batch is only full with what it brings. In TRL's order for seed 0, of the
    # first 4 prompts some are odd, and a refill of as many as the deficit asks for brings enough even ones.
    result, rollouts, calls = run(tmp_path, max_refill_rounds=1)
    assert len(calls) == 2
    assert any(even(prompt) for prompt in groups_of(calls[1]))
    refilled = set(groups_of(calls[1])) & set(groups_of(rollouts[0]["prompts"]))
    assert refilled
    assert result.logs[0]["dapo/refill_rounds"] == 1


def test_no_round_is_generated_beyond_the_bound(tmp_path):
    for bound in (0, 1, 3):
        _, _, calls = run(tmp_path, rewardable=never, max_refill_rounds=bound)
        assert len(calls) == 1 + bound


def test_exhaustion_keeps_what_was_found(tmp_path):
    # With one informative prompt in the dataset, that group is trained on and nothing else
    result, rollouts, _ = run(tmp_path, rewardable=lambda text: text == "6+7=", max_refill_rounds=8)
    (rollout,) = rollouts
    trained = loss_mask(rollout).sum(dim=1) > 0
    assert [prompt for prompt, used in zip(rollout["prompts"], trained, strict=True) if used] == ["6+7="] * 4
    assert result.logs[0]["dapo/groups_kept"] == 1
    assert result.logs[0]["dapo/exhausted"] == 1


def test_fillers_have_no_advantage_and_leave_the_denominator(tmp_path):
    # A length penalty of 3 of 8 tokens gives groups of equal accuracy and unequal lengths an advantage of their own.
    # All rows of a degenerate group are row 0 here, so make rows unequal in length and equal in reward instead.
    result, rollouts, _ = run(
        tmp_path, rewardable=None, reward_funcs=constant_reward, max_refill_rounds=1, soft_punish_cache=3
    )
    (rollout,) = rollouts
    assert rollout["completion_mask"].sum() > 0
    assert loss_mask(rollout).sum() == 0
    assert torch.equal(rollout["advantages"], torch.zeros(16))
    assert rollout["num_items_in_batch"] == 0
    assert set(result.trainer._logs["advantages"]) == {0.0}
    # Nothing is informative: bounded, finite, and the parameters do not move
    assert result.losses == [0.0, 0.0]
    assert all(torch.equal(tensor, torch.zeros_like(tensor)) for step in result.gradients for tensor in step.values())


def test_denominator_counts_the_tokens_that_are_trained_on(tmp_path):
    for fields in ({"max_refill_rounds": 0}, {"max_refill_rounds": 8}, {"overlong_filtering": True}):
        _, rollouts, _ = run(tmp_path, **fields)
        for rollout in rollouts:
            assert rollout["num_items_in_batch"] == loss_mask(rollout).sum() > 0


def test_exhaustion_can_raise(tmp_path):
    with pytest.raises(RuntimeError, match=r"0 of 4 informative groups among \d+ generated in 3 rounds"):
        run(tmp_path, rewardable=never, max_refill_rounds=2, dynamic_sampling_on_exhaustion="raise")


def test_exhaustion_is_told_once_twice_four_times(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run(tmp_path, rewardable=never, max_refill_rounds=1, max_steps=12)
    # 6 rollouts of 2 updates: the 1st, 2nd and 4th tell
    assert sum("Dynamic sampling found 0 of 4" in message for message in caplog.messages) == 3


def test_filter_without_refill_trains_on_the_informative_groups_alone(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        result, rollouts, calls = run(tmp_path, max_refill_rounds=0)
    assert len(calls) == 1
    used = loss_mask(rollouts[0]).sum(dim=1) > 0
    assert used.tolist() == [even(prompt) for prompt in rollouts[0]["prompts"]]
    assert 0 < used.sum() < 16
    assert not any("Dynamic sampling found" in message for message in caplog.messages)
    assert result.logs[0]["dapo/groups_kept"] == used.sum() / 4


def test_length_penalty_never_makes_a_group_informative(tmp_path):
    # Every row is right; every third is 8 of 8 tokens long, which the penalty of width 3 takes a whole point for
    result, _, calls = run(
        tmp_path, rewardable=None, reward_funcs=constant_reward, max_refill_rounds=2, soft_punish_cache=3
    )
    assert len(calls) == 3
    assert result.logs[0]["dapo/mean_length_penalty"] < 0
    assert result.logs[0]["dapo/frac_informative"] == 0
    assert result.logs[0]["dapo/frac_all_correct"] == 1


def test_users_own_length_penalty_makes_ours_stand_back(tmp_path, caplog):
    theirs = get_soft_overlong_punishment(max_completion_len=8, soft_punish_cache=3)
    with caplog.at_level(logging.WARNING):
        result, _, calls = run(tmp_path, reward_funcs=[constant_reward, theirs], rewardable=None, max_refill_rounds=1)
    assert result.trainer.reward_func_names.count("soft_overlong_punishment_reward") == 1
    assert any("adds none" in message for message in caplog.messages)
    assert len(calls) == 2
    assert result.logs[0]["dapo/mean_length_penalty"] < 0


def test_length_penalty_is_a_reward_column_that_trl_logs(tmp_path):
    result, rollouts, _ = run(tmp_path, overlong_penalty_factor=0.5, soft_punish_cache=4, dynamic_sampling=False)
    assert result.trainer.reward_func_names == ["parity_reward", "soft_overlong_punishment_reward"]
    # L_max 8, L_cache 4: a completion of n tokens is penalised by (4 - n) / 4, but not above 0
    lengths = rollouts[0]["completion_mask"].sum(dim=1)
    penalties = torch.clamp((4 - lengths) / 4, max=0.0)
    log = result.logs[0]
    assert log["rewards/soft_overlong_punishment_reward/mean"] == pytest.approx(penalties.mean().item())
    assert log["dapo/mean_length_penalty"] == pytest.approx(penalties.mean().item())
    assert log["reward"] == pytest.approx(log["rewards/parity_reward/mean"] + 0.5 * penalties.mean().item())


def test_rows_without_a_reward_stay_unscored_beside_the_length_penalty(tmp_path, caplog):
    def odd_prompts_only(prompts, completion_ids, **kwargs):
        scores = parity_reward(completion_ids)
        return [None if even(prompt) else score for prompt, score in zip(prompts, scores, strict=True)]

    with caplog.at_level(logging.WARNING):
        result, rollouts, _ = run(tmp_path, rewardable=None, reward_funcs=odd_prompts_only, max_refill_rounds=0)
    unscored = torch.tensor([even(prompt) for prompt in rollouts[0]["prompts"]])
    assert 0 < unscored.sum() < 16
    assert torch.equal(rollouts[0]["advantages"][unscored], torch.zeros(int(unscored.sum())))
    assert torch.equal(loss_mask(rollouts[0]).sum(dim=1) > 0, ~unscored)
    # The host's own warning, which a penalty in every row would silence
    assert any("All reward functions returned None" in message for message in caplog.messages)
    assert all(torch.isfinite(torch.tensor(result.losses)))


def test_an_unscored_row_of_a_scored_group_has_no_advantage(tmp_path):
    def all_but_the_last(completion_ids, **kwargs):
        scores = parity_reward(completion_ids)
        return [None if place % 4 == 3 else score for place, score in enumerate(scores)]

    _, rollouts, _ = run(tmp_path, rewardable=None, reward_funcs=all_but_the_last, soft_punish_cache=8)
    advantages = rollouts[0]["advantages"].view(4, 4)
    # Its length penalty alone, -1/8 to -1, would set it apart from the other three
    assert torch.equal(advantages[:, 3], torch.zeros(4))
    torch.testing.assert_close(advantages.sum(dim=1), torch.zeros(4), atol=1e-5, rtol=0)
    assert (advantages[:, 1] > 0).all()


def test_no_reward_at_all_is_bounded_and_finite(tmp_path):
    result, rollouts, calls = run(tmp_path, reward_funcs=none_reward, max_refill_rounds=2)
    assert len(calls) == 3
    assert result.losses == [0.0, 0.0]
    assert torch.equal(rollouts[0]["advantages"], torch.zeros(16))
    # Neither right nor wrong
    assert result.logs[0]["dapo/frac_all_correct"] == result.logs[0]["dapo/frac_all_wrong"] == 0


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_those_of_the_final_batch(tmp_path, scale):
    result, rollouts, calls = run(
        tmp_path, reward_funcs=share_and_parity, scale_rewards=scale, soft_overlong_punishment=False
    )
    assert len(calls) > 1
    trainer, (rollout,) = result.trainer, rollouts
    rewards = torch.tensor(list(trainer._logs["rewards"]["share_and_parity"])).view(4, 4)
    expected = group_advantages(rewards, scale=scale).view(-1)
    torch.testing.assert_close(rollout["advantages"], expected, rtol=1e-5, atol=1e-6)


def share_and_parity(completion_ids, **kwargs):
    return [a + b for a, b in zip(share_reward(completion_ids), parity_reward(completion_ids), strict=True)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # Parity varies in even groups; the share of small ids does too, and is constant in the others
        ({}, 1.0),
        ({"reward_weights": [1.0, 2.0]}, 1.0),
        ({"reward_weights": [0.0, 1.0]}, 0.0),
        ({"dynamic_sampling_metric": "constant_reward"}, 0.0),
        ({"dynamic_sampling_metric": "parity_reward", "reward_weights": [0.0, 1.0]}, 1.0),
        ({"multi_objective_aggregation": "normalize_then_sum"}, 1.0),
    ],
)
def test_metric_is_the_weighted_sum_or_the_named_function(tmp_path, fields, expected):
    result, _, _ = run(
        tmp_path, rewardable=None, reward_funcs=[parity_reward, constant_reward], max_refill_rounds=0, **fields
    )
    assert result.logs[0]["dapo/frac_informative"] == expected


def test_unknown_metric_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"dynamic_sampling_metric='accuracy'.*\['parity_reward'"):
        build(DAPOTrainer, dapo_args(tmp_path, dynamic_sampling_metric="accuracy"), reward_funcs=parity_reward)


def test_length_penalties_alone_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to look at"):
        build(DAPOTrainer, dapo_args(tmp_path), reward_funcs=get_soft_overlong_punishment(8, 3))


def test_missing_reward_is_still_the_hosts_error(tmp_path):
    with pytest.raises(ValueError, match="No reward source"):
        build(DAPOTrainer, dapo_args(tmp_path))


def test_wrong_number_of_weights_is_still_the_hosts_error(tmp_path):
    with pytest.raises(ValueError, match="Number of reward weights"):
        build(DAPOTrainer, dapo_args(tmp_path, reward_weights=[1.0, 1.0]), reward_funcs=parity_reward)


def test_group_of_truncated_rows_teaches_nothing_when_they_are_filtered(tmp_path):
    # Rows of rollout "#2" fill all 8 tokens; with every row cut off there, no token of the group enters the loss
    def cut(prompts, trainer):
        output = scripted_rollout()(prompts, trainer)
        for ids, prompt in zip(output["completion_ids"], prompts, strict=True):
            if not even(prompt):
                ids[-1] = 20 + ids[0] % 7
        return output

    script = {"rollout_func": cut, "train_dataset": plain_dataset(32), "reward_funcs": parity_reward}
    filtered = train(DAPOTrainer, dapo_args(tmp_path, max_steps=2, max_refill_rounds=0), **script)
    everything = train(
        DAPOTrainer, dapo_args(tmp_path, max_steps=2, max_refill_rounds=0, overlong_filtering=False), **script
    )
    assert 0 < filtered.logs[0]["dapo/frac_informative"] < everything.logs[0]["dapo/frac_informative"]


def test_dropped_groups_are_never_scored_by_the_model(tmp_path, monkeypatch):
    forward, rows = GRPOTrainer._get_per_token_logps_and_entropies, []

    def counted(self, model, input_ids, *rest, **kwargs):
        if not torch.is_grad_enabled():
            rows.append(len(input_ids))
        return forward(self, model, input_ids, *rest, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", counted)
    result, _, _ = run(tmp_path)
    assert result.logs[0]["dapo/groups_generated"] > 4
    # Log-probs before the updates: of the 4 groups of 4 that are kept, once
    assert sum(rows) == 16


def test_logs_hold_the_kept_rows_once(tmp_path):
    result, rollouts, _ = run(tmp_path, reward_funcs=logging_reward, log_completions=True)
    table = pd.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    assert table["prompt"].tolist() == rollouts[0]["prompts"]
    ids = [
        row[mask.bool()]
        for row, mask in zip(rollouts[0]["completion_ids"], rollouts[0]["completion_mask"], strict=True)
    ]
    assert table["id_sum"].tolist() == [int(row.sum()) for row in ids]
    assert table["logging_reward"].tolist() == [float(row.sum() % 2) for row in ids]
    # The metric is logged once per round: here it is the mean of two, between the smallest and the largest sum
    assert min(table["id_sum"]) < result.logs[0]["id_sum_mean"] < max(table["id_sum"])
    assert result.logs[0]["completions/mean_length"] == pytest.approx(sum(map(len, ids)) / 16)


def test_generated_and_trained_are_counted_apart(tmp_path):
    result, _, calls = run(tmp_path)
    generated = [prompt for call in calls for prompt in groups_of(call)]
    log = result.logs[0]
    assert log["dapo/groups_generated"] == len(generated)
    assert log["dapo/frac_informative"] == pytest.approx(sum(map(even, generated)) / len(generated))
    assert log["dapo/samples_per_informative_group"] == pytest.approx(4 * len(generated) / 4)
    # Rows of even groups are right every second time, all rows of the others are row 0, which is wrong
    assert log["dapo/accuracy_generated"] == pytest.approx(sum(map(even, generated)) * 0.5 / len(generated))
    assert log["rewards/parity_reward/mean"] == 0.5


def test_keys_are_the_same_in_every_log(tmp_path):
    result, _, _ = run(tmp_path, max_steps=5)
    keys = [{key for key in log if key.startswith("dapo/")} for log in result.logs]
    assert len(keys) == 5
    assert all(these == keys[0] for these in keys)
    off, _, _ = run(tmp_path, max_steps=2, dynamic_sampling=False)
    assert {key for key in off.logs[0] if key.startswith("dapo/")} == keys[0]


def test_tokens_seen_count_every_candidate(tmp_path):
    result, _, calls = run(tmp_path)
    script = scripted_rollout(even)
    total = 0
    for call in calls:
        output = script(call, result.trainer)
        total += sum(map(len, output["prompt_ids"])) + sum(map(len, output["completion_ids"]))
    assert result.logs[0]["num_tokens"] == total


def test_nothing_is_left_behind(tmp_path):
    result, _, _ = run(tmp_path)
    assert type(result.trainer.present_pass) is Pass
    assert not result.trainer._pending_extra_logs
    assert not result.trainer._pending_metrics


def test_an_error_in_a_reward_function_travels_and_leaves_the_trainer_usable(tmp_path):
    def fails(completion_ids, **kwargs):
        raise KeyError("broken")

    trainer = build(DAPOTrainer, dapo_args(tmp_path), reward_funcs=fails, train_dataset=plain_dataset(32))
    with pytest.raises(RuntimeError, match=r"'fails' failed on row 0 .*KeyError") as told:
        trainer.train()
    assert isinstance(told.value.__cause__, KeyError)
    assert type(trainer.present_pass) is Pass
    assert trainer.reward_func_names == ["fails", "soft_overlong_punishment_reward"]


def test_iterable_datasets_are_refilled_too(tmp_path):
    result, rollouts, calls = run(tmp_path, dataset=iterable_dataset(32), max_steps=4)
    assert len(calls) > 2
    assert all(even(prompt) for rollout in rollouts for prompt in groups_of(rollout["prompts"]))
    assert result.logs[-1]["dapo/exhausted"] == 0


@pytest.mark.parametrize("dataset", [plain_dataset(3), iterable_dataset(3)], ids=["map", "iterable"])
def test_dataset_smaller_than_a_batch_is_refused(tmp_path, dataset):
    with pytest.raises(ValueError, match=r"`train_dataset` has 3 prompts, and a generation batch needs 4 different"):
        run(tmp_path, dataset=dataset)


def test_dataset_of_one_batch_has_no_refill_and_ends(tmp_path):
    result, _, calls = run(tmp_path, dataset=plain_dataset(4), max_steps=6)
    assert [len(set(call)) for call in calls] == [4, 4, 4]
    assert result.logs[0]["dapo/groups_kept"] == 2
    assert result.logs[0]["dapo/exhausted"] == 1


def test_plain_grpo_config_is_promoted_and_the_log_says_how(tmp_path, caplog):
    args = host_args(
        DAPOConfig.ladder_start(str(tmp_path), use_cpu=True, bf16=False, num_generations=4, warmup_steps=0)
    )
    assert type(args) is GRPOConfig
    with caplog.at_level(logging.WARNING):
        trainer = build(DAPOTrainer, args, reward_funcs=parity_reward, train_dataset=plain_dataset(32))
    assert type(trainer.args) is DAPOConfig
    assert trainer.args.steps_per_generation == args.steps_per_generation
    assert trainer.epsilon_high == 0.28
    assert trainer.mask_truncated_completions is True
    assert any("epsilon_high: None -> 0.28" in message for message in caplog.messages)
    assert any("dynamic_sampling: on" in message for message in caplog.messages)


def test_no_arguments_are_all_of_dapo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # TRL's default is bf16, which transformers refuses on a CPU unless told so in the config
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    trainer = build(DAPOTrainer, None, reward_funcs=parity_reward, train_dataset=plain_dataset(32))
    assert trainer.args.output_dir == "tiny-llama-DAPO"
    assert trainer.args.dynamic_sampling


def test_inert_parts_are_told_at_start(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        build(
            DAPOTrainer,
            dapo_args(tmp_path, updates_per_rollout=1, soft_punish_cache=8),
            reward_funcs=parity_reward,
            train_dataset=plain_dataset(32),
        )
    assert any("`clip_higher` has no effect" in message for message in caplog.messages)
    assert any("`soft_overlong_punishment` is not soft" in message for message in caplog.messages)


def test_training_again_starts_at_the_first_prompt_and_sees_a_new_dataset(tmp_path):
    script = scripted_rollout()
    trainer = build(
        DAPOTrainer,
        dapo_args(tmp_path, max_steps=2),
        reward_funcs=parity_reward,
        rollout_func=script,
        train_dataset=plain_dataset(32),
    )
    trainer.train()
    trainer.train()
    # As the host does; within a run no prompt comes twice before all have been served
    assert script.calls[0] == script.calls[1]
    trainer.train_dataset = plain_dataset(40).select(range(36, 40))
    trainer.train()
    assert set(script.calls[2]) == {"36+37=", "37+38=", "38+39=", "39+40="}


def test_unused_columns_are_removed_where_the_host_removes_them(tmp_path):
    def reward(completion_ids, **kwargs):
        assert "answer" not in kwargs
        return parity_reward(completion_ids)

    run(tmp_path, reward_funcs=reward, remove_unused_columns=True)
