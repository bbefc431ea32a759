"""With every toggle off, `DAPOTrainer` is `GRPOTrainer`: losses, gradients and parameters, bit for bit."""

import pytest
from datasets import Dataset
from trl import GRPOTrainer

from tiny import (
    async_share_reward,
    constant_reward,
    conversational_dataset,
    iterable_dataset,
    multiply,
    multiply_turns,
    parity_reward,
    plain_dataset,
    script_generation,
    scripted_rollout,
    share_reward,
    sometimes_none_reward,
    tiny_lora,
    tiny_tool_tokenizer,
    used_tool_reward,
)
from training import assert_same_run, build, dapo_args, host_args, train
from trl_dapo import DAPOConfig, DAPOTrainer
from trl_dapo.dapo.toggles import SEQUENCE_LEVEL_LOSSES, TOGGLES, TOKEN_LEVEL_LOSSES


OFF = dict.fromkeys(TOGGLES, False)


def both(tmp_path, config_fields=None, prepare=None, **kwargs):
    """Trains with both trainers from the same start and returns their runs, ours first."""
    config = dapo_args(tmp_path, **{**OFF, **(config_fields or {})})
    rewards = kwargs.pop("reward_funcs", parity_reward)
    own = [*rewards] if isinstance(rewards, list) else rewards
    ours = train(DAPOTrainer, config, prepare=prepare, reward_funcs=own, **kwargs)
    theirs = train(GRPOTrainer, host_args(config), prepare=prepare, reward_funcs=rewards, **kwargs)
    return ours, theirs


def assert_same(ours, theirs):
    assert_same_run(ours, theirs)
    assert ours.generations == theirs.generations
    for our_log, their_log in zip(ours.logs, theirs.logs, strict=True):
        # Our log has more keys; TRL's own, seconds apart, have TRL's values
        assert {key: our_log[key] for key in their_log if key != "step_time"} == {
            key: value for key, value in their_log.items() if key != "step_time"
        }


@pytest.mark.parametrize("loss_type", SEQUENCE_LEVEL_LOSSES)
def test_sequence_level_losses_are_the_hosts(tmp_path, loss_type):
    assert_same(*both(tmp_path, {"loss_type": loss_type}))


@pytest.mark.parametrize("loss_type", TOKEN_LEVEL_LOSSES)
def test_token_level_loss_alone_is_the_hosts(tmp_path, loss_type):
    assert_same(*both(tmp_path, {"loss_type": loss_type, "token_level_loss": True, "compact_microbatches": False}))


@pytest.mark.parametrize(
    ("fields", "generations"),
    [
        # 3 optimizer steps; the first number is micro-steps, the second those that one generation feeds
        pytest.param({"num_iterations": 2, "steps_per_generation": 2}, 1, id="3-of-4-iterated"),
        pytest.param({"gradient_accumulation_steps": 2, "steps_per_generation": 1}, 6, id="6-of-1"),
        pytest.param({"gradient_accumulation_steps": 2, "steps_per_generation": 4}, 2, id="6-of-4"),
        pytest.param({"gradient_accumulation_steps": 2, "steps_per_generation": 3}, 2, id="6-of-3"),
        pytest.param({"generation_batch_size": 16}, 2, id="3-of-2"),
    ],
)
def test_one_host_generation_per_rollout(tmp_path, fields, generations):
    ours, theirs = both(tmp_path, fields, train_dataset=plain_dataset(32))
    assert_same(ours, theirs)
    assert ours.generations == generations


@pytest.mark.parametrize(
    "kwargs",
    [
        pytest.param({"peft_config": tiny_lora()}, id="peft"),
        pytest.param({"reward_funcs": [parity_reward, share_reward]}, id="two-rewards"),
        pytest.param({"reward_funcs": [async_share_reward, sometimes_none_reward]}, id="async-and-none"),
        pytest.param({"reward_funcs": constant_reward}, id="nothing-informative"),
        pytest.param({"train_dataset": conversational_dataset()}, id="conversational"),
        pytest.param({"train_dataset": iterable_dataset()}, id="iterable"),
        pytest.param({"rollout_func": scripted_rollout()}, id="rollout-func"),
    ],
)
def test_every_kind_of_input(tmp_path, kwargs):
    assert_same(*both(tmp_path, **kwargs))


