"""Regimes of the built-in task: their rows differ in one toggle, their configs are valid, and each can be run."""

import math
from dataclasses import fields

import pytest
import torch

from trl_dapo import DAPOConfig, DAPOTrainer
from trl_dapo.arena import arena_accuracy, held_out_dataset, load_warm_start, train_dataset
from trl_dapo.arena.model import SEEDS, WARM_STARTS
from trl_dapo.arena.regimes import REGIMES, Check, Regime
from trl_dapo.arena.settings import CPU_FIELDS, LEARNING_RATE, ROLLOUT_FIELDS, UPDATES
from trl_dapo.dapo.toggles import GOVERNED, TOGGLES


FOCUSED = [regime for regime in REGIMES.values() if regime.technique is not None]
FIELDS = {
    **CPU_FIELDS,
    **ROLLOUT_FIELDS,
    "learning_rate": LEARNING_RATE,
    "updates_per_rollout": UPDATES,
    "warmup_steps": UPDATES,
    "report_to": "none",
    "save_strategy": "no",
}


def config_of(regime: Regime, folder, with_technique: bool, **more) -> DAPOConfig:
    return DAPOConfig(str(folder), **{**FIELDS, **regime.fields, **regime.toggles(with_technique), **more})


def test_every_technique_has_a_regime():
    assert {regime.technique for regime in FOCUSED} == set(TOGGLES)
    assert all(name == regime.name and regime.description for name, regime in REGIMES.items())
    assert next(iter(REGIMES)) == "default"


@pytest.mark.parametrize("regime", FOCUSED, ids=lambda regime: regime.name)
def test_the_rows_of_a_comparison_differ_in_one_toggle(regime, tmp_path):
    without, with_it = regime.toggles(False), regime.toggles(True)
    assert set(without) == set(TOGGLES)
    assert {name for name in TOGGLES if without[name] != with_it[name]} == {regime.technique}
    assert with_it[regime.technique]
    first, second = (config_of(regime, tmp_path, row) for row in (False, True))
    # The other fields that differ are TRL's, set by the toggle
    differ = {own.name for own in fields(first) if getattr(first, own.name) != getattr(second, own.name)}
    assert differ - set(GOVERNED.values()) == {regime.technique}


@pytest.mark.parametrize("regime", FOCUSED, ids=lambda regime: regime.name)
def test_a_regime_says_why_and_how_it_is_checked(regime):
    assert regime.why_others
    assert regime.checks
    assert all(math.isfinite(check.bound) and check.meaning for check in regime.checks)


@pytest.mark.parametrize("regime", REGIMES.values(), ids=lambda regime: regime.name)
def test_a_regime_has_three_warm_starts_that_take_turns(regime):
    assert len(set(regime.starts)) == 3
    assert set(regime.starts) <= set(WARM_STARTS)
    # Eight seeds: 0, 3 and 6 have the first
    assert [regime.start_of(seed) for seed in range(8)] == [*regime.starts, *regime.starts, *regime.starts[:2]]


def test_the_task_as_it_is_has_no_rows_of_its_own():
    with pytest.raises(ValueError, match="regime 'default' is about no single technique"):
        REGIMES["default"].toggles(True)


@pytest.mark.parametrize("regime", FOCUSED, ids=lambda regime: regime.name)
def test_one_rollout_of_a_regime_logs_what_it_is_checked_by(regime, tmp_path):
    model, tokenizer = load_warm_start(regime.start_of(0))
    args = config_of(regime, tmp_path, True, max_steps=1, logging_steps=1)
    trainer = DAPOTrainer(
        model,
        arena_accuracy,
        args=args,
        train_dataset=train_dataset(512, lengths=regime.lengths),
        processing_class=tokenizer,
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    assert {check.metric for check in regime.checks} <= set(logged)
    assert set(held_out_dataset(36, lengths=regime.lengths)["length"]) == set(regime.lengths)


@pytest.mark.parametrize(
    ("bound", "mean", "passes"),
    [(0.02, 0.03, True), (0.02, 0.02, False), (-0.1, -0.2, True), (-0.1, -0.05, False), (0.0, math.nan, False)],
)
def test_a_check_passes_beyond_its_bound(bound, mean, passes):
    assert Check("dapo/mean_length_penalty", bound, True, "penalty paid").passes(mean) is passes


# --------------------------------------------------------------------------------------------------------- warm starts


def test_every_warm_start_has_weights_of_its_own():
    weights = [load_warm_start(name)[0].model.norm.weight.detach() for name in WARM_STARTS]
    for number, one in enumerate(weights):
        assert torch.isfinite(one).all()
        assert not any(torch.equal(one, other) for other in weights[:number])


def test_a_number_and_its_name_are_one_warm_start():
    assert set(map(str, SEEDS)) <= set(WARM_STARTS)
    for seed in SEEDS:
        named, numbered = (load_warm_start(start)[0].state_dict() for start in (str(seed), seed))
        assert all(torch.equal(named[key], numbered[key]) for key in named)


@pytest.mark.parametrize("start", [3, "rare", "../warm_start", "", -1, True])
def test_an_unknown_warm_start_is_refused(start):
    with pytest.raises(ValueError, match=r"is no warm start\. There are 0, 1, 2, "):
        load_warm_start(start)
