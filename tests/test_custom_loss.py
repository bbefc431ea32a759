"""A loss that the user changed has TRL's micro-batches, whoever packs otherwise."""

import functools
import logging

import pytest
import torch
import trl

from ppo_runs import WHOLE, ppo_args, ppo_trainer
from tiny import parity_reward, plain_dataset, scripted_rollout, tiny_args
from training import assert_same_run, dapo_args, train
from trl_dapo import DAPOTrainer, GRPOConfig, GRPOTrainer
from trl_dapo.host.custom_loss import changed_loss


class WithTerm:
    """Adds a mean over the micro-batch to the loss, as TRL's documentation has it, and counts its calls."""

    calls = 0

    def _compute_loss(self, model, inputs):
        type(self).calls += 1
        loss = super()._compute_loss(model, inputs)
        lengths = inputs["completion_mask"].sum(dim=1).float()
        return loss + 0.05 * lengths.mean() * next(model.parameters()).pow(2).mean()


class Ours(WithTerm, GRPOTrainer):
    pass


class Theirs(WithTerm, trl.GRPOTrainer):
    pass


def run(cls, tmp_path, prepare=None, **fields):
    fields = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "max_steps": 2, **fields}
    args = tiny_args(tmp_path, cls=GRPOConfig, **fields)
    given = {"reward_funcs": parity_reward, "rollout_func": scripted_rollout(), "train_dataset": plain_dataset(32)}
    return train(cls, args, prepare=prepare, **given)


def test_a_term_in_a_subclass_has_the_weight_that_it_has_in_trl(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "trl_dapo.grpo.trainer"):
        ours = run(Ours, tmp_path)
    assert "WithTerm._compute_loss changes the loss" in caplog.text
    assert_same_run(ours, run(Theirs, tmp_path))
    assert Ours.calls == Theirs.calls == 8


def changed_on_the_instance(trainer):
    host = trainer._compute_loss

    @functools.wraps(host)
    def mine(model, inputs):
        return 2 * host(model, inputs)

    trainer._compute_loss = mine


def test_a_loss_that_was_replaced_on_the_instance_has_trls_micro_batches(tmp_path):
    ours = run(GRPOTrainer, tmp_path, prepare=changed_on_the_instance)
    assert_same_run(ours, run(trl.GRPOTrainer, tmp_path, prepare=changed_on_the_instance))
    assert not any("packing/live_rows" in log for log in ours.logs)


@pytest.mark.parametrize("name", ["compute_loss", "get_off_policy_mask", "_get_per_token_logps_and_entropies"])
def test_what_the_loss_calls_counts_as_the_loss(tmp_path, name):
    cls = type("Mine", (GRPOTrainer,), {name: lambda self, *args, **kw: getattr(super(cls, self), name)(*args, **kw)})
    assert changed_loss(object.__new__(cls)) == f"Mine.{name}"
    ours = run(cls, tmp_path)
    assert_same_run(ours, run(trl.GRPOTrainer, tmp_path))


def test_a_class_whose_method_was_replaced_counts_too(monkeypatch):
    assert changed_loss(object.__new__(DAPOTrainer)) is None
    host = trl.GRPOTrainer._compute_loss
    monkeypatch.setattr(trl.GRPOTrainer, "_compute_loss", lambda self, model, inputs: host(self, model, inputs))
    assert changed_loss(object.__new__(DAPOTrainer)) == "GRPOTrainer._compute_loss"


def test_a_plain_subclass_and_ppos_own_loss_are_packed(tmp_path):
    mine = type("Mine", (DAPOTrainer,), {"log": lambda self, *args: super(mine, self).log(*args)})
    args = dapo_args(tmp_path, max_steps=1)
    result = train(
        mine, args, reward_funcs=parity_reward, rollout_func=scripted_rollout(), train_dataset=plain_dataset(32)
    )
    assert "packing/live_rows" in result.logs[0]
    trainer = ppo_trainer(tmp_path, ppo_args(tmp_path, **{**WHOLE, "max_steps": 1}))
    trainer.train()
    assert "packing/live_rows" in trainer.state.log_history[0]


def test_a_bound_on_tokens_is_refused_with_a_changed_loss(tmp_path):
    with pytest.raises(ValueError, match=r"WithTerm._compute_loss changes the loss, and max_tokens_per_microbatch=64"):
        run(Ours, tmp_path, max_tokens_per_microbatch=64)


def test_a_gradient_of_a_changed_loss_is_not_that_of_packed_rows(tmp_path):
    # What would be wrong without all this: the mean over packed rows is another one
    plain, packed = run(Theirs, tmp_path), run(GRPOTrainer, tmp_path)
    first, second = plain.gradients[0], packed.gradients[0]
    assert any(not torch.allclose(gradient, second[name], rtol=1e-3) for name, gradient in first.items())
