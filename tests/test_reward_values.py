"""A reward that is not finite stops the run by name, before anything is computed from it."""

import asyncio
import math

import numpy as np
import pytest
import torch
from trl import GRPOConfig as HostConfig

from ppo_runs import ppo_args
from preferences import tiny_reward_model
from tiny import (
    async_share_reward,
    conversational_dataset,
    parity_reward,
    plain_dataset,
    share_reward,
    tiny_args,
    tiny_tokenizer,
    tiny_tool_tokenizer,
)
from training import build, dapo_args
from trl_dapo import DAPOConfig, DAPOTrainer, GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer
from trl_dapo.grpo.reward_errors import named
from trl_dapo.grpo.reward_values import unusable


# ------------------------------------------------------------------------------------------------------- one function

# What becomes infinite in float32, whose largest number is 3.4e38, and what was infinite before
INFINITE = [
    math.inf,
    -math.inf,
    1e39,
    10**39,
    np.float64(-1e300),
    np.float16(np.inf),
    torch.tensor(1e39, dtype=torch.float64),
    torch.tensor([-math.inf]),
]


def asked(rewards, form):
    if form == "async":

        async def judge(**kwargs):
            return rewards
    else:

        def judge(**kwargs):
            return rewards

    columns = {"prompts": ["p0", "p1", "p2"], "completions": ["c0", "c1", "c2"]}
    answer = named(judge, "my_judge")(**columns)
    return asyncio.run(answer) if form == "async" else answer


@pytest.mark.parametrize("form", ["sync", "async"])
@pytest.mark.parametrize("reward", INFINITE, ids=lambda reward: repr(reward)[:30])
def test_an_infinite_reward_is_refused_by_function_row_prompt_and_completion(reward, form):
    with pytest.raises(ValueError, match="reward function 'my_judge' returned") as caught:
        asked([0.0, reward, 1.0], form)
    message = str(caught.value)
    assert "row 1 of rows 0 to 2" in message
    assert "finite" in message or "too large" in message
    assert message.endswith("Prompt: 'p1'\nCompletion: 'c1'")


@pytest.mark.parametrize("form", ["sync", "async"])
def test_a_tensor_or_array_is_looked_into(form):
    for rewards in (torch.tensor([0.0, 0.0, math.inf]), np.array([0.0, 0.0, 1e39]), (0.0, 0.0, -math.inf)):
        with pytest.raises(ValueError, match="row 2 of rows 0 to 2"):
            asked(rewards, form)


@pytest.mark.parametrize("form", ["sync", "async"])
def test_nan_and_none_mean_does_not_apply(form):
    rewards = [math.nan, None, 3e38]
    assert asked(rewards, form) is rewards


# --------------------------------------------------------------------------------------------------------- all columns


def test_rewards_whose_squares_overflow_are_unusable():
    ones = torch.ones(2)
    # Squares sum to 1e40, beyond 3.4e38: the standard deviation would be infinite and every advantage 0
    assert unusable(torch.tensor([[1.0, 1e20], [0.0, 0.0]]), ones).row == 0
    assert unusable(torch.tensor([[1.0, 1e18], [0.0, torch.nan]]), ones) is None
    # 1e18 weighs 100: squares of 1e40 again
    found = unusable(torch.tensor([[1e18, 0.0], [0.0, 1e18]]), torch.tensor([1.0, 100.0]))
    assert (found.row, found.column) == (1, 1)
    # Each is well, and nothing is left of their sum
    assert unusable(torch.full((3, 2), torch.nan), ones) is None


# ------------------------------------------------------------------------------------------------------------ trainers

TRAINERS = {
    "grpo": (GRPOTrainer, lambda folder, **fields: tiny_args(folder, cls=GRPOConfig, **fields)),
    "dapo": (DAPOTrainer, dapo_args),
    "dapo_without_scaling": (DAPOTrainer, lambda folder, **fields: dapo_args(folder, scale_rewards="none", **fields)),
    "dapo_off": (DAPOTrainer, lambda folder, **fields: DAPOConfig.ladder_start(**vars_of(folder), **fields)),
    "ppo": (PPOTrainer, lambda folder, **fields: ppo_args(folder, beta=0.0, normalize_rewards=True, **fields)),
}


def vars_of(folder):
    args = tiny_args(folder)
    names = ("output_dir", "use_cpu", "bf16", "gradient_checkpointing", "report_to", "per_device_train_batch_size")
    names += ("num_generations", "max_completion_length", "max_steps", "learning_rate", "save_strategy")
    return {name: getattr(args, name) for name in names}


def spoilt(value, after=0):
    """[`share_reward`], of which the call `after` has `value` in row 2."""
    calls = []

    def spoilt_reward(completion_ids, **kwargs):
        calls.append(kwargs)
        rewards = share_reward(completion_ids)
        return [value if row == 2 and len(calls) > after else reward for row, reward in enumerate(rewards)]

    return spoilt_reward


