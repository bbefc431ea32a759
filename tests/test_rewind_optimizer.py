"""The rate of a branch's first update, where its checkpoint holds another."""

from types import SimpleNamespace

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from trl_dapo.rewind.optimizer import OptimizerChanges


def begun(rate: float, changed: list[str], factor) -> tuple[dict, LambdaLR]:
    """Returns the optimizer's group and the schedule of a branch that begins after 3 updates at a base rate of 0.1."""
    weight = torch.nn.Parameter(torch.ones(1))
    fresh = torch.optim.SGD([weight], lr=rate)
    trainer = SimpleNamespace(
        is_fsdp_enabled=False,
        is_deepspeed_enabled=False,
        create_optimizer=lambda: fresh,
        args=SimpleNamespace(optim="sgd"),
    )
    changes = OptimizerChanges(trainer, changed)
    # As transformers has loaded it: what the run had, ((3 + 1) / 10) of 0.1
    loaded = torch.optim.SGD([weight], lr=0.1)
    schedule = LambdaLR(loaded, factor)
    schedule.last_epoch = 3
    loaded.param_groups[0]["lr"] = 0.04
    changes.on_train_begin(None, None, None, optimizer=loaded, lr_scheduler=schedule)
    return loaded.param_groups[0], schedule


def test_the_first_update_has_the_rate_of_the_config_at_its_step():
    # 0.5 x (3 + 1) / 10, and in the update after it 0.5 x (4 + 1) / 10
    group, schedule = begun(0.5, ["learning_rate"], lambda step: (step + 1) / 10)
    # The branch's own checkpoints hold it too
    assert group["initial_lr"] == 0.5
    assert group["lr"] == pytest.approx(0.2)
    assert schedule.get_last_lr() == pytest.approx([0.2])
    schedule.step()
    assert group["lr"] == pytest.approx(0.25)


def test_another_schedule_acts_on_the_first_update_too():
    # A constant one, over 0.1: the checkpoint's 0.04 is gone
    group, schedule = begun(0.1, ["lr_scheduler_type"], lambda step: 1.0)
    assert (group["lr"], schedule.get_last_lr()) == (0.1, [0.1])


def test_without_a_change_the_checkpoint_s_rate_stays():
    assert begun(0.5, [], lambda step: 1.0)[0]["lr"] == 0.04
