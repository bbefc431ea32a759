"""Which prompts a run generates, how many at once, and how far in the dataset it says it is."""

import asyncio
import logging

import pytest

from tiny import CountingEnvironment, environment_factory, parity_reward, plain_dataset, tiny_tool_tokenizer
from training import build, dapo_args, even, groups_of, never, run, train
from trl_dapo import DAPOTrainer


def generated(calls):
    return [prompt for call in calls for prompt in groups_of(call)]


def served_odd(calls):
    prompts = generated(calls)
    return sum(not even(prompt) for prompt in prompts) / len(prompts)


@pytest.mark.parametrize(
    "switch",
    [{"skip_degenerate": "greso"}, {"prompt_selection": "thompson"}],
    ids=lambda switch: next(iter(switch.values())),
)
def test_prompts_that_teach_nothing_are_generated_less(tmp_path, switch):
    # Half of the 24 prompts are never informative. 20 rollouts of 4 groups pass several times through the dataset
    fields = {"max_steps": 20, "updates_per_rollout": 1, "dataset": plain_dataset(24)}
    _, _, without = run(tmp_path, **fields)
    result, rollouts, calls = run(tmp_path, **fields, **switch)
    assert served_odd(without) == pytest.approx(0.5, abs=0.06)
    assert served_odd(calls) < 0.4
    assert all(even(prompt) for rollout in rollouts for prompt in rollout["prompts"])
    assert result.logs[-1]["dapo/prompts_skipped"] > 0
    # No group was easy: 0.5 rises by 0.01 in each of 20 rollouts. Some were hard, in some rollouts more than a sixth
    explore = result.trainer.sampler.history.state_dict()["explore"]
    assert explore["hard"] < explore["easy"] == pytest.approx(0.7)


def test_solved_prompts_are_never_generated_again(tmp_path):
    # Rows of an odd prompt's group are all row 0, of reward 0 or 1 as its parity; make them right
    def right_when_odd(completion_ids, prompts, **kwargs):
        return [
            1.0 if not even(prompt) else reward
            for prompt, reward in zip(prompts, parity_reward(completion_ids), strict=True)
        ]

    result, _, calls = run(
        tmp_path,
        reward_funcs=right_when_odd,
        skip_solved_above=0.9,
        max_steps=12,
        updates_per_rollout=1,
        dataset=plain_dataset(24),
    )
    odd = [prompt for prompt in generated(calls) if not even(prompt)]
    assert len(odd) == len(set(odd))
    assert result.logs[-1]["dapo/epoch"] > 2


def test_a_dataset_of_solved_prompts_still_fills_the_batch(tmp_path):
    # Nothing is worth generating any more; the run goes on as it would without the switch, bounded
    result, _, calls = run(
        tmp_path,
        rewardable=never,
        reward_funcs=lambda completion_ids, **kwargs: [1.0] * len(completion_ids),
        skip_solved_above=0.9,
        max_refill_rounds=1,
        max_steps=8,
    )
    assert len(calls) == 8
    assert all(len(call) == 16 for call in calls)
    assert result.trainer.state.global_step == 8


@pytest.mark.parametrize(
    "switch", [{"skip_degenerate": "greso"}, {"skip_solved_above": 0.9}, {"prompt_selection": "thompson"}]
)
def test_prompts_that_an_environment_makes_up_have_no_history(tmp_path, switch):
    with pytest.raises(ValueError, match=f"{next(iter(switch))}=.* the environment makes up its prompts"):
        build(
            DAPOTrainer,
            dapo_args(tmp_path, **switch),
            processing_class=tiny_tool_tokenizer(),
            train_dataset=None,
            environment_factory=environment_factory(CountingEnvironment),
            reward_funcs=lambda environments, **kwargs: [0.0] * len(environments),
        )


def test_a_round_is_bounded_by_one_generation_batch_unless_said(tmp_path):
    few = lambda text: int(text.split("+")[0]) % 4 == 0  # noqa: E731
    fields = {"rewardable": few, "dataset": plain_dataset(64), "max_steps": 8}
    _, _, calls = run(tmp_path, **fields)
    assert {len(call) for call in calls} == {16}
    _, _, larger = run(tmp_path, **fields, max_round_batches=4.0)
    assert max(len(call) for call in larger) > 16
    assert max(len(call) for call in larger) <= 64
    assert len(larger) < len(calls)


def test_refills_are_sized_by_the_keep_rate_of_recent_rollouts(tmp_path):
    # Four prompts in five are informative, and after some rollouts that is known: where one group is missing, one of 2
    # is informative with probability 24/25, and one of 1 with 4/5 < 0.9
    result, _, calls = run(
        tmp_path, rewardable=lambda text: int(text.split("+")[0]) % 5 > 0, max_steps=24, dataset=plain_dataset(100)
    )
    rate = result.trainer.sampler.keep_rate
    assert rate.kept / rate.generated == pytest.approx(0.8, abs=0.15)
    refills = [len(call) // 4 for call in calls if len(call) < 16]
    assert refills
    assert set(refills) <= {2, 3}


def test_progress_is_that_of_the_stream(tmp_path):
    result, _, calls = run(tmp_path, max_steps=8, logging_steps=2)
    log = result.logs[-1]
    prompts = generated(calls)
    assert log["dapo/prompts_seen"] == len(prompts) > 16
    assert log["dapo/epoch"] == len(prompts) / 32
    # TRL's own epoch counts batches: 4 rollouts of 4 prompts, of 32
    assert log["epoch"] == 0.5
    assert log["dapo/prompts_skipped"] == 0


def test_progress_without_dynamic_sampling_is_the_hosts(tmp_path):
    result, _, _ = run(tmp_path, max_steps=8, logging_steps=1, dynamic_sampling=False)
    assert [log["dapo/prompts_seen"] for log in result.logs] == [4.0, 4.0, 8.0, 8.0, 12.0, 12.0, 16.0, 16.0]
    # As it was when the rollout began
    assert [log["dapo/epoch"] for log in result.logs[::2]] == [0, 0.125, 0.25, 0.375]


def test_a_failing_reward_function_is_named_with_its_row(tmp_path):
    def judge(prompts, completions, **kwargs):
        return [1 / (len(prompt) - 5) for prompt in prompts]

    # "10+11=" and others have 6 characters or more, "4+5=" has 4; "9+10=" alone has 5
    with pytest.raises(RuntimeError, match=r"(?s)'judge' failed on row \d+ .*ZeroDivisionError.*Prompt: '9\+10='"):
        train(
            DAPOTrainer,
            dapo_args(tmp_path, max_steps=8),
            reward_funcs=[parity_reward, judge],
            train_dataset=plain_dataset(16),
        )


def test_an_async_reward_function_that_takes_too_long_stops_the_run(tmp_path):
    async def slow(prompts, **kwargs):
        await asyncio.sleep(30)

    with pytest.raises(RuntimeError, match=r"'slow' failed on row 0 .*TimeoutError.*0.1 seconds"):
        train(DAPOTrainer, dapo_args(tmp_path, max_steps=1, reward_timeout=0.1), reward_funcs=slow)


def test_reward_functions_of_the_trainer_stay_the_users(tmp_path):
    trainer = build(DAPOTrainer, dapo_args(tmp_path, soft_overlong_punishment=False), reward_funcs=[parity_reward])
    trainer.train()
    assert trainer.reward_funcs == [parity_reward]


def test_no_warning_without_a_cause(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run(tmp_path, max_steps=2, skip_degenerate="greso", surplus="carry")
    assert not any("surplus" in message or "skip" in message for message in caplog.messages)
