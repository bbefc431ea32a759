"""The factor of the length penalty in training: when it is known, which rows pay it, which groups it leaves dead."""

import json
import logging
import math

import pytest
import torch
from trl.rewards import get_soft_overlong_punishment

from reference.losses import group_advantages
from tiny import constant_reward, parity_reward, plain_dataset, scripted_rollout
from training import assert_same_tensors, build, dapo_args, even, run, train
from trl_dapo import DAPOTrainer
from trl_dapo.dapo.raw_metric import PENALTY_NAME
from trl_dapo.host.checkpoints import STATE_FILE


# L_max 8 and a band of 4: |y| = 5, 6, 7, 8 cost 1/4, 2/4, 3/4, 1
BAND = {"soft_punish_cache": 4}


def declaring_reward(completion_ids, **kwargs):
    return parity_reward(completion_ids)


declaring_reward.reward_range = (0.0, 1.0)


def late_reward(completion_ids, trainer_state, **kwargs):
    """Constant in the rollout at step 0; then parity; from step 4 on a quarter of it."""
    size = {0: 0.0, 2: 1.0}.get(trainer_state.global_step, 0.25)
    return [size * one for one in parity_reward(completion_ids)]


def long_reward(completion_ids, **kwargs):
    """Right are the completions that fill the maximum of 8 tokens, every third row of a script."""
    return [float(len(ids) == 8) for ids in completion_ids]


def shaped_by(factor, rollout, size=1.0):
    """Parity and `factor` times the penalty of the band of 4, by hand, in groups of 4."""
    lengths = rollout["completion_mask"].sum(dim=1)
    scores = torch.tensor(
        parity_reward([ids[:n].tolist() for ids, n in zip(rollout["completion_ids"], lengths, strict=True)])
    )
    return (size * scores + factor * torch.clamp((4 - lengths) / 4, max=0.0)).view(-1, 4)


def assert_advantages(rollout, rewards):
    torch.testing.assert_close(rollout["advantages"], group_advantages(rewards, scale="group").view(-1))


# ---------------------------------------------------------------------------------------------------- when it is known


@pytest.mark.parametrize("dynamic_sampling", [True, False])
def test_a_scale_that_is_seen_acts_in_the_rollout_that_shows_it(tmp_path, dynamic_sampling):
    fields = {"dynamic_sampling": dynamic_sampling, "rewardable": even if dynamic_sampling else None}
    result, rollouts, calls = run(tmp_path, **fields, **BAND)
    assert len(calls) > 1 or not dynamic_sampling
    # Parity is 0 or 1
    assert result.trainer.length_penalty.factor == 0.5
    assert_advantages(rollouts[0], shaped_by(0.5, rollouts[0]))


@pytest.mark.parametrize("dynamic_sampling", [True, False])
def test_until_the_metric_varies_no_penalty_is_paid(tmp_path, dynamic_sampling):
    # Rollouts at steps 0, 2 and 4: constant; 0 and 1; 0 and a quarter, for which the scale stays
    fields = {"dynamic_sampling": dynamic_sampling, "max_refill_rounds": 0, "max_steps": 6}
    result, (first, second, third), _ = run(tmp_path, None, late_reward, **fields, **BAND)
    assert torch.equal(first["advantages"], torch.zeros(16))
    assert result.logs[0]["reward"] == 0 > result.logs[0]["dapo/mean_length_penalty"]
    assert_advantages(second, shaped_by(0.5, second))
    assert_advantages(third, shaped_by(0.5, third, size=0.25))


def test_all_rounds_of_a_rollout_are_seen_and_pay_alike(tmp_path):
    sizes = iter([0.5])

    def growing(completion_ids, **kwargs):
        size = next(sizes, 1.0)
        return [size * one for one in parity_reward(completion_ids)]

    result, (rollout,), calls = run(tmp_path, reward_funcs=growing, **BAND)
    assert len(calls) > 1
    # The first round alone would have a range of a half
    assert result.trainer.length_penalty.factor == 0.5
    firsts = torch.tensor([0.5 if prompt in calls[0] else 1.0 for prompt in rollout["prompts"]])
    assert {0.5, 1.0} == set(firsts.tolist())
    assert_advantages(rollout, shaped_by(0.5, rollout, size=firsts))


def test_carried_rows_pay_as_those_that_are_generated(tmp_path):
    fields = {"surplus": "carry", "max_round_batches": 3.0, "max_steps": 6, "logging_steps": 2}
    result, rollouts, _ = run(tmp_path, **fields, **BAND)
    assert any(log["dapo/carried_groups"] > 0 for log in result.logs)
    for rollout in rollouts:
        assert_advantages(rollout, shaped_by(0.5, rollout))


