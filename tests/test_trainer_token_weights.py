"""Weights of tokens in the loss: all alike it is TRL's, otherwise a weighted mean over the batch or each group."""

import pytest
import torch

from tiny import parity_reward, plain_dataset, scripted_rollout
from training import assert_same_run, dapo_args, even, loss_mask, record_rollouts, train
from trl_dapo import DAPOTrainer


def ones(completion_ids, **kwargs):
    return [[1.0] * len(ids) for ids in completion_ids]


def uneven(completion_ids, **kwargs):
    return [[0.25 + (row + token) % 4 for token in range(len(ids))] for row, ids in enumerate(completion_ids)]


def doubled(completion_ids, **kwargs):
    return [[2 * weight for weight in row] for row in uneven(completion_ids)]


def weighted(tmp_path, function=None, **fields):
    recorded = []
    result = train(
        DAPOTrainer,
        dapo_args(tmp_path, **{"max_steps": 2, "soft_overlong_punishment": False, **fields}),
        prepare=lambda trainer: recorded.append(record_rollouts(trainer)),
        reward_funcs=parity_reward,
        rollout_func=scripted_rollout(even),
        train_dataset=plain_dataset(32),
        token_importance_func=function,
    )
    return result, recorded[0]


CASES = [
    {},
    {"loss_type": "cispo", "epsilon_high": 5.0},
    {"dynamic_sampling": False},
    {"max_refill_rounds": 0},
    {"gradient_accumulation_steps": 2, "num_iterations": 2, "max_steps": 3},
    {"importance_sampling_level": "sequence"},
]


@pytest.mark.parametrize("fields", CASES, ids=lambda fields: "_".join(fields) or "dapo")
def test_weights_of_one_are_the_token_level_loss_bit_for_bit(tmp_path, fields):
    plain, _ = weighted(tmp_path, **fields)
    assert_same_run(weighted(tmp_path, ones, **fields)[0], plain)


def gradient(trainer, rollout, weights):
    """The gradient of the weighted sum of losses in the first, exactly on-policy step, written out."""
    model = trainer.model
    ids = torch.cat([rollout["prompt_ids"], rollout["completion_ids"]], dim=1)
    mask = torch.cat([rollout["prompt_mask"], rollout["completion_mask"]], dim=1)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -rollout["completion_ids"].size(1) - 1 : -1]
    logps = logits.log_softmax(-1).gather(-1, rollout["completion_ids"].unsqueeze(-1)).squeeze(-1)
    # The rows are even ones with reward 0 and odd ones with reward 1: advantages of -a and +a
    signs = torch.tensor([-1.0, 1.0]).repeat(len(ids) // 2).unsqueeze(1)
    size = 0.5 / (torch.tensor([0.0, 1.0, 0.0, 1.0]).std() + 1e-4)
    loss = -(weights * signs * size * logps).sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("function", [ones, uneven, doubled])
@pytest.mark.parametrize("scope", ["batch", "prompt"])
@pytest.mark.parametrize("overlong_filtering", [True, False])
def test_gradient_is_that_of_the_formula(tmp_path, function, scope, overlong_filtering):
    fields = {
        "updates_per_rollout": 1,
        "max_steps": 1,
        "learning_rate": 0.0,
        "max_grad_norm": 1e9,
        "token_level_scope": scope,
        "overlong_filtering": overlong_filtering,
    }
    result, (rollout,) = weighted(tmp_path, function, **fields)
    tokens = loss_mask(rollout)
    lengths = (rollout["completion_ids"] != result.trainer._tokenizer.pad_token_id).sum(dim=1).tolist()
    table = torch.zeros_like(tokens, dtype=torch.float32)
    for row, weights in enumerate(function([[0] * length for length in lengths])):
        table[row, : len(weights)] = torch.tensor(weights)
    table = table * tokens
    if scope == "batch":
        # sum(w l) / sum(w)
        expected = gradient(result.trainer, rollout, table / table.sum())
    else:
        # The mean over groups of sum(w l) / sum(w) over the group's tokens
        groups = table.view(-1, 4, table.size(1))
        sums = groups.sum(dim=(1, 2), keepdim=True)
        assert sums.unique().numel() > 1
        expected = gradient(result.trainer, rollout, (groups / sums / len(groups)).view_as(table))
    for name, value in result.gradients[0].items():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-7), name


def test_gradient_of_a_filter_without_refill_is_that_of_its_informative_groups(tmp_path):
    # Degenerate groups are in the batch and in neither the sum nor its denominator
    fields = {"max_refill_rounds": 0, "updates_per_rollout": 1, "max_steps": 1, "learning_rate": 0.0}
    result, (rollout,) = weighted(tmp_path, overlong_filtering=False, max_grad_norm=1e9, **fields)
    informative = torch.tensor([even(prompt) for prompt in rollout["prompts"]])
    assert 0 < informative.sum() < 16
    tokens = rollout["completion_mask"] * informative.unsqueeze(1)
    assert rollout["num_items_in_batch"] == tokens.sum() < rollout["completion_mask"].sum()
    expected = gradient(result.trainer, rollout, tokens / tokens.sum())
    for name, value in result.gradients[0].items():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-7), name


def test_the_function_sees_the_trained_rows_and_their_columns(tmp_path):
    seen = []

    def function(prompts, completions, completion_ids, answer, rollout_tag):
        assert len(prompts) == len(completions) == len(completion_ids) == len(answer) == len(rollout_tag) == 16
        seen.extend(prompts)
        return [[1] * len(ids) for ids in completion_ids]

    _, (rollout,) = weighted(tmp_path, function)
    assert seen == rollout["prompts"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda completion_ids, **_: [[1.0]] * len(completion_ids), "row 0 has .* tokens, and the weights have shape"),
        (lambda completion_ids, **_: ones(completion_ids)[1:], "16 were expected, got 15"),
        (
            lambda completion_ids, **_: [[-1.0] * len(ids) for ids in completion_ids],
            "at least 0, got -1.0 for token 0",
        ),
        (lambda completion_ids, **_: [[0.0] * len(ids) for ids in completion_ids], "all token weights .* are 0"),
        (lambda completion_ids, **_: None, "`token_importance_func` must return one list"),
    ],
)
def test_weights_that_cannot_be_are_refused(tmp_path, function, message):
    with pytest.raises(ValueError, match=message):
        weighted(tmp_path, function)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token_level_loss": False}, "`token_importance_func` needs a loss_type among"),
        ({"loss_type": "dr_grpo"}, "`token_importance_func` needs a loss_type among"),
        ({"beta": 0.1}, "`token_importance_func` weights the tokens .* beta=0.1"),
    ],
)
def test_losses_that_have_no_such_sum_are_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        weighted(tmp_path, ones, **fields)
