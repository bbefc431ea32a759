"""The layer over TRL's trainer: which pass is in charge, and what an instance without parts does."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
import torch
import trl
from accelerate import Accelerator

from tiny import none_reward, parity_reward, plain_dataset, share_reward, tiny_args
from training import build, dapo_args
from trl_dapo import DAPOTrainer, GRPOConfig, GRPOTrainer, PPOTrainer
from trl_dapo.dapo.sampling.rounds import ReplayPass
from trl_dapo.host.passes import Pass
from trl_dapo.host.swapped import swapped
from trl_dapo.packing.update_phase import LogPass, PreparedPass


# -------------------------------------------------------------------------------------- an instance without `__init__`


def bare(cls, reward_funcs):
    """A trainer that was never constructed, with what TRL's `_calculate_rewards` reads."""
    trainer = object.__new__(cls)
    trainer.accelerator = Accelerator(cpu=True)
    trainer.reward_funcs = reward_funcs
    trainer.reward_func_names = [function.__name__ for function in reward_funcs]
    trainer.reward_processing_classes = [None] * len(reward_funcs)
    trainer.state = SimpleNamespace(global_step=0)
    trainer.environments = None
    trainer.args = SimpleNamespace(report_to=[])
    trainer.async_loop = asyncio.new_event_loop()
    threading.Thread(target=trainer.async_loop.run_forever, daemon=True).start()
    return trainer


@pytest.mark.parametrize("cls", [GRPOTrainer, DAPOTrainer, PPOTrainer])
def test_an_instance_without_init_scores_as_trls_does(cls):
    functions = [parity_reward, share_reward, none_reward]
    call = ([{"prompt": "a"}, {"prompt": "b"}], ["a", "b"], ["x", "y"], [[4, 5], [6]])
    theirs = bare(trl.GRPOTrainer, functions)._calculate_rewards(*call)
    ours = bare(cls, functions)._calculate_rewards(*call)
    assert torch.equal(ours.nan_to_num(-7), theirs.nan_to_num(-7))
    assert theirs[:, 0].unique().numel() > 1


@pytest.mark.parametrize("cls", [GRPOTrainer, DAPOTrainer, PPOTrainer])
def test_an_instance_without_init_hands_every_pass_to_trl(cls, monkeypatch):
    called = []
    methods = ("_prepare_inputs", "_generate", "_generate_and_score_completions", "training_step", "_compute_loss")
    for name in (*methods, "_get_per_token_logps_and_entropies"):
        monkeypatch.setattr(trl.GRPOTrainer, name, lambda self, *args, _name=name, **kwargs: called.append(_name))
    trainer = object.__new__(cls)
    for name in methods if cls is not PPOTrainer else ("_prepare_inputs", "_generate"):
        arguments = (None, None) if name in ("training_step", "_compute_loss") else ([],)
        getattr(trainer, name)(*arguments)
    trainer._get_per_token_logps_and_entropies(None, None, None, 1)
    expected = methods if cls is not PPOTrainer else ("_prepare_inputs", "_generate")
    assert called == [*expected, "_get_per_token_logps_and_entropies"]


# ----------------------------------------------------------------------------------------------------------- in charge


def test_one_pass_is_in_charge_at_a_time(tmp_path):
    trainer = build(GRPOTrainer, tiny_args(tmp_path, cls=GRPOConfig), reward_funcs=parity_reward)
    with trainer.in_charge(PreparedPass({"rows": 1})) as one:
        assert trainer.present_pass is one
        assert trainer._prepare_inputs("anything") == {"rows": 1}
        inner = trainer.in_charge(LogPass(None))
        with pytest.raises(RuntimeError, match="LogPass begins inside of PreparedPass"):
            inner.__enter__()
    assert type(trainer.present_pass) is Pass


def test_after_an_error_the_plain_pass_is_in_charge_again(tmp_path):
    trainer = build(DAPOTrainer, dapo_args(tmp_path), reward_funcs=parity_reward, train_dataset=plain_dataset(32))
    with pytest.raises(KeyError), trainer.in_charge(ReplayPass(None, None)):
        raise KeyError
    assert type(trainer.present_pass) is Pass


def test_a_swapped_attribute_is_that_of_the_class_or_the_instance_again():
    class Owner:
        shared = 1

    owner = Owner()
    owner.own = 2
    with swapped(owner, shared=3, own=4, new=5):
        assert (owner.shared, owner.own, owner.new) == (3, 4, 5)
    assert vars(owner) == {"own": 2}
    assert owner.shared == 1