@pytest.mark.parametrize(
    ("fields", "factor"),
    [
        ({"reward_funcs": declaring_reward}, 0.5),
        ({"reward_funcs": parity_reward}, None),
        ({"reward_funcs": [declaring_reward, parity_reward], "dynamic_sampling_metric": "declaring_reward"}, 0.5),
        ({"reward_funcs": declaring_reward, "reward_weights": [3.0]}, 1.5),
        ({"reward_funcs": declaring_reward, "overlong_penalty_factor": 1.0}, 1.0),
    ],
)
def test_what_the_trainer_knows_before_training(tmp_path, fields, factor):
    functions = fields.pop("reward_funcs")
    args = dapo_args(tmp_path, **fields)
    given = None if args.reward_weights is None else [*args.reward_weights]
    trainer = build(DAPOTrainer, args, reward_funcs=functions)
    assert trainer.length_penalty.factor == factor
    assert trainer.reward_weights[-1] == (factor or 0.0)
    assert args.reward_weights == given


def test_a_declaration_that_is_no_range_is_refused_before_training(tmp_path):
    def backwards(completion_ids, **kwargs):
        return parity_reward(completion_ids)

    backwards.reward_range = (1.0, 0.0)
    with pytest.raises(ValueError, match=r"'backwards' has reward_range=\(1.0, 0.0\)"):
        build(DAPOTrainer, dapo_args(tmp_path), reward_funcs=backwards)


@pytest.mark.parametrize("dynamic_sampling", [True, False])
def test_evaluation_shows_no_scale_and_pays_no_penalty(tmp_path, dynamic_sampling):
    args = dapo_args(tmp_path, dynamic_sampling=dynamic_sampling, max_steps=2)
    data = {"train_dataset": plain_dataset(32), "eval_dataset": plain_dataset(8)}
    trainer = build(DAPOTrainer, args, reward_funcs=parity_reward, **data)
    logged = trainer.evaluate()
    assert trainer.length_penalty.factor is None
    assert logged["eval_reward"] == logged["eval_rewards/parity_reward/mean"] > 0
    trainer.train()
    assert trainer.length_penalty.factor == 0.5
    logged = trainer.evaluate()
    assert logged["eval_reward"] == logged["eval_rewards/parity_reward/mean"]


# -------------------------------------------------------------------------------------------------------------- resume


