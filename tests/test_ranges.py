"""Settings that no training can have are refused by the config, naming field and value; so on the command line."""

from dataclasses import fields

import pytest
import trl

from trl_dapo import DAPOConfig, DPOConfig, GRPOConfig, PPOConfig, RewardConfig
from trl_dapo.dpo.trainer import DPOTrainer
from trl_dapo.grpo.trainer import GRPOTrainer
from trl_dapo.host.ranges import (
    DPO_CHOICES,
    GENERATION,
    GENERATION_CHOICES,
    PREFERENCES,
    TRAINING,
    Range,
    check_generation_fields,
    check_preference_fields,
)
from trl_dapo.reward_model.trainer import RewardTrainer


ONLINE, OFFLINE = (DAPOConfig, GRPOConfig, PPOConfig), (DPOConfig, RewardConfig)
HERE = {"use_cpu": True, "bf16": False, "report_to": "none"}
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("cls", ONLINE + OFFLINE)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("per_device_train_batch_size", 0),
        ("per_device_train_batch_size", -4),
        ("per_device_train_batch_size", None),
        ("per_device_train_batch_size", 2.0),
        ("per_device_train_batch_size", "8"),
        ("per_device_train_batch_size", True),
        ("per_device_eval_batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("learning_rate", -1.0),
        ("learning_rate", NAN),
        ("learning_rate", INF),
        ("learning_rate", "1e-5"),
        ("warmup_steps", -1),
        ("adam_beta2", 1.0),
        ("seed", -1),
        ("seed", 2**32),
        ("dataloader_num_workers", -1),
    ],
)
def test_settings_of_every_trainer_are_refused_by_name(tmp_path, cls, field, value):
    with pytest.raises(ValueError, match=f"^`{field}` must be ") as refused:
        cls(str(tmp_path), **HERE, **{field: value})
    assert f"got {value!r}" in str(refused.value)


@pytest.mark.parametrize("cls", ONLINE)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_generations", 0),
        ("num_generations", -2),
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", NAN),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("max_completion_length", 0),
        ("num_iterations", 0),
        ("steps_per_generation", 0),
        ("generation_batch_size", -8),
        ("beta", -0.1),
        ("epsilon", -0.2),
        ("loss_type", "grpoo"),
        ("importance_sampling_level", "word"),
        ("scale_rewards", "groups"),
        ("multi_objective_aggregation", "sum"),
        ("vllm_mode", "serve"),
    ],
)
def test_settings_of_generation_are_refused_by_name(tmp_path, cls, field, value):
    with pytest.raises(ValueError, match=rf"^`?{field}\b.*{value}"):
        cls(str(tmp_path), **HERE, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("loss_type", "sigmoyd"), ("loss_type", ["sigmoid", "sfd"]), ("f_divergence_type", "kl"), ("max_length", 0)],
)
def test_settings_of_dpo_are_refused_by_name(tmp_path, field, value):
    with pytest.raises(ValueError, match=f"^`{field}` must be "):
        DPOConfig(str(tmp_path), **HERE, **{field: value})


@pytest.mark.parametrize(
    ("trainer", "config"),
    [(GRPOTrainer, trl.GRPOConfig), (DPOTrainer, trl.DPOConfig), (RewardTrainer, trl.RewardConfig)],
)
def test_a_config_of_trls_is_held_to_the_same_ranges(tmp_path, trainer, config):
    arguments = {"reward_funcs": len} if trainer is GRPOTrainer else {}
    with pytest.raises(ValueError, match=r"^`learning_rate` must be a number of at least 0, got -1\.0\."):
        trainer(model="never/loaded", args=config(str(tmp_path), **HERE, learning_rate=-1.0), **arguments)
    if trainer is GRPOTrainer:
        with pytest.raises(ValueError, match=r"^`temperature` must be a number above 0, got 0\."):
            DAPOConfig.from_grpo_config(config(str(tmp_path), **HERE, temperature=0))


def test_defaults_of_trl_are_within_all_ranges(tmp_path):
    check_generation_fields(trl.GRPOConfig(str(tmp_path), **HERE))
    check_preference_fields(trl.DPOConfig(str(tmp_path), **HERE))
    check_preference_fields(trl.RewardConfig(str(tmp_path), **HERE))


def test_every_name_in_the_tables_is_a_field_of_trls():
    known = {own.name for kind in (trl.GRPOConfig, trl.DPOConfig, trl.RewardConfig) for own in fields(kind)}
    assert {*TRAINING, *GENERATION, *PREFERENCES, *GENERATION_CHOICES, *DPO_CHOICES} <= known


def test_edges_of_a_range_are_as_written():
    assert [Range(0, 1).holds(edge) for edge in (0, 1, -1e-9, 1 + 1e-9)] == [True, True, False, False]
    assert [Range(0, 1, above=True, below=True).holds(edge) for edge in (0, 0.5, 1)] == [False, True, False]
    assert str(Range(1, whole=True)) == "an integer of at least 1"
    assert str(Range(0, 1, below=True)) == "a number of at least 0 and below 1"
