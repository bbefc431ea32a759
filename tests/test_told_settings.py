"""Settings that contradict each other, cannot act, or change at a resume are told in one line each."""

import logging

import pytest

from ppo_runs import ppo_args
from tiny import parity_reward, plain_dataset, scripted_rollout, tiny_args
from training import build, dapo_args
from trl_dapo import DAPOTrainer, GRPOConfig, GRPOTrainer, PPOTrainer


def online(cls, args):
    return build(
        cls, args, reward_funcs=parity_reward, rollout_func=scripted_rollout(), train_dataset=plain_dataset(32)
    )


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"max_new_tokens": 4}, "contradicts max_completion_length=8"),
        ({"max_tokens": 4}, "contradicts max_completion_length=8"),
        ({"temperature": 0.5}, "contradicts temperature=1.0"),
        ({"top_p": 0.5}, "contradicts top_p=1.0"),
        ({"top_k": 5}, "contradicts top_k="),
        ({"repetition_penalty": 1.2}, "contradicts repetition_penalty=1.0"),
        ({"do_sample": False}, "no group is informative"),
        ({"num_beams": 4}, "importance ratios are wrong"),
        ({"num_return_sequences": 2}, "one completion per row"),
        ({"stop_strings": ["\n"]}, "no tokenizer"),
        ({"stop": ["\n"]}, "counts as truncated"),
        ({"max_tokens_": 4}, "has no effect: transformers' GenerationConfig has no such field"),
    ],
)
def test_generation_kwargs_that_contradict_a_field_are_told_in_one_line(tmp_path, kwargs, told):
    (name,) = kwargs
    for args in (
        tiny_args(tmp_path, cls=GRPOConfig, generation_kwargs=kwargs),
        dapo_args(tmp_path, generation_kwargs=kwargs),
        ppo_args(tmp_path, generation_kwargs=kwargs),
    ):
        (line,) = [line for line in args.inert_parts() if "generation_kwargs" in line]
        assert f"generation_kwargs[{name!r}]" in line
        assert told in line


@pytest.mark.parametrize(("name", "value"), [("num_beams", -1), ("num_beams", "4"), ("num_return_sequences", 0)])
def test_counts_in_generation_kwargs_that_cannot_be_are_refused(tmp_path, name, value):
    for make in (lambda **fields: tiny_args(tmp_path, cls=GRPOConfig, **fields), lambda **f: dapo_args(tmp_path, **f)):
        with pytest.raises(ValueError, match=rf"generation_kwargs\['{name}'\] must be an integer of at least 1, got"):
            make(generation_kwargs={name: value})


def test_generation_kwargs_that_agree_or_add_are_not_told(tmp_path):
    kwargs = {"max_new_tokens": 8, "temperature": 1.0, "do_sample": True, "no_repeat_ngram_size": 3}
    assert tiny_args(tmp_path, cls=GRPOConfig, generation_kwargs=kwargs).inert_parts() == []


@pytest.mark.parametrize("cls", [GRPOTrainer, DAPOTrainer, PPOTrainer])
def test_every_online_trainer_tells_once_at_construction(tmp_path, caplog, cls):
    makers = {GRPOTrainer: lambda folder, **f: tiny_args(folder, cls=GRPOConfig, **f), DAPOTrainer: dapo_args}
    args = makers.get(cls, ppo_args)(tmp_path, beta=0.0, generation_kwargs={"max_new_tokens": 4})
    with caplog.at_level(logging.WARNING):
        online(cls, args)
    assert sum("generation_kwargs['max_new_tokens']=4" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("fields", [{"max_steps": 3}, {"max_steps": -1, "num_train_epochs": 0.1}])
def test_a_critics_warm_up_that_leaves_no_step_is_told_once(tmp_path, caplog, fields):
    # A tenth of an epoch of 32 prompts in batches of 8 rows is less than 3 optimizer steps
    args = ppo_args(tmp_path, beta=0.0, num_iterations=1, num_generations=4, critic_warmup_steps=3, **fields)
    with caplog.at_level(logging.WARNING):
        online(PPOTrainer, args).train()
    assert sum("critic_warmup_steps=3 is not below" in message for message in caplog.messages) == 1


def test_a_critics_warm_up_within_the_run_is_not_told(tmp_path):
    assert ppo_args(tmp_path, critic_warmup_steps=2, max_steps=3).inert_parts() == []


SWITCHED = {
    "dynamic_sampling": ({"dynamic_sampling": False}, {}),
    "overlong_filtering": ({}, {"overlong_filtering": False}),
    "clip_higher": ({}, {"clip_higher": False}),
    "token_level_loss": ({"token_level_loss": False}, {}),
    "soft_overlong_punishment": ({}, {"soft_overlong_punishment": False}),
    "scale_rewards": ({}, {"scale_rewards": "none"}),
}


@pytest.mark.parametrize("name", SWITCHED)
def test_a_setting_that_changes_at_a_resume_is_told_in_one_line(tmp_path, caplog, name):
    before, after = SWITCHED[name]
    common = {"save_strategy": "steps", "save_steps": 2}
    online(DAPOTrainer, dapo_args(tmp_path, max_steps=2, **common, **before)).train()
    with caplog.at_level(logging.WARNING):
        trainer = online(DAPOTrainer, dapo_args(tmp_path, max_steps=3, **common, **after))
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    told = [message for message in caplog.messages if "in the checkpoint and is" in message]
    assert sum(f"] {name} was " in message for message in told) == 1
    assert trainer.state.global_step == 3


def test_nothing_is_told_where_nothing_changes(tmp_path, caplog):
    args = {"save_strategy": "steps", "save_steps": 2}
    online(DAPOTrainer, dapo_args(tmp_path, max_steps=2, **args)).train()
    with caplog.at_level(logging.WARNING):
        online(DAPOTrainer, dapo_args(tmp_path, max_steps=3, **args)).train(str(tmp_path / "checkpoint-2"))
    assert not any("in the checkpoint and is" in message for message in caplog.messages)