def resumable(folder, resume=None, **fields):
    settings = {
        "max_steps": 7,
        "save_strategy": "steps",
        "save_steps": 1,
        "overlong_filtering": False,
        **BAND,
        **fields,
    }
    return train(
        DAPOTrainer,
        dapo_args(folder, max_refill_rounds=1, **settings),
        reward_funcs=late_reward,
        rollout_func=scripted_rollout(),
        train_dataset=plain_dataset(32),
        resume=resume and str(folder / resume),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, resumable(folder)


@pytest.mark.parametrize(("stop", "factor"), [(1, None), (2, None), (3, 0.5), (4, 0.5)])
def test_a_resumed_run_pays_what_the_whole_one_does(whole, stop, factor):
    # The rollout at step 2 shows the scale; the one at step 4, seen alone, would show a quarter of it
    folder, run_of = whole
    state = json.loads((folder / f"checkpoint-{stop}" / STATE_FILE).read_text())
    assert state["parts"]["length_penalty"] == {"factor": factor, "is_seen": True}
    resumed = resumable(folder, f"checkpoint-{stop}")
    assert resumed.trainer.length_penalty.factor == run_of.trainer.length_penalty.factor == 0.5
    assert_same_tensors(resumed.parameters, run_of.parameters)
    assert [log.get("reward") for log in resumed.logs] == [log.get("reward") for log in run_of.logs]


def test_a_scale_from_a_checkpoint_is_the_weight_at_once(tmp_path):
    trainer = build(DAPOTrainer, dapo_args(tmp_path), reward_funcs=parity_reward)
    trainer.length_penalty.load_state_dict({"factor": 0.25, "is_seen": True})
    assert trainer.reward_weights.tolist() == [1.0, 0.25]


def test_a_checkpoint_of_before_the_scale_existed_resumes_and_says_so(tmp_path, caplog):
    resumable(tmp_path, max_steps=3)
    path = tmp_path / "checkpoint-3" / STATE_FILE
    state = json.loads(path.read_text())
    del state["parts"]["length_penalty"]
    path.write_text(json.dumps(state))
    with caplog.at_level(logging.WARNING):
        resumed = resumable(tmp_path, "checkpoint-3", max_steps=5)
    assert any("holds no scale" in line and "set overlong_penalty_factor=1.0" in line for line in caplog.messages)
    assert resumed.trainer.length_penalty.factor == 0.125


def test_the_same_trainer_trained_anew_looks_anew(tmp_path):
    trainer = resumable(tmp_path, max_steps=8).trainer
    weights = []
    host = trainer._generate_and_score_completions

    def noted(inputs):
        weights.append(trainer.reward_weights[-1].item())
        return host(inputs)

    trainer._generate_and_score_completions = noted
    trainer.train()
    # As the first time: nothing is known in the first two rollouts before they have their rewards
    assert weights == [0.0, 0.0, 0.5, 0.5]


# --------------------------------------------------------------------------------------------------------- dead groups


MODES = [(scale, "sum_then_normalize") for scale in ("group", "batch", "none")] + [("group", "normalize_then_sum")]


@pytest.mark.parametrize(("scale", "aggregation"), MODES)
@pytest.mark.parametrize("dynamic_sampling", [True, False])
def test_dead_groups_are_those_that_trl_gives_no_advantage(tmp_path, scale, aggregation, dynamic_sampling):
    def mixed(prompts, completion_ids, **kwargs):
        pairs = zip(prompts, long_reward(completion_ids), parity_reward(completion_ids), strict=True)
        return [long if even(prompt) else parity for prompt, long, parity in pairs]

    # A band of one token takes a whole point of the rows of 8 tokens, and nothing of the others. In even groups these
    # are the right ones, so that all of the group is worth 0
    fields = {"scale_rewards": scale, "multi_objective_aggregation": aggregation, "soft_punish_cache": 1}
    result, (rollout,), _ = run(
        tmp_path, None, mixed, overlong_penalty_factor=1.0, dynamic_sampling=dynamic_sampling, **fields
    )
    none_left = rollout["advantages"].view(4, 4).abs().amax(dim=1) < 1e-3
    assert none_left.tolist() == [even(prompt) for prompt in rollout["prompts"][::4]]
    assert 0 < none_left.sum() < 4
    assert result.logs[0]["dapo/groups_kept"] == 4
    assert result.logs[0]["dapo/dead_groups"] == none_left.sum() / 4


@pytest.mark.parametrize(("scale", "aggregation"), MODES)
def test_half_of_the_distance_leaves_no_group_dead(tmp_path, scale, aggregation, caplog):
    fields = {"scale_rewards": scale, "multi_objective_aggregation": aggregation, "soft_punish_cache": 1}
    with caplog.at_level(logging.WARNING):
        result, (rollout,), _ = run(tmp_path, None, long_reward, **fields)
    assert result.trainer.length_penalty.factor == 0.5
    assert (rollout["advantages"].view(4, 4).abs().amax(dim=1) > 1e-2).all()
    assert result.logs[0]["dapo/dead_groups"] == 0
    assert not any("no advantage left" in line for line in caplog.messages)


def test_degenerate_groups_are_not_dead_ones(tmp_path):
    result, _, _ = run(tmp_path, None, constant_reward, max_refill_rounds=0)
    assert result.logs[0]["dapo/dead_groups"] == 0


def told_of_dead_groups(tmp_path, caplog, reward_funcs, **fields):
    with caplog.at_level(logging.WARNING):
        run(tmp_path, None, reward_funcs, soft_punish_cache=1, max_steps=6, **fields)
    (line,) = [line for line in caplog.messages if "no advantage left" in line]
    assert "100% of the informative groups at step 0 " in line
    return line


def test_dead_groups_are_told_once_with_the_factor_to_change(tmp_path, caplog):
    line = told_of_dead_groups(tmp_path, caplog, long_reward, overlong_penalty_factor=1.0)
    assert "overlong_penalty_factor=1 takes what a right answer earns: lower it to 0.5, or leave it out" in line


def test_dead_groups_by_the_users_own_penalty_are_told_with_its_weight(tmp_path, caplog):
    theirs = get_soft_overlong_punishment(max_completion_len=8, soft_punish_cache=1)
    line = told_of_dead_groups(tmp_path, caplog, [theirs, long_reward], reward_weights=[2.0, 2.0])
    # 2 for a right answer: a half of it is 1
    assert f"`reward_weights` gives your {PENALTY_NAME} the weight 2: lower it to 1." in line


def test_dead_groups_without_a_penalty_are_told_with_the_weights(tmp_path, caplog):
    def against(completion_ids, **kwargs):
        return [-one for one in long_reward(completion_ids)]

    fields = {"dynamic_sampling_metric": "long_reward", "soft_overlong_punishment": False}
    line = told_of_dead_groups(tmp_path, caplog, [long_reward, against], **fields)
    assert "change `reward_weights`" in line


def test_a_tenth_of_dead_groups_is_not_told(tmp_path, caplog):
    trainer = build(DAPOTrainer, dapo_args(tmp_path), reward_funcs=parity_reward)
    rewards = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    with caplog.at_level(logging.WARNING):
        trainer._dead_groups.tell(0.1, rewards)
        assert not any("no advantage left" in line for line in caplog.messages)
        trainer._dead_groups.tell(math.nextafter(0.1, 1), rewards)
    assert any("no advantage left" in line for line in caplog.messages)
