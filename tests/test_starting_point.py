"""The reference is the policy that training starts from, and what is trained can be trained."""

import logging

import pytest
import torch
import trl
from peft import (
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    get_peft_model,
)
from trl.trainer.utils import use_adapter

from preferences import pairs, preference_args
from tiny import (
    parity_reward,
    plain_dataset,
    save_tiny_model,
    share_reward,
    tiny_args,
    tiny_lora,
    tiny_model,
    tiny_tokenizer,
)
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


ONLINE = {GRPOTrainer: GRPOConfig, DAPOTrainer: DAPOConfig, PPOTrainer: PPOConfig}
PREFERENCES = {DPOTrainer: DPOConfig, RewardTrainer: RewardConfig}
TRAINERS = [*ONLINE, DPOTrainer]
LOGGER = "trl_dapo.host.starting_point"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), tiny_tokenizer())


def made(cls, tmp_path, model, peft_config=None, **fields):
    """A trainer with a reference, of any kind, on a tiny model."""
    if cls in ONLINE:
        args = tiny_args(tmp_path, cls=ONLINE[cls], **{"beta": 0.1, **fields})
        return build(cls, args, model=model, reward_funcs=share_reward, peft_config=peft_config)
    tokenizer = tiny_tokenizer()
    args = preference_args(DPOConfig, tmp_path, **fields)
    rows = pairs(8)
    return cls(model=model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=peft_config)


IDS = torch.arange(20, 60).view(2, 20)


@torch.no_grad()
def logps(model):
    return model.eval()(input_ids=IDS).logits.log_softmax(dim=-1)


def reference_logps(trainer):
    if trainer.ref_model is not None:
        return logps(trainer.ref_model)
    model = trainer.model
    with use_adapter(model, "ref" if "ref" in model.peft_config else None):
        return logps(model)


def assert_reference_is_the_policy(trainer):
    torch.testing.assert_close(reference_logps(trainer), logps(trainer.model), atol=1e-6, rtol=0)


