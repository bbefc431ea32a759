"""`docs/what_changes.md` names every default that differs from TRL's, and its config without them is TRL's."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import trl

from tiny import parity_reward, plain_dataset, tiny_args
from training import assert_same_run, train
from trl_dapo import DAPOConfig, DAPOTrainer, GRPOConfig
from trl_dapo.dapo.toggles import GOVERNED, TOGGLES


PAGE = (Path(__file__).parents[1] / "docs" / "what_changes.md").read_text()
(BLOCK,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
# Sizes that follow from `updates_per_rollout`
FOLLOWING = {"steps_per_generation", "generation_batch_size"}


CPU = {"use_cpu": True, "bf16": False}


@pytest.fixture
def as_trl(monkeypatch, tmp_path) -> DAPOConfig:
    """The config of the page's block, made on a machine without a GPU."""
    host = DAPOConfig.__post_init__

    def post_init(self):
        vars(self).update(CPU)
        host(self)

    monkeypatch.setattr(DAPOConfig, "__post_init__", post_init)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(BLOCK, "what_changes.md", "exec"), names)
    return names["as_trl"]


def other(config: trl.GRPOConfig) -> set[str]:
    """Names of TRL's fields whose values are not those of TRL's own config."""
    default = vars(trl.GRPOConfig(config.output_dir, **CPU))
    return {own.name for own in fields(trl.GRPOConfig) if own.init and vars(config)[own.name] != default[own.name]}


def test_every_default_that_differs_is_on_the_page(tmp_path):
    differing = other(DAPOConfig(str(tmp_path), **CPU)) - set(GOVERNED.values()) - FOLLOWING
    assert differing >= {"lr_scheduler_type", "warmup_steps", "disable_dropout"}
    for name in (*differing, "updates_per_rollout"):
        assert f"| `{name}` |" in PAGE, name


def test_every_toggle_and_its_switch_is_on_the_page():
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    for toggle in TOGGLES:
        assert any(f"`{toggle}=False`" in row for row in rows), toggle


def test_switches_of_the_page_are_fields(tmp_path):
    switches = re.findall(r"`([a-z_]+)=[^`]+`", PAGE)
    known = {own.name for own in fields(DAPOConfig)}
    assert len(switches) >= 15
    assert set(switches) <= known


def test_without_all_that_the_config_is_trls(as_trl):
    assert other(as_trl) <= {"epsilon_high"}


def test_without_all_that_a_run_is_trls(as_trl, tmp_path):
    given = {own.name: getattr(as_trl, own.name) for own in fields(DAPOConfig)}
    named = re.findall(r"^    ([a-z_]+)=", BLOCK, re.M)
    small = {"reward_funcs": parity_reward, "train_dataset": plain_dataset(32)}
    ours = tiny_args(tmp_path / "ours", cls=DAPOConfig, **{name: given[name] for name in named})
    theirs = tiny_args(tmp_path / "theirs", lr_scheduler_type="linear")
    assert_same_run(train(DAPOTrainer, ours, **small), train(trl.GRPOTrainer, theirs, **small))


@pytest.mark.parametrize("name", ["compact_microbatches", "drop_finished_rows", "prefill_once", "adapter_dtype"])
def test_what_the_package_adds_is_on_by_default(tmp_path, name):
    assert getattr(GRPOConfig(str(tmp_path), **CPU), name) in (True, "float32")
    assert f"`{name}=" in PAGE
