"""What a `rollout_func` may return, and what is said of what it may not."""

import numpy as np
import pytest
import torch
import trl
from torch.nn.utils.rnn import pad_sequence

from tiny import parity_reward, plain_dataset, scripted_rollout, tiny_args, tiny_lora
from training import assert_same_run, build, dapo_args, train
from trl_dapo import DAPOTrainer, GRPOConfig, GRPOTrainer


def tensors(rows):
    return [torch.tensor(row) for row in rows]


def arrays(rows):
    return [np.array(row) for row in rows]


def tuples(rows):
    return tuple(tuple(row) for row in rows)


def lists_of_tensors(rows):
    return [[torch.tensor(item) for item in row] for row in rows]


def numpy_numbers(rows):
    return [[np.array(item)[()] for item in row] for row in rows]


def converted(form, env_mask=False):
    script = scripted_rollout(env_mask=env_mask)

    def rollout(prompts, trainer):
        output = script(prompts, trainer)
        own = [key for key in output if key != "rollout_tag"]
        return {**output, **{key: form(output[key]) for key in own}}

    return rollout


def run(cls, tmp_path, rollout):
    fields = {"overlong_filtering": False, "max_steps": 2}
    args = dapo_args(tmp_path, **fields) if cls is DAPOTrainer else tiny_args(tmp_path, cls=GRPOConfig, max_steps=2)
    return train(cls, args, reward_funcs=parity_reward, rollout_func=rollout, train_dataset=plain_dataset(32))


@pytest.mark.parametrize(
    ("cls", "form"),
    [
        (GRPOTrainer, tensors),
        *((DAPOTrainer, form) for form in (tensors, arrays, tuples, lists_of_tensors, numpy_numbers)),
    ],
)
def test_rows_of_any_sequence_train_as_lists_do(tmp_path, cls, form):
    expected = run(cls, tmp_path, converted(lambda rows: rows, env_mask=True))
    assert any(gradient.abs().sum() > 0 for gradient in expected.gradients[0].values())
    assert_same_run(run(cls, tmp_path, converted(form, env_mask=True)), expected)


def test_one_tensor_of_all_rows_trains_as_lists_do(tmp_path):
    # Rows of one length, as a padded tensor would give them
    def padded(rows):
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=20)

    def as_tensor(prompts, trainer):
        output = scripted_rollout()(prompts, trainer)
        same = {key: padded(output[key]) for key in ("completion_ids", "logprobs")}
        return {**output, **same}

    def as_lists(prompts, trainer):
        output = as_tensor(prompts, trainer)
        return {**output, **{key: output[key].tolist() for key in ("completion_ids", "logprobs")}}

    assert_same_run(run(DAPOTrainer, tmp_path, as_tensor), run(DAPOTrainer, tmp_path, as_lists))


def changed(**changes):
    script = scripted_rollout()

    def rollout(prompts, trainer):
        output = script(prompts, trainer)
        return {**output, **{key: change(output[key]) for key, change in changes.items()}}

    return rollout


def first_row(row):
    return lambda rows: [row, *rows[1:]]


@pytest.mark.parametrize("cls", [GRPOTrainer, DAPOTrainer])
@pytest.mark.parametrize(
    ("rollout", "error", "message"),
    [
        (changed(completion_ids=lambda rows: rows[:-1]), ValueError, r"15 rows of 'completion_ids' for 16 prompts"),
        (changed(prompt_ids=lambda rows: rows[:-1]), ValueError, r"15 rows of 'prompt_ids' for 16 prompts"),
        (changed(logprobs=lambda rows: rows[:-1]), ValueError, r"15 rows of 'logprobs' for 16 prompts"),
        (changed(completion_ids=lambda rows: [*rows, rows[0]]), ValueError, r"17 rows of 'completion_ids'"),
        (changed(rollout_tag=lambda rows: rows[:-1]), ValueError, r"15 rows of 'rollout_tag' for 16 prompts"),
        (changed(completion_ids=first_row([])), ValueError, r"no token of 'completion_ids' in row 0"),
        (changed(completion_ids=first_row(7)), TypeError, r"'completion_ids' with a int in row 0"),
        (changed(completion_ids=first_row([1.5, 2])), ValueError, r"1.5 among the 'completion_ids' of row 0"),
        (changed(logprobs=first_row([-1.0])), ValueError, r"1 values of 'logprobs' in row 0, whose completion has"),
        (changed(completion_ids=lambda rows: "text"), TypeError, r"'completion_ids' as one sequence per row, got str"),
        (lambda prompts, trainer: [1], TypeError, "must return a dictionary, got list"),
        (
            lambda prompts, trainer: {"prompt_ids": [[1]] * 16},
            ValueError,
            r"return keys \['completion_ids', 'logprobs'\]",
        ),
    ],
)
def test_what_is_not_one_row_per_prompt_is_named(tmp_path, cls, rollout, error, message):
    fields = {"per_device_train_batch_size": 16, "num_generations": 4}
    if cls is DAPOTrainer:
        args = dapo_args(tmp_path, **{**fields, "per_device_train_batch_size": 8})
    else:
        args = tiny_args(tmp_path, cls=GRPOConfig, **fields)
    given = {"reward_funcs": parity_reward, "rollout_func": rollout, "train_dataset": plain_dataset(32)}
    trainer = build(cls, args, peft_config=tiny_lora(), **given)
    with pytest.raises(error, match=message):
        trainer.train()


def test_a_missing_key_is_named_as_trl_names_it(tmp_path):
    messages = []
    for cls in (trl.GRPOTrainer, GRPOTrainer):
        trainer = build(
            cls,
            tiny_args(tmp_path, cls=GRPOConfig),
            reward_funcs=parity_reward,
            rollout_func=lambda *_: {"logprobs": None},
        )
        with pytest.raises(ValueError, match="must return keys") as raised:
            trainer.train()
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