def moved(model, seed=1, scale=0.3):
    """The model after some training in memory: its weights differ from those of its name."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * scale * parameter.std().nan_to_num())
    return model


# ----------------------------------------------------------------------------------------------------------- reference


@pytest.mark.parametrize("start", [False, "pissa", "pissa_niter_4", "olora", "gaussian", "orthogonal", True])
@pytest.mark.parametrize("cls", [GRPOTrainer, PPOTrainer, DPOTrainer])
def test_a_new_adapter_of_any_start_has_the_starting_policy_for_its_reference(tmp_path, folder, cls, start):
    trainer = made(cls, tmp_path, folder, tiny_lora(init_lora_weights=start))
    assert_reference_is_the_policy(trainer)
    # One that starts at 0 needs no copy
    assert ("ref" in trainer.model.peft_config) == (start not in (True, "gaussian", "orthogonal"))
    assert not any(p.requires_grad for name, p in trainer.model.named_parameters() if ".ref." in name)


def test_the_log_says_that_the_reference_is_a_copy(tmp_path, folder, caplog):
    with caplog.at_level(logging.WARNING, LOGGER):
        made(GRPOTrainer, tmp_path, folder, tiny_lora(init_lora_weights=False))
    assert "copy of the policy" in caplog.text
    assert "init_lora_weights=False" in caplog.text


@pytest.mark.parametrize(
    "config", [PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), IA3Config(task_type="CAUSAL_LM")]
)
def test_the_reference_of_other_adapters_is_the_policy_too(tmp_path, folder, config):
    if isinstance(config, IA3Config):
        config = IA3Config(
            task_type="CAUSAL_LM",
            target_modules=["k_proj", "down_proj"],
            feedforward_modules=["down_proj"],
            init_ia3_weights=False,
        )
    trainer = made(GRPOTrainer, tmp_path, folder, config)
    assert_reference_is_the_policy(trainer)


@pytest.mark.parametrize("cls", TRAINERS)
def test_the_reference_of_a_model_trained_in_memory_has_its_weights(tmp_path, folder, cls):
    model = tiny_model(tiny_tokenizer())
    model.config._name_or_path = folder
    moved(model)
    before = logps(model)
    trainer = made(cls, tmp_path, model)
    assert_reference_is_the_policy(trainer)
    assert torch.equal(logps(trainer.model), before)


def test_a_reference_of_another_shape_is_refused(tmp_path, folder):
    model = tiny_model(tiny_tokenizer(), hidden=32)
    model.config._name_or_path = folder
    with pytest.raises(ValueError, match=r"has other parameters .* Save the model and give its folder"):
        made(GRPOTrainer, tmp_path, model)


@pytest.mark.parametrize("cls", [GRPOTrainer, DPOTrainer])
@pytest.mark.parametrize("start", [True, "pissa", "olora"])
def test_a_trained_adapter_and_its_base_stay_as_they_are_given(tmp_path, cls, start):
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora(init_lora_weights=start))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    before = logps(model)
    trainer = made(cls, tmp_path, model)
    assert torch.equal(logps(trainer.model), before)
    assert_reference_is_the_policy(trainer)
    assert model.peft_config["default"].init_lora_weights == start


@pytest.mark.parametrize("cls", TRAINERS)
def test_an_adapter_that_is_not_named_default_is_refused_with_the_fix(tmp_path, cls):
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora(), adapter_name="mine")
    with pytest.raises(ValueError, match=r"named 'mine'.*without `adapter_name`"):
        made(cls, tmp_path, model)


def test_the_reference_is_a_copy_of_the_active_adapter(tmp_path):
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora())
    model.add_adapter("mine", tiny_lora(init_lora_weights=False))
    model.set_adapter("mine")
    trainer = made(GRPOTrainer, tmp_path, model)
    assert trainer.model.active_adapter == "mine"
    assert_reference_is_the_policy(trainer)


def test_dpos_first_loss_is_the_logarithm_of_2(tmp_path, folder):
    # At the starting policy the margin is 0, so the loss is -log sigmoid(0) = log 2
    for fields in ({}, {"precompute_ref_log_probs": True}):
        trainer = made(DPOTrainer, tmp_path, folder, tiny_lora(init_lora_weights="pissa"), max_steps=1, **fields)
        trainer.train()
        assert trainer.state.log_history[0]["loss"] == pytest.approx(0.693147, abs=1e-5)


def test_a_reference_that_was_chosen_is_kept_and_told(tmp_path, folder, caplog):
    chosen = moved(tiny_model(tiny_tokenizer()))
    before = logps(chosen)
    tokenizer = tiny_tokenizer()
    with caplog.at_level(logging.WARNING, LOGGER):
        trainer = DPOTrainer(
            folder,
            chosen,
            preference_args(DPOConfig, tmp_path),
            train_dataset=pairs(8),
            processing_class=tokenizer,
        )
    assert "`ref_model` is not the starting policy" in caplog.text
    assert torch.equal(logps(trainer.ref_model), before)


def test_construction_leaves_modes_and_random_numbers_alone(tmp_path):
    states = []
    for cls in (GRPOTrainer, trl.GRPOTrainer):
        model = tiny_model(tiny_tokenizer()).train()
        build(cls, tiny_args(tmp_path, cls=GRPOConfig), model=model, reward_funcs=share_reward)
        assert all(module.training for module in model.modules())
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


# ---------------------------------------------------------------------------------------------------- what is trained


def offline(cls, tmp_path, model):
    if cls is not RewardTrainer:
        return made(cls, tmp_path, model)
    args = preference_args(RewardConfig, tmp_path)
    return cls(model=model, args=args, train_dataset=pairs(8), processing_class=tiny_tokenizer())


@pytest.mark.parametrize("cls", [*TRAINERS, RewardTrainer])
def test_a_frozen_adapter_is_refused(tmp_path, cls):
    get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora()).save_pretrained(tmp_path / "adapter")
    model = PeftModel.from_pretrained(tiny_model(tiny_tokenizer()), str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=r"'default' of `model` has no parameter.*is_trainable=True"):
        offline(cls, tmp_path, model)


@pytest.mark.parametrize("cls", [*TRAINERS, RewardTrainer])
def test_a_frozen_model_is_refused(tmp_path, cls):
    model = tiny_model(tiny_tokenizer()).requires_grad_(False)
    with pytest.raises(ValueError, match="nothing would be trained"):
        offline(cls, tmp_path, model)


def test_a_trainable_adapter_that_is_not_active_is_refused(tmp_path):
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora())
    model.add_adapter("other", tiny_lora())
    for name, parameter in model.named_parameters():
        if ".other." in name:
            parameter.requires_grad_(True)
    with pytest.raises(ValueError, match=r"adapters that are not active.*other"):
        made(GRPOTrainer, tmp_path, model)


@pytest.mark.parametrize("cls", TRAINERS)
def test_a_parameter_that_the_loss_cannot_reach_is_refused(tmp_path, cls):
    model = tiny_model(tiny_tokenizer())
    model.value_head = torch.nn.Linear(16, 1)
    fields = {} if cls is DPOTrainer else {"beta": 0.0}
    with pytest.raises(ValueError, match=r"cannot be reached by the loss, e.g. 'value_head"):
        made(cls, tmp_path, model, **({"precompute_ref_log_probs": True} if cls is DPOTrainer else fields))


@pytest.mark.parametrize(
    "config",
    [
        tiny_lora(target_modules=["q_proj", "lm_head"]),
        tiny_lora(modules_to_save=["lm_head"]),
        tiny_lora(modules_to_save=["embed_tokens"]),
        LNTuningConfig(task_type="CAUSAL_LM", target_modules=["input_layernorm"]),
        LoraConfig(task_type="CAUSAL_LM", trainable_token_indices=[3, 4], target_modules=["q_proj"]),
    ],
)
def test_every_trained_parameter_is_reached_or_refused(tmp_path, folder, config):
    try:
        trainer = made(GRPOTrainer, tmp_path, folder, config, max_steps=1, num_generations=8)
    except ValueError as error:
        assert "reached by the loss" in str(error) or "never trains" in str(error)  # noqa: PT017
        return
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    trainer.train()
    assert trained
    assert trained == {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("trainer", "config"), [*ONLINE.items(), (DPOTrainer, DPOConfig), (RewardTrainer, RewardConfig)]
)
def test_no_model_at_all_is_one_line(tmp_path, trainer, config):
    rewards = {} if trainer in PREFERENCES else {"reward_funcs": parity_reward}
    args = config(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    with pytest.raises(ValueError, match=r"^`model` is None: give the name of a model"):
        trainer(model=None, args=args, train_dataset=plain_dataset(8), **rewards)