class SpoiltModel(torch.nn.Module):
    """A reward model whose reward of every third text is infinite."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_reward_model()
        self.config = self.inner.config

    def forward(self, **inputs):
        output = self.inner(**inputs)
        sums = (inputs["input_ids"] * inputs["attention_mask"]).sum(dim=1)
        output.logits[sums % 3 == 0] = -math.inf
        return output


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e39])
def test_every_online_trainer_refuses_an_infinite_reward_before_it_trains_on_it(tmp_path, name, value):
    cls, args = TRAINERS[name]
    trainer = build(cls, args(tmp_path), reward_funcs=spoilt(value), train_dataset=plain_dataset(32))
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    with pytest.raises(ValueError, match=r"'spoilt_reward' returned .* for row 2 of rows 0 to \d+"):
        trainer.train()
    assert all(torch.equal(*pair) for pair in zip(before, trainer.model.parameters(), strict=True))
    if cls is PPOTrainer:
        assert trainer._running_scores.sums.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", TRAINERS)
def test_every_online_trainer_refuses_an_infinite_reward_of_a_reward_model(tmp_path, name):
    cls, args = TRAINERS[name]
    model = SpoiltModel()
    trainer = build(
        cls,
        args(tmp_path),
        reward_funcs=[parity_reward, model],
        reward_processing_classes=[None, tiny_tokenizer()],
        train_dataset=plain_dataset(32),
    )
    with pytest.raises(RuntimeError, match=r"failed on row \d+ of rows 0 to \d+: .* gave -inf for \d+ of") as caught:
        trainer.train()
    assert trainer.reward_func_names[1] in str(caught.value)
    assert "\nPrompt: '" in str(caught.value)
    assert "\nCompletion: '" in str(caught.value)


def test_running_scores_hold_what_came_before_the_refusal(tmp_path):
    # 8 finite rewards of the first rollout have counted, none of the second
    args = ppo_args(tmp_path, beta=0.0, normalize_rewards=True, num_iterations=1)
    trainer = build(PPOTrainer, args, reward_funcs=spoilt(-math.inf, after=1), train_dataset=plain_dataset(32))
    with pytest.raises(ValueError, match="'spoilt_reward' returned -inf"):
        trainer.train()
    assert trainer.state.global_step == 1
    assert trainer._running_scores.sums[0] == 8
    assert trainer._running_scores.sums.isfinite().all()


def test_an_infinite_reward_in_evaluation_is_refused_too(tmp_path):
    trainer = build(
        GRPOTrainer, tiny_args(tmp_path, cls=GRPOConfig), reward_funcs=spoilt(math.inf), eval_dataset=plain_dataset(8)
    )
    with pytest.raises(ValueError, match="'spoilt_reward' returned inf"):
        trainer.evaluate()


def test_an_environments_own_infinite_reward_is_refused_by_its_name(tmp_path):
    class Cave:
        def reset(self, **kwargs):
            return None

        def look(self) -> str:
            """
            Looks around.

            Returns:
                What is there.
            """
            return "dark"

        def get_reward(self):
            return -math.inf

    trainer = build(
        GRPOTrainer,
        tiny_args(tmp_path, cls=GRPOConfig),
        processing_class=tiny_tool_tokenizer(),
        environment_factory=Cave,
        train_dataset=conversational_dataset(8),
    )
    with pytest.raises(ValueError, match=r"'Cave' returned -inf .* for row 0 of rows 0 to 7"):
        trainer.train()


def test_a_reward_too_large_for_a_standard_deviation_is_refused(tmp_path):
    trainer = build(DAPOTrainer, dapo_args(tmp_path), reward_funcs=spoilt(1e30), train_dataset=plain_dataset(32))
    with pytest.raises(ValueError, match=r"returned 1e\+30 for row 2 .* square overflows"):
        trainer.train()


@pytest.mark.parametrize("weight", [math.inf, math.nan])
def test_weights_of_rewards_must_be_finite(tmp_path, weight):
    for cls, config in ((GRPOTrainer, GRPOConfig), (DAPOTrainer, HostConfig), (PPOTrainer, PPOConfig)):
        args = tiny_args(tmp_path, cls=config, reward_weights=[1.0, weight])
        with pytest.raises(ValueError, match=r"`reward_weights` must be finite, got (inf|nan) in place 1"):
            build(cls, args, reward_funcs=[parity_reward, async_share_reward])


def test_what_the_config_adds_to_the_reward_must_be_finite(tmp_path):
    with pytest.raises(ValueError, match="`overlong_penalty_factor` must be finite"):
        dapo_args(tmp_path, overlong_penalty_factor=math.inf)
    for name in ("beta", "missing_eos_penalty"):
        with pytest.raises(ValueError, match=f"`{name}` is part of the reward and must be finite"):
            ppo_args(tmp_path, **{name: math.inf})
