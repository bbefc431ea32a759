"""A config that another trainer reads is refused by ours, and says so to TRL's."""

import logging
from dataclasses import dataclass

import pytest
import transformers
import trl

from preferences import pairs, preference_args, tiny_reward_model
from tiny import save_tiny_model, share_reward, tiny_args, tiny_model, tiny_tokenizer
from training import build
from trl_dapo import (
    DAPOConfig,
    DAPOTrainer,
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    PPOConfig,
    PPOTrainer,
    RewardConfig,
    RewardTrainer,
)


CONFIGS = {
    GRPOTrainer: (GRPOConfig, trl.GRPOConfig),
    DAPOTrainer: (DAPOConfig, GRPOConfig, trl.GRPOConfig),
    PPOTrainer: (PPOConfig,),
    DPOTrainer: (DPOConfig, trl.DPOConfig),
    RewardTrainer: (RewardConfig, trl.RewardConfig),
}
ALL = [DAPOConfig, GRPOConfig, PPOConfig, DPOConfig, RewardConfig]
ALL += [trl.GRPOConfig, trl.DPOConfig, trl.RewardConfig, trl.SFTConfig, trl.RLOOConfig, transformers.TrainingArguments]
PAIRS = [(trainer, config) for trainer in CONFIGS for config in ALL if config not in CONFIGS[trainer]]


def made(cls, args):
    tokenizer = tiny_tokenizer()
    if "GRPO" in cls.__name__ or cls in (DAPOTrainer, PPOTrainer):
        return build(cls, args, reward_funcs=share_reward)
    model = tiny_reward_model() if "Reward" in cls.__name__ else tiny_model(tokenizer)
    return cls(model=model, args=args, train_dataset=pairs(), processing_class=tokenizer)


@pytest.mark.parametrize(("trainer", "config"), PAIRS)
def test_another_trainers_config_is_refused_by_name(tmp_path, trainer, config):
    args = tiny_args(tmp_path, cls=config)
    with pytest.raises(
        TypeError, match=rf"`args` must be a .*{CONFIGS[trainer][0].__name__}.*got .*{config.__name__}"
    ):
        made(trainer, args)


def test_the_fields_that_would_not_be_read_are_named(tmp_path):
    with pytest.raises(
        TypeError, match=r"GRPOTrainer does not read .*dynamic_sampling=True.* Use DAPOTrainer, or give"
    ):
        made(GRPOTrainer, tiny_args(tmp_path, cls=DAPOConfig))
    with pytest.raises(TypeError, match=r"DAPOTrainer does not read gamma=1.0, lam=0.95.* Use PPOTrainer, or give"):
        made(DAPOTrainer, tiny_args(tmp_path, cls=PPOConfig))


@dataclass
class MyPPOConfig(PPOConfig):
    """A subclass in a user's script."""

    note: str = "mine"


@dataclass
class MyDAPOConfig(DAPOConfig):
    """A subclass in a user's script."""

    note: str = "mine"


def test_a_subclass_is_what_it_was_derived_from(tmp_path):
    with pytest.raises(TypeError, match="got a PPOConfig"):
        made(DAPOTrainer, tiny_args(tmp_path, cls=MyPPOConfig))
    with pytest.raises(TypeError, match="got a DAPOConfig"):
        made(GRPOTrainer, tiny_args(tmp_path, cls=MyDAPOConfig))
    assert made(DAPOTrainer, tiny_args(tmp_path, cls=MyDAPOConfig, note="other")).args.note == "other"


LOGGER = "trl_dapo.host.foreign"


@pytest.mark.parametrize(
    ("trainer", "config", "fields", "said"),
    [
        (trl.GRPOTrainer, DAPOConfig, {}, "does not read soft_overlong_punishment=True, dynamic_sampling=True"),
        (trl.GRPOTrainer, MyDAPOConfig, {"note": "x"}, "soft_overlong_punishment=True, dynamic_sampling=True: it"),
        (trl.GRPOTrainer, DAPOConfig, {"surplus": "carry"}, "dynamic_sampling=True, surplus='carry'"),
        (trl.GRPOTrainer, PPOConfig, {"num_generations": 4}, "does not read gamma=1.0, lam=0.95, kl_estimator='k1'"),
        (trl.GRPOTrainer, GRPOConfig, {"reward_timeout": 3.0}, "does not read reward_timeout=3.0"),
        (trl.DPOTrainer, DPOConfig, {"reference_free": True}, "does not read reference_free=True"),
        (trl.RewardTrainer, RewardConfig, {"statistics_window": 9}, "does not read statistics_window=9"),
    ],
)
def test_trls_trainer_is_told_what_it_does_not_read(tmp_path, caplog, trainer, config, fields, said):
    folder = save_tiny_model(tmp_path / "model", tiny_tokenizer())
    args = tiny_args(tmp_path, cls=config, **fields)
    with caplog.at_level(logging.WARNING, LOGGER):
        if trainer is trl.DPOTrainer:
            trainer(model=folder, args=args, train_dataset=pairs(), processing_class=tiny_tokenizer())
        elif trainer is trl.GRPOTrainer:
            build(trainer, args, model=folder, reward_funcs=share_reward)
        else:
            made(trainer, args)
    assert said in caplog.text
    assert f"Use trl_dapo.{config.own_trainer}" in caplog.text


@pytest.mark.parametrize("config", [GRPOConfig, GRPOConfig.naive, DAPOConfig.naive_grpo, DAPOConfig.ladder_start])
def test_trls_trainer_takes_what_it_reads_in_silence(tmp_path, caplog, config):
    fields = {"use_cpu": True, "bf16": False, "beta": 0.0, "per_device_train_batch_size": 8}
    with caplog.at_level(logging.WARNING, LOGGER):
        build(trl.GRPOTrainer, config(str(tmp_path), **fields), reward_funcs=share_reward)
    assert "does not read" not in caplog.text


def test_our_trainers_are_told_nothing(tmp_path, caplog):
    mine = type("Mine", (DAPOTrainer,), {})
    with caplog.at_level(logging.WARNING, LOGGER):
        made(DAPOTrainer, tiny_args(tmp_path, cls=DAPOConfig))
        build(mine, tiny_args(tmp_path, cls=DAPOConfig), reward_funcs=share_reward)
        made(DPOTrainer, preference_args(DPOConfig, tmp_path, reference_free=True))
        assert tiny_args(tmp_path, cls=DAPOConfig).get_process_log_level() is not None
    assert "does not read" not in caplog.text
