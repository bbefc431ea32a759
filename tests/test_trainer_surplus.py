"""Informative groups beyond the batch: discarded, or carried to the next rollout with the log-probs they came from."""

import logging

import pytest
import torch

from tiny import (
    CountingEnvironment,
    conversational_dataset,
    environment_factory,
    image_dataset,
    parity_reward,
    plain_dataset,
    snapshot,
    tiny_model,
    tiny_tokenizer,
    tiny_tool_tokenizer,
    tiny_vlm,
    total_reward,
)
from training import build, dapo_args, even, groups_of, loss_mask, run, train
from trl_dapo import DAPOTrainer


def logps(parameters, rollout):
    """Log-probs of a rollout's completions under a model with these parameters, shape `(B, T)`."""
    model = tiny_model(tiny_tokenizer())
    model.load_state_dict(parameters)
    ids = torch.cat([rollout["prompt_ids"], rollout["completion_ids"]], dim=1)
    mask = torch.cat([rollout["prompt_mask"], rollout["completion_mask"]], dim=1)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -rollout["completion_ids"].size(1) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, rollout["completion_ids"].unsqueeze(-1)).squeeze(-1)


def carrying(tmp_path, **fields):
    """A run of three rollouts, with the parameters and the count of completions at the start of each."""
    models = []

    def remember(trainer):
        host = trainer.sampler.generate

        def remembered(wanted):
            models.append((snapshot(trainer.model), trainer.completions_generated))
            return host(wanted)

        trainer.sampler.generate = remembered

    original = DAPOTrainer.__init__

    def prepared(self, *args, **kwargs):
        original(self, *args, **kwargs)
        remember(self)

    DAPOTrainer.__init__ = prepared
    try:
        result, rollouts, calls = run(tmp_path, surplus="carry", max_round_batches=3.0, max_steps=6, **fields)
    finally:
        DAPOTrainer.__init__ = original
    return result, rollouts, calls, models


def test_surplus_groups_are_discarded_and_counted_by_default(tmp_path):
    result, rollouts, calls = run(tmp_path, max_round_batches=3.0, max_steps=4, logging_steps=2)
    first, second = result.logs
    generated = [prompt for call in calls for prompt in groups_of(call)]
    informative = sum(map(even, generated))
    assert first["dapo/surplus_groups"] + second["dapo/surplus_groups"] == informative - 8 > 0
    assert first["dapo/carried_groups"] == second["dapo/carried_groups"] == 0
    trained = [prompt for rollout in rollouts for prompt in groups_of(rollout["prompts"])]
    assert len(set(trained)) == 8


def test_surplus_groups_are_trained_on_in_the_next_rollout_and_not_generated_again(tmp_path):
    result, rollouts, calls, _ = carrying(tmp_path, logging_steps=2)
    first, second, _ = result.logs
    assert first["dapo/carried_groups"] == 0
    # All but one group of a batch at most, so that every rollout generates something
    assert second["dapo/carried_groups"] == min(first["dapo/surplus_groups"], 3) > 0
    # Two updates lie between two rollouts
    assert second["dapo/carried_age"] == 2
    generated = [prompt for call in calls for prompt in groups_of(call)]
    assert len(generated) == len(set(generated))
    trained = [prompt for rollout in rollouts for prompt in groups_of(rollout["prompts"])]
    assert len(set(trained)) == 12
    assert all(map(even, trained))
    assert set(trained) <= set(generated)
    assert result.trainer.completions_generated == 4 * len(generated)


@pytest.mark.parametrize("updates", [1, 2])
def test_importance_ratios_are_against_the_policy_that_generated(tmp_path, updates):
    # With one update per rollout TRL computes no old log-probs at all: the ratio of a new row is 1
    _, rollouts, calls, models = carrying(tmp_path, updates_per_rollout=updates, learning_rate=0.05)
    (first, _), (second, generated) = models[:2]
    earlier = set([prompt for call in calls for prompt in groups_of(call)][: generated // 4])
    carried = [prompt in earlier for prompt in rollouts[1]["prompts"]]
    assert 0 < sum(carried) < len(carried)
    mask = loss_mask(rollouts[1]).bool()
    old = rollouts[1]["old_per_token_logps"]
    then, now = logps(first, rollouts[1]), logps(second, rollouts[1])
    for row, was_carried in enumerate(carried):
        expected, other = (then, now) if was_carried else (now, then)
        assert torch.allclose(old[row][mask[row]], expected[row][mask[row]], atol=1e-5)
        assert not torch.allclose(old[row][mask[row]], other[row][mask[row]], atol=1e-3)
    assert "old_per_token_logps" not in rollouts[0] or updates == 2


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_carried_prompt_is_not_served_again_in_its_batch(tmp_path, seed):
    # All of 6 prompts are generated for the first batch of 4, and informative. Two are carried, and the next epoch
    # begins, of whose first prompts they are with probability 0.6
    _, rollouts, calls, _ = carrying(tmp_path, rewardable=lambda text: True, dataset=plain_dataset(6), seed=seed)
    assert len(calls[0]) == 24
    for rollout in rollouts:
        assert len(set(groups_of(rollout["prompts"]))) == 4


def test_a_carried_group_serves_in_the_next_rollout_or_not_at_all(tmp_path):
    # Every prompt is informative and the first round holds three batches: more is left over than the next batch takes
    result, *_ = carrying(tmp_path, rewardable=lambda text: True, logging_steps=2, surplus_max_age=8)
    assert result.logs[0]["dapo/surplus_groups"] > 0
    assert [log["dapo/carried_age"] for log in result.logs if log["dapo/carried_groups"]] == [2] * sum(
        log["dapo/carried_groups"] > 0 for log in result.logs
    )


def test_every_rollout_generates_something_however_much_is_left(tmp_path):
    result, _, calls, _ = carrying(tmp_path, rewardable=lambda text: True, logging_steps=2)
    assert len(calls) >= 3
    assert all(log["dapo/groups_generated"] >= 1 for log in result.logs)
    assert all(log["dapo/groups_kept"] == 4 for log in result.logs)


def test_environments_cannot_be_carried(tmp_path):
    with pytest.raises(ValueError, match=r"surplus='carry' keeps groups .* Set surplus='discard'"):
        build(
            DAPOTrainer,
            dapo_args(tmp_path, surplus="carry"),
            processing_class=tiny_tool_tokenizer(),
            train_dataset=conversational_dataset(32),
            environment_factory=environment_factory(CountingEnvironment),
            reward_funcs=total_reward,
        )


def test_groups_with_images_are_dropped_and_it_is_said(tmp_path, caplog):
    model, processor = tiny_vlm()
    with caplog.at_level(logging.WARNING):
        result = train(
            DAPOTrainer,
            dapo_args(tmp_path, surplus="carry", max_steps=4, max_round_batches=2.0, logging_steps=2),
            model=model,
            processing_class=processor,
            train_dataset=image_dataset(24),
            reward_funcs=parity_reward,
        )
    assert sum(log["dapo/surplus_groups"] for log in result.logs) > 0
    assert all(log["dapo/carried_groups"] == 0 for log in result.logs)
    assert sum("surplus='carry' carries text alone" in message for message in caplog.messages) == 1
