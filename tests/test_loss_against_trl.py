"""
TRL's own numbers against the specification: the loss and its gradient, the advantages, the soft overlong punishment.

A real `GRPOTrainer` computes them. Only what is upstream of the formula is replaced: the model's log-probabilities, or
the generation and the rewards.
"""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.rewards import get_soft_overlong_punishment

from reference.losses import group_advantages, policy_loss, soft_overlong_punishment
from tiny import constant_reward, plain_dataset, tiny_args, tiny_model, tiny_tokenizer


ROWS, TOKENS, BUDGET = 4, 6, 8
EPSILON_LOW, EPSILON_HIGH = 0.2, 0.28
# Micro-batches in a window and in a generation batch: one update per generation, several, and several generations per
# update.
SCHEDULES = [(1, 1), (2, 2), (1, 4), (2, 6), (4, 2), (3, 2)]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., GRPOTrainer]:
    """A trainer in training mode, one per combination of arguments."""

    @functools.cache
    def build(accumulation: int = 1, steps_per_generation: int = 1, **overrides) -> GRPOTrainer:
        tokenizer = tiny_tokenizer(chat=False)
        args = tiny_args(
            tmp_path_factory.mktemp("host"),
            per_device_train_batch_size=ROWS,
            max_completion_length=BUDGET,
            gradient_accumulation_steps=accumulation,
            steps_per_generation=steps_per_generation,
            epsilon=EPSILON_LOW,
            epsilon_high=EPSILON_HIGH,
            **overrides,
        )
        trainer = GRPOTrainer(
            tiny_model(tokenizer), constant_reward, args, plain_dataset(), processing_class=tokenizer
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = accumulation  # `Trainer.train` sets it for each window
        return trainer

    return build


def random_rollout(seed: int, tools: bool) -> dict[str, Tensor]:
    """The inputs of `_compute_loss` for one micro-batch, and the policy's own log-probabilities."""
    generator = torch.Generator().manual_seed(seed)
    draw = functools.partial(torch.rand, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, TOKENS + 1, (ROWS,), generator=generator)
    lengths[seed % ROWS] = 0  # a truncated row under `mask_truncated_completions`
    completion_mask = (torch.arange(TOKENS) < lengths.unsqueeze(1)).long()
    old_per_token_logps = -0.1 - 3 * draw(ROWS, TOKENS)
    rollout = {
        "per_token_logps": old_per_token_logps + 6 * draw(ROWS, TOKENS) - 3,  # ratios from 0.05 to 20
        "old_per_token_logps": old_per_token_logps,
        "advantages": 4 * draw(ROWS) - 2,
        "prompt_ids": torch.ones(ROWS, 2, dtype=torch.long),
        "prompt_mask": torch.ones(ROWS, 2, dtype=torch.long),
        "completion_ids": torch.ones(ROWS, TOKENS, dtype=torch.long),
        "completion_mask": completion_mask,
        # Of a generation batch that has other micro-batches: not a multiple of this one's tokens.
        "num_items_in_batch": 5 * completion_mask.sum() + 3,
    }
    if tools:
        rollout["tool_mask"] = (draw(ROWS, TOKENS) < 0.7).long()
    return rollout


def host_loss(trainer: GRPOTrainer, rollout: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    inputs = dict(rollout)
    logps = inputs.pop("per_token_logps").clone().requires_grad_()
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (logps, torch.zeros_like(logps), None)
    loss = trainer._compute_loss(trainer.model, inputs)
    return loss.detach(), torch.autograd.grad(loss, logps)[0]


def specified_loss(rollout: dict[str, Tensor], **arguments) -> tuple[Tensor, Tensor]:
    logps = rollout["per_token_logps"].clone().requires_grad_()
    loss = policy_loss(
        logps,
        rollout["old_per_token_logps"],
        rollout["advantages"],
        rollout["completion_mask"] * rollout.get("tool_mask", 1),
        epsilon_low=EPSILON_LOW,
        epsilon_high=EPSILON_HIGH,
        num_items_in_batch=rollout["num_items_in_batch"],
        max_completion_length=BUDGET,
        **arguments,
    )
    return loss.detach(), torch.autograd.grad(loss, logps)[0]


def assert_same(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("accumulation", "steps_per_generation"), SCHEDULES)
@pytest.mark.parametrize("delta", [None, 10.0])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_loss_and_gradient_in_training(host, loss_type, delta, accumulation, steps_per_generation):
    trainer = host(accumulation, steps_per_generation, loss_type=loss_type, delta=delta)
    for seed in range(8):
        rollout = random_rollout(seed, tools=seed % 2 == 1)
        expected = specified_loss(
            rollout,
            loss_type=loss_type,
            delta=delta,
            gradient_accumulation_steps=accumulation,
            steps_per_generation=steps_per_generation,
        )
        assert expected[1].any()
        assert_same(host_loss(trainer, rollout), expected)


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_loss_in_evaluation_knows_no_accumulation(host, loss_type):
    trainer = host(2, 6, loss_type=loss_type, delta=None)
    trainer.model.eval()
    try:
        rollout = random_rollout(0, tools=False)
        assert_same(host_loss(trainer, rollout), specified_loss(rollout, loss_type=loss_type))
    finally:
        trainer.model.train()


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_the_last_window_of_an_epoch_divides_by_its_own_length(host, loss_type):
    trainer = host(4, 2, loss_type=loss_type, delta=None)
    trainer.current_gradient_accumulation_steps = 3
    try:
        rollout = random_rollout(1, tools=False)
        window = {"gradient_accumulation_steps": 3, "steps_per_generation": 2}
        assert_same(host_loss(trainer, rollout), specified_loss(rollout, loss_type=loss_type, **window))
    finally:
        trainer.current_gradient_accumulation_steps = 4


def test_token_level_loss_is_a_share_of_all_processes(host, monkeypatch):
    trainer = host(2, 6, loss_type="dapo", delta=None)
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", 4)
    rollout = random_rollout(1, tools=False)
    window = {"gradient_accumulation_steps": 2, "steps_per_generation": 6, "num_processes": 4}
    assert_same(host_loss(trainer, rollout), specified_loss(rollout, loss_type="dapo", **window))


def test_loss_without_old_log_probabilities_is_on_policy(host):
    rollout = random_rollout(2, tools=True)
    rollout["old_per_token_logps"] = rollout["per_token_logps"]
    specified = specified_loss(rollout, loss_type="dapo")
    del rollout["old_per_token_logps"]
    assert_same(host_loss(host(1, 1, loss_type="dapo", delta=None), rollout), specified)


def test_loss_takes_an_advantage_per_token(host):
    rollout = random_rollout(3, tools=False)
    rollout["advantages"] = rollout["advantages"].unsqueeze(1) * torch.linspace(-1, 1, TOKENS, dtype=torch.float64)
    trainer = host(1, 1, loss_type="dapo", delta=10.0)
    assert_same(host_loss(trainer, rollout), specified_loss(rollout, loss_type="dapo", delta=10.0))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize(
    "rewards_PG",
    [
        [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]],
        [[0.3, -1.2, 2.5, 0.0], [0.7, 0.1, 0.2, -0.4]],
        [[float("nan"), 1.0, 0.0, 0.5], [float("nan"), float("nan"), float("nan"), 2.0]],
        [[float("nan")] * 4, [0.0, 1.0, float("nan"), 1.0]],
    ],
)
def test_advantages(host, scale, rewards_PG, monkeypatch):
    trainer = host(1, 2, loss_type="dapo", delta=None, scale_rewards=scale)
    rewards_PG = torch.tensor(rewards_PG)
    rows = rewards_PG.numel()
    completion_ids = [list(range(20, 22 + i % 3)) for i in range(rows)]
    generated = ([[5, 6]] * rows, completion_ids, None, ["a"] * rows, None, {}, None, None)
    monkeypatch.setattr(trainer, "_generate", lambda prompts: generated, raising=False)
    monkeypatch.setattr(trainer, "_calculate_rewards", lambda *args: rewards_PG.reshape(-1, 1), raising=False)
    monkeypatch.setattr(
        trainer, "_get_per_token_logps_and_entropies", lambda *args, **kwargs: (torch.zeros(rows, 4), None, None)
    )
    batch = trainer._generate_and_score_completions([{"prompt": "1+1="}] * rows)
    expected = group_advantages(rewards_PG, scale=scale).flatten()
    torch.testing.assert_close(batch["advantages"], expected, rtol=1e-5, atol=1e-6)
    assert batch["num_items_in_batch"] == sum(map(len, completion_ids))


@pytest.mark.parametrize(
    ("max_completion_len", "soft_punish_cache"), [(100, 20), (100, 0), (100, 1), (64, 64), (30, 7)]
)
def test_soft_overlong_punishment(max_completion_len, soft_punish_cache):
    lengths = range(max_completion_len + 10)
    expected = get_soft_overlong_punishment(max_completion_len, soft_punish_cache)([[0] * n for n in lengths])
    actual = soft_overlong_punishment(torch.tensor(lengths), max_completion_len, soft_punish_cache)
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-6, atol=0)
