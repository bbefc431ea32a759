"""Constructors show what they take: TRL's parameters in TRL's order, with TRL's defaults, and ours behind them."""

import functools
import inspect
import typing
from pathlib import Path

import pytest
import torch
import trl

import trl_dapo
from tiny import parity_reward
from training import build, dapo_args
from trl_dapo import DAPOTrainer, DPOTrainer, GRPOTrainer, PPOTrainer, RewardTrainer
from trl_dapo.host.arguments import given


HOSTS = {
    GRPOTrainer: trl.GRPOTrainer,
    DAPOTrainer: trl.GRPOTrainer,
    PPOTrainer: trl.GRPOTrainer,
    DPOTrainer: trl.DPOTrainer,
    RewardTrainer: trl.RewardTrainer,
}
# Arguments that are handed on to another constructor, which names them
HANDED_ON = {"four_bit": ["lora"]}
ADDED = {DAPOTrainer: ["token_importance_func"], PPOTrainer: ["value_peft_config"]}
# Parameters that not every TRL of the range has, by trainer: none so far
LATER: dict[type, set[str]] = {}
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def parameters(cls):
    return {name: one for name, one in inspect.signature(cls).parameters.items() if name != "self"}


@pytest.mark.parametrize("trainer", HOSTS, ids=lambda cls: cls.__name__)
def test_the_parameters_are_trls_in_its_order_with_its_defaults(trainer):
    ours, theirs = parameters(trainer), parameters(HOSTS[trainer])
    added = ADDED.get(trainer, [])
    shared = [name for name in ours if name not in added]
    assert [name for name in shared if name in theirs] == list(theirs)
    assert set(shared) - set(theirs) <= LATER.get(trainer, set())
    assert {name: ours[name].default for name in theirs} == {name: one.default for name, one in theirs.items()}
    assert {name: ours[name].kind for name in theirs} == {name: one.kind for name, one in theirs.items()}
    assert list(ours)[len(shared) :] == added
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY and ours[name].default is None for name in added)


@pytest.mark.parametrize("trainer", HOSTS, ids=lambda cls: cls.__name__)
def test_the_signature_is_the_functions_own(trainer):
    # What editors read is the source, and not an attribute that is set when it runs
    assert not hasattr(trainer.__init__, "__signature__")


@pytest.mark.parametrize("name", [one for one in trl_dapo.__all__ if callable(getattr(trl_dapo, one))])
def test_nothing_public_hides_parameters_and_each_has_a_type(name):
    public = getattr(trl_dapo, name)
    if hasattr(public, "__dataclass_fields__") or typing.get_origin(public) is not None:
        return
    shown = parameters(public)
    assert [one for one in shown if shown[one].kind in VARIADIC] == HANDED_ON.get(name, [])
    assert [one for one in shown if shown[one].annotation is inspect.Parameter.empty] == []


@pytest.mark.parametrize("trainer", HOSTS, ids=lambda cls: cls.__name__)
def test_every_parameter_is_explained(trainer):
    told = trainer.__doc__.split("Args:")[1]
    assert [name for name in parameters(trainer) if name not in told] == []


def test_what_was_not_given_is_not_asked_of_the_host():
    model, optimizers = object(), (object(), None)
    assert given({"model": model, "args": None, "optimizers": (None, None)}) == {"model": model}
    assert given({"model": None, "optimizers": optimizers, "tools": []}) == {
        "model": None, "optimizers": optimizers, "tools": []}  # fmt: skip


@pytest.mark.parametrize("lacking", ["environment_factory", "rollout_func", "optimizers"])
def test_a_trl_that_lacks_a_parameter_is_enough_for_whom_does_not_use_it(lacking, tmp_path, monkeypatch):
    host = trl.GRPOTrainer.__init__

    @functools.wraps(host)
    def older(self, *args, **kwargs):
        if lacking in kwargs:
            raise TypeError(f"unexpected keyword argument {lacking!r}")
        host(self, *args, **kwargs)

    monkeypatch.setattr(trl.GRPOTrainer, "__init__", older)
    made = build(DAPOTrainer, dapo_args(tmp_path), reward_funcs=parity_reward)
    assert made.rollout_func is None
    given_value = {"optimizers": (torch.optim.SGD(made.model.parameters(), 0.1), None)}.get(
        lacking, lambda *rest: None
    )
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{lacking}'"):
        build(DAPOTrainer, dapo_args(tmp_path), reward_funcs=parity_reward, **{lacking: given_value})


def test_the_mark_for_type_checkers_is_in_the_package():
    assert (Path(trl_dapo.__file__).parent / "py.typed").is_file()
