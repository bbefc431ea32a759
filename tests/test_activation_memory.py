"""Gradient checkpointing and activation offloading: the same gradients in less memory, in packed micro-batches too."""

import itertools
import logging
from contextlib import nullcontext

import pytest
import torch
from accelerate import PartialState
from trl.models.activation_offloading import OffloadActivations

from allocator import allocations
from tiny import plain_dataset, save_tiny_model, share_reward, tiny_args, tiny_lora, tiny_model, tiny_tokenizer
from trl_dapo import DAPOConfig, DAPOTrainer, GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer
from trl_dapo.grpo import offloading


TRAINERS = [
    (DAPOTrainer, DAPOConfig, {"updates_per_rollout": 2}),
    (GRPOTrainer, GRPOConfig, {}),
    (PPOTrainer, PPOConfig, {"num_generations": 1, "num_iterations": 1}),
]


def trainer_of(folder, cls, config, hidden=16, layers=2, **overrides):
    tokenizer = tiny_tokenizer()
    peft_config = overrides.pop("peft_config", tiny_lora())
    model = tiny_model(tokenizer, layers=layers, hidden=hidden)
    if peft_config is None:
        model = save_tiny_model(folder / "base", tokenizer, layers=layers, hidden=hidden)  # a critic is loaded from it
    args = tiny_args(folder, cls=config, **{"max_steps": 2, **overrides})
    return cls(
        model,
        share_reward,
        args,
        plain_dataset(16),
        processing_class=tokenizer,
        peft_config=peft_config,
    )


def trained(trainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return {name: one.detach().clone() for name, one in trainer.model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize(("cls", "config", "overrides"), TRAINERS)
def test_checkpointing_changes_no_gradient_of_packed_micro_batches(tmp_path, cls, config, overrides):
    plain, recomputed = (
        trained(trainer_of(tmp_path / str(on), cls, config, gradient_checkpointing=on, **overrides))
        for on in (False, True)
    )
    assert any(one.any() for name, one in plain.items() if "lora_B" in name)
    for name in plain:
        torch.testing.assert_close(recomputed[name], plain[name], rtol=1e-5, atol=1e-7)


def update_peak(trainer) -> int:
    """
    Most bytes that torch's allocator held in the update phase of a step, beyond those before it.

    Without TRL's buffer for log-probabilities, which has 32,768 columns however small the vocabulary is.
    """
    found = []
    host = trainer.update_phase._run_turn

    def watched(*args, **kwargs):
        loss, sizes = allocations(lambda: host(*args, **kwargs))
        found.append(max(itertools.accumulate(sizes)) - max(sizes))
        return loss

    trainer.update_phase._run_turn = watched
    trainer.train()
    return max(found)


def test_checkpointing_lowers_the_peak_of_the_update(tmp_path):
    # 8 layers: without checkpointing all of them keep their activations, with it one at a time does
    shape = {"layers": 8, "hidden": 64, "max_completion_length": 64, "max_steps": 1}
    plain, recomputed = (
        update_peak(trainer_of(tmp_path / str(on), GRPOTrainer, GRPOConfig, gradient_checkpointing=on, **shape))
        for on in (False, True)
    )
    assert recomputed < 0.4 * plain


class Offload(torch.autograd.graph.saved_tensors_hooks):
    """A stand-in for TRL's on a machine without a card: notes what is kept for the backward pass."""

    def __init__(self):
        self.kept, self.fetched, self.entered = 0, 0, 0

        def keep(tensor):
            self.kept += 1
            return tensor

        def fetch(tensor):
            self.fetched += 1
            return tensor

        super().__init__(keep, fetch)

    def __enter__(self):
        self.entered += 1
        return super().__enter__()


@pytest.mark.parametrize(("cls", "config", "overrides"), TRAINERS)
def test_offloading_covers_every_pass_of_the_update(tmp_path, monkeypatch, cls, config, overrides):
    manager = Offload()
    monkeypatch.setattr(offloading, "get_act_offloading_ctx_manager", lambda model: manager)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    trainer = trainer_of(tmp_path / "on", cls, config, activation_offloading=True, **overrides)
    monkeypatch.undo()
    # As on a card
    trainer._offloading = manager
    found = trained(trainer)
    assert manager.entered == 2
    assert manager.kept > 0
    # Each is brought back by a backward pass within the step, those of PPO's critic too
    assert manager.fetched >= 0.5 * manager.kept
    plain = trained(trainer_of(tmp_path / "off", cls, config, **overrides))
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_offloading_on_a_cpu_says_that_it_has_no_effect(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer_of(tmp_path, GRPOTrainer, GRPOConfig, activation_offloading=True)
    assert "activation_offloading=True has no effect on a CPU" in caplog.text


@pytest.mark.parametrize("peft_config", [None, tiny_lora()])
def test_the_weights_of_a_critic_are_no_activations(tmp_path, monkeypatch, peft_config):
    # TRL's manager knows the weights by where they lie, and copies everything else that a pass keeps
    manager = OffloadActivations.__new__(OffloadActivations)
    monkeypatch.setattr("trl_dapo.grpo.trainer.offloading", lambda *args: manager)
    kwargs = {"peft_config": peft_config, "num_generations": 1, "num_iterations": 1}
    trainer = trainer_of(tmp_path, PPOTrainer, PPOConfig, **kwargs)
    for model in (trainer.model, trainer.critic.model):
        for name, parameter in model.named_parameters():
            assert parameter.untyped_storage().data_ptr() in manager.param_storages, name


def test_a_run_on_the_cpu_of_a_machine_with_a_card_offloads_nothing(monkeypatch, caplog):
    PartialState()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert isinstance(offloading.offloading(torch.nn.Linear(1, 1), True, on_cpu=True), nullcontext)
    assert "has no effect on a CPU" in caplog.text
