"""Groups that only fill the batch up: the gradient is that of the informative groups alone, whatever is averaged."""

import math

import pytest
import torch
from torch.nn.functional import log_softmax

from tiny import parity_reward, plain_dataset, scripted_rollout, tiny_model, tiny_tokenizer
from training import dapo_args, loss_mask, record_rollouts, train
from trl_dapo import DAPOTrainer


def two_of_sixteen(text: str) -> bool:
    return text in ("3+4=", "20+21=")


def length_reward(completion_ids, **kwargs):
    return [len(ids) / 8 for ids in completion_ids]


BATCH_WIDE = {
    "batch": {"scale_rewards": "batch"},
    "normalize_then_sum": {"multi_objective_aggregation": "normalize_then_sum"},
    "group": {"scale_rewards": "group"},
    "none": {"scale_rewards": "none"},
}


def filled(folder, name, reward_funcs=(parity_reward, length_reward), **fields):
    """One rollout of 16 groups of which 2 vary, as one update; the run and its rollout."""
    settings = {
        "generation_batch_size": 64,
        "gradient_accumulation_steps": 8,
        "max_steps": 1,
        "max_refill_rounds": 1,
        "overlong_filtering": False,
        "soft_overlong_punishment": False,
        "max_grad_norm": 1e6,
        "reward_weights": [1.0, 0.5],
        **BATCH_WIDE[name],
        **fields,
    }
    recorded = []
    result = train(
        DAPOTrainer,
        dapo_args(folder, **settings),
        prepare=lambda trainer: recorded.append(record_rollouts(trainer)),
        reward_funcs=list(reward_funcs),
        # Rows of the other prompts are all row 0: the same tokens, and the same rewards
        rollout_func=scripted_rollout(two_of_sixteen),
        train_dataset=plain_dataset(32),
    )
    (rollout,) = recorded[0]
    return result, rollout


def std(values: torch.Tensor) -> torch.Tensor:
    return values.std()  # with Bessel's correction


def advantages_alone(rewards_PGF: torch.Tensor, weights_F: torch.Tensor, name: str) -> torch.Tensor:
    """Advantages of a batch of these groups and no others, by the definitions in TRL's documentation."""
    if name == "normalize_then_sum":
        scaled = [
            [(column - column.mean()) / (std(column) + 1e-4) for column in group.unbind(dim=1)]
            for group in rewards_PGF
        ]
        sums = torch.stack([sum(w * c for w, c in zip(weights_F, columns, strict=True)) for columns in scaled])
        return (sums - sums.mean()) / (std(sums) + 1e-4)
    sums_PG = (rewards_PGF * weights_F).sum(dim=2)
    centred_PG = sums_PG - sums_PG.mean(dim=1, keepdim=True)
    if name == "none":
        return centred_PG
    if name == "batch":
        return centred_PG / (std(sums_PG.flatten()) + 1e-4)
    return centred_PG / (torch.stack([std(group) for group in sums_PG]).unsqueeze(1) + 1e-4)


def informative_rows(rollout):
    return [row for row, prompt in enumerate(rollout["prompts"]) if two_of_sixteen(prompt)]


@pytest.mark.parametrize("refills", [0, 1])
@pytest.mark.parametrize("name", BATCH_WIDE)
def test_advantages_and_gradient_are_those_of_the_informative_groups_alone(tmp_path, name, refills):
    # With 32 prompts and one refill, both informative ones are found; without, as many as the first round has
    result, rollout = filled(tmp_path, name, max_refill_rounds=refills)
    rows = informative_rows(rollout)
    assert len(rows) in ((8,) if refills else (4, 8))
    ids, mask = rollout["completion_ids"][rows], rollout["completion_mask"][rows]
    completions = [row[: int(length)].tolist() for row, length in zip(ids, mask.sum(dim=1), strict=True)]
    rewards = torch.tensor([parity_reward(completions), length_reward(completions)], dtype=torch.float64).T
    expected = advantages_alone(rewards.view(-1, 4, 2), torch.tensor([1.0, 0.5], dtype=torch.float64), name).flatten()
    torch.testing.assert_close(rollout["advantages"][rows].double(), expected, rtol=1e-5, atol=1e-6)
    others = [row for row in range(64) if row not in rows]
    assert not rollout["advantages"][others].any()
    assert not loss_mask(rollout)[others].any()

    # One update: every ratio is 1, so the gradient is that of -sum(A * log p) / tokens
    model = tiny_model(tiny_tokenizer())
    sequences = torch.cat([rollout["prompt_ids"][rows], ids], dim=1)
    attention = torch.cat([rollout["prompt_mask"][rows], mask], dim=1)
    logits = model(input_ids=sequences, attention_mask=attention).logits[:, -ids.size(1) - 1 : -1]
    logps = log_softmax(logits, dim=-1).gather(2, ids.unsqueeze(2)).squeeze(2)
    (-(expected.float().unsqueeze(1) * logps * mask).sum() / mask.sum()).backward()
    for parameter_name, parameter in model.named_parameters():
        found = result.gradients[0][parameter_name]
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", BATCH_WIDE)
def test_without_an_informative_group_nothing_moves_and_every_logged_number_is_one(tmp_path, name):
    result, rollout = filled(tmp_path, name, reward_funcs=[lambda **kwargs: [1.0] * len(kwargs["prompts"])] * 2)
    assert not rollout["advantages"].any()
    assert all(not tensor.any() for tensor in result.gradients[0].values())
    (log,) = result.logs
    assert log["dapo/exhausted"] == 1
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in log.values())


@pytest.mark.parametrize("name", BATCH_WIDE)
def test_the_completions_table_shows_what_fillers_got(tmp_path, name):
    result, rollout = filled(tmp_path, name, logging_steps=5)
    table, lengths = result.trainer._logs, rollout["completion_mask"].sum(dim=1)
    assert list(table["rewards"]["length_reward"]) == (lengths / 8).tolist()
    used = set(informative_rows(rollout))
    assert all((advantage != 0) == (row in used) for row, advantage in enumerate(table["advantages"]))
