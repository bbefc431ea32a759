"""Batch arithmetic before a run starts, by hand."""

import pytest
from datasets import IterableDataset
from trl import GRPOConfig

from tiny import iterable_dataset, plain_dataset
from trl_dapo.dapo.batch_plan import BatchPlan, batch_plan, describe
from trl_dapo.dapo.config import DAPOConfig
from trl_dapo.grpo.batch_size import check_dataset, too_few_prompts


def dapo(**values) -> DAPOConfig:
    return DAPOConfig("out", use_cpu=True, bf16=False, report_to="none", **values)


PLANS = [
    # 8 rows a step, 4 steps: 32 rows, 4 prompts of 8; 11 rounds of 32
    ({}, BatchPlan(4, 32, 8, 4.0, 352)),
    # The paper: 512 prompts of 16 generations are 8192 rows, in 16 updates of 512; 1 + 10 rounds
    (
        {"per_device_train_batch_size": 512, "num_generations": 16, "updates_per_rollout": 16},
        BatchPlan(512, 8192, 512, 16.0, 90112),
    ),
    # 2 rows a step, 2 * 4 steps: 16 rows, 4 prompts of 4; an update has 2 * 4 rows; 2 updates, twice over
    (
        {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 4,
            "num_generations": 4,
            "updates_per_rollout": 2,
            "num_iterations": 2,
            "max_refill_rounds": 2,
        },
        BatchPlan(4, 16, 8, 4.0, 48),
    ),
    # 24 rows in 3 steps of 8, 2 steps an update
    ({"generation_batch_size": 24, "gradient_accumulation_steps": 2}, BatchPlan(3, 24, 16, 1.5, 264)),
    # What the rollout has is all that is generated
    ({"dynamic_sampling": False}, BatchPlan(4, 32, 8, 4.0, 32)),
    ({"max_refill_rounds": 0}, BatchPlan(4, 32, 8, 4.0, 32)),
]


@pytest.mark.parametrize(("values", "plan"), PLANS)
def test_a_plan_has_the_numbers_of_one_rollout(values, plan):
    assert batch_plan(dapo(**values)) == plan


def test_a_plan_is_over_all_processes(monkeypatch):
    monkeypatch.setattr(DAPOConfig, "world_size", property(lambda self: 2))
    # 2 processes of 8 rows a step, 4 steps: 64 rows, 8 prompts of 8; an update has 16 rows
    plan = batch_plan(dapo())
    assert plan == BatchPlan(8, 64, 16, 4.0, 704)


def test_a_plan_of_a_promoted_config_is_that_of_the_users():
    config = GRPOConfig("out", use_cpu=True, bf16=False, report_to="none", gradient_accumulation_steps=4)
    # 8 rows a step, 4 steps, one update
    assert batch_plan(DAPOConfig.from_grpo_config(config)[0]) == BatchPlan(4, 32, 32, 1.0, 352)


def test_a_plan_is_described_with_the_products_it_comes_from():
    config = dapo(
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        num_generations=4,
        max_completion_length=100,
        num_iterations=3,
        updates_per_rollout=2,
        max_refill_rounds=5,
    )
    assert describe(batch_plan(config), config) == [
        "rollout      4 prompts x 4 generations = 16 completions of up to 100 tokens",
        "update       2 per device x 1 processes x 4 accumulation steps = 8 completions",
        "updates      8 steps per generation x 3 iterations / 4 accumulation steps = 6 per rollout",
        "refills      at most 5 rounds: at most 96 completions per rollout",
    ]


def test_without_dynamic_sampling_no_refills_are_described():
    config = dapo(dynamic_sampling=False)
    assert (
        describe(batch_plan(config), config)[-1] == "refills      at most 0 rounds: at most 32 completions per rollout"
    )


# A default batch has 4 prompts


@pytest.mark.parametrize("make", [plain_dataset, iterable_dataset])
@pytest.mark.parametrize("size", [1, 3])
def test_a_dataset_that_cannot_fill_a_batch_is_rejected(make, size):
    with pytest.raises(ValueError, match=f"has {size} prompts.*needs 4 different") as raised:
        check_dataset(make(size), dapo())
    assert "generation_batch_size=32 / num_generations=8" in str(raised.value)


@pytest.mark.parametrize("make", [plain_dataset, iterable_dataset])
@pytest.mark.parametrize("size", [4, 5])
def test_a_dataset_that_fills_one_batch_is_enough(make, size):
    check_dataset(make(size), dapo())


def test_of_a_stream_no_more_than_a_batch_is_read():
    def prompts():
        yield from ({"prompt": f"{number}?"} for number in range(4))
        raise AssertionError("more was read than the 4 prompts of a batch")

    check_dataset(IterableDataset.from_generator(prompts), dapo())


def test_no_dataset_is_no_small_dataset():
    # With environments that make up their prompts there is none
    check_dataset(None, dapo())


def test_the_message_names_what_can_be_lowered():
    message = too_few_prompts(2, dapo())
    for name in ("updates_per_rollout", "steps_per_generation", "generation_batch_size"):
        assert f"`{name}`" in message