@pytest.mark.parametrize(
    "fields",
    [
        {"scale_rewards": "batch"},
        {"scale_rewards": "none"},
        {"reward_weights": [1.0, 0.25]},
        {"multi_objective_aggregation": "normalize_then_sum"},
    ],
    ids=lambda fields: next(iter(fields)) + "-" + str(next(iter(fields.values()))),
)
def test_every_way_to_scale(tmp_path, fields):
    assert_same(*both(tmp_path, fields, reward_funcs=[parity_reward, share_reward]))


def test_tools(tmp_path):
    ours, theirs = both(
        tmp_path,
        {"max_completion_length": 64},
        prepare=lambda trainer: script_generation(trainer, multiply_turns()),
        processing_class=tiny_tool_tokenizer(),
        train_dataset=conversational_dataset(),
        tools=[multiply],
        reward_funcs=used_tool_reward,
    )
    assert_same(ours, theirs)


def test_evaluation_is_the_hosts_with_every_toggle_on(tmp_path):
    # Overlong filtering masks the loss in evaluation too, so TRL is given the same field
    config = dapo_args(tmp_path, eval_strategy="steps", log_completions=True)
    kwargs = {"reward_funcs": share_reward, "eval_dataset": plain_dataset(4), "train_dataset": plain_dataset(16)}
    logged = []
    for cls, args in ((DAPOTrainer, config), (GRPOTrainer, host_args(config))):
        values = build(cls, args, **kwargs).evaluate()
        logged.append({key: value for key, value in values.items() if not key.endswith(("time", "per_second"))})
    assert logged[0] == logged[1]


def test_dynamic_sampling_is_trl_where_every_group_is_informative(tmp_path):
    # 6 rollouts of 4 prompts over 8 prompts are 3 epochs: the prompt stream has TRL's order in each
    fields = {"max_steps": 12, "dynamic_sampling": True, "compact_microbatches": False}
    config = dapo_args(tmp_path, **{**OFF, **fields})
    kwargs = {"train_dataset": plain_dataset(8), "rollout_func": scripted_rollout()}
    ours = train(DAPOTrainer, config, reward_funcs=parity_reward, **kwargs)
    theirs = train(GRPOTrainer, host_args(config), reward_funcs=parity_reward, **kwargs)
    assert_same(ours, theirs)
    assert {log["dapo/frac_informative"] for log in ours.logs} == {1.0}


def test_users_lists_are_not_changed(tmp_path):
    rewards = [parity_reward]
    train(DAPOTrainer, dapo_args(tmp_path), reward_funcs=rewards, train_dataset=plain_dataset(16))
    assert rewards == [parity_reward]


def test_the_ladder_starts_with_all_toggles_off(tmp_path):
    config = DAPOConfig.ladder_start(str(tmp_path), use_cpu=True, bf16=False)
    assert not any(getattr(config, toggle) for toggle in TOGGLES)


def test_dataset_columns_reach_the_reward_functions(tmp_path):
    seen = []

    def reward(completion_ids, answer, note, **kwargs):
        seen.extend(zip(answer, note, strict=True))
        return [float(sum(ids) % 2) for ids in completion_ids]

    rows = {"prompt": [f"{i}=" for i in range(8)], "answer": [str(i) for i in range(8)], "note": ["n"] * 8}
    train(DAPOTrainer, dapo_args(tmp_path, **OFF), reward_funcs=reward, train_dataset=Dataset.from_dict(rows))
    assert {note for _, note in seen} == {"n"}
