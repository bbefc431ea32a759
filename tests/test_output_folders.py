"""A folder never ends up with two models, and a run never saves over the model that it started from."""

import logging

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from preferences import pairs, preference_args, saved
from tiny import plain_dataset, share_reward, tiny_args, tiny_lora, tiny_model, tiny_tokenizer
from trl_dapo import (
    DPOConfig,
    DPOTrainer,
    GRPOTrainer,
    PPOConfig,
    PPOTrainer,
    RewardConfig,
    RewardModelFunction,
    RewardTrainer,
)
from trl_dapo.host.adapter_folders import is_adapter
from trl_dapo.host.output_folders import EARLIER_FILES


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("base"), tiny_model(tiny_tokenizer()))


def dpo(model, folder, **kwargs):
    kwargs.setdefault("processing_class", tiny_tokenizer())
    args = preference_args(DPOConfig, folder, max_steps=1, learning_rate=1e-2)
    return DPOTrainer(model, args=args, train_dataset=pairs(), **kwargs)


def build(kind, model, folder, **kwargs):
    if kind == "dpo":
        return dpo(model, folder, **kwargs)
    if kind == "reward":
        args = preference_args(RewardConfig, folder, max_steps=1)
        return RewardTrainer(model, args=args, train_dataset=pairs(), processing_class=tiny_tokenizer(), **kwargs)
    cls, config = (PPOTrainer, {"cls": PPOConfig}) if kind == "ppo" else (GRPOTrainer, {})
    functions = kwargs.pop("reward_funcs", share_reward)
    return cls(
        model, functions, tiny_args(folder, **config), plain_dataset(64), processing_class=tiny_tokenizer(), **kwargs
    )


def names(folder):
    return {one.name for one in folder.iterdir()}


@pytest.mark.parametrize("kind", ["dpo", "grpo", "ppo", "reward"])
def test_a_whole_model_over_an_adapter_is_the_one_that_loads(base, tmp_path, kind, caplog):
    build(kind, base, tmp_path / "out", peft_config=tiny_lora()).save_model(tmp_path / "model")
    trainer = build(kind, base, tmp_path / "out")
    trainer.train()
    with caplog.at_level(logging.WARNING):
        trainer.save_model(tmp_path / "model")
    assert "held another model (adapter_config.json, adapter_model.safetensors" in caplog.text
    assert not is_adapter(str(tmp_path / "model"))
    found = load_file(tmp_path / "model" / "model.safetensors")
    assert torch.equal(found["model.norm.weight"], trainer.accelerator.unwrap_model(trainer.model).model.norm.weight)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names(tmp_path / "model" / EARLIER_FILES)


def test_an_adapter_over_a_whole_model_is_the_one_that_loads(base, tmp_path, caplog):
    dpo(base, tmp_path / "out").save_model(tmp_path / "model")
    trainer = dpo(base, tmp_path / "out", peft_config=tiny_lora())
    with caplog.at_level(logging.WARNING):
        trainer.save_model(tmp_path / "model")
    assert "held another model (config.json, model.safetensors)" in caplog.text
    assert is_adapter(str(tmp_path / "model"))
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "model")
    assert names(tmp_path / "model" / EARLIER_FILES) == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    "stale", ["model.safetensors.index.json", "pytorch_model.bin", "model-00001-of-00002.safetensors"]
)
def test_other_files_of_weights_are_set_aside(base, tmp_path, stale):
    trainer = dpo(base, tmp_path / "out")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / stale).write_text("{}")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    trainer.save_model(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert stale not in names(tmp_path / "model")
    assert names(tmp_path / "model" / EARLIER_FILES) == {stale}
    assert "notes.txt" in names(tmp_path / "model")


def test_a_chat_template_of_an_earlier_model_is_set_aside(base, tmp_path):
    dpo(base, tmp_path / "out").save_model(tmp_path / "model")
    dpo(base, tmp_path / "out", processing_class=tiny_tokenizer(chat=False)).save_model(tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template is None
    assert names(tmp_path / "model" / EARLIER_FILES) == {"chat_template.jinja"}


def test_the_same_model_saved_again_leaves_nothing_aside(base, tmp_path, caplog):
    trainer = build("reward", base, tmp_path / "out")
    trainer.train()
    for _ in range(3):
        trainer.save_model(tmp_path / "model")
    assert EARLIER_FILES not in names(tmp_path / "model")
    assert "held another model" not in caplog.text
    assert "reward_statistics.json" in names(tmp_path / "model")


def test_a_save_that_fails_leaves_what_was_there(base, tmp_path, monkeypatch):
    trainer = dpo(base, tmp_path / "out")
    trainer.save_model(tmp_path / "model")
    before = names(tmp_path / "model")
    monkeypatch.setattr(type(trainer.model), "save_pretrained", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.save_model(tmp_path / "model")
    assert names(tmp_path / "model") == before


@pytest.mark.parametrize("kind", ["dpo", "grpo", "ppo", "reward"])
def test_the_folder_of_the_model_is_no_output_dir(base, kind):
    for folder in (base, f"{base}/.", f"{base}/../{base.rpartition('/')[2]}"):
        with pytest.raises(ValueError, match=r"output_dir=.* is the folder of `model` .*Name another folder"):
            build(kind, base, folder)
    with pytest.raises(ValueError, match=r"is the folder of `model`"):
        build(kind, AutoModelForCausalLM.from_pretrained(base), base)


def test_the_folder_of_a_reward_model_is_no_output_dir(base, tmp_path):
    reward = build("reward", base, tmp_path / "reward")
    reward.save_model()
    for given in (str(tmp_path / "reward"), RewardModelFunction(tmp_path / "reward")):
        with pytest.raises(ValueError, match=r"is the folder of `reward_funcs`"):
            build("grpo", base, tmp_path / "reward", reward_funcs=[given])


def test_a_model_is_not_saved_over_the_one_it_started_from(tmp_path, caplog):
    base = saved(tmp_path / "base", tiny_model(tiny_tokenizer()))
    before = (tmp_path / "base" / "model.safetensors").read_bytes()
    trainer = dpo(base, tmp_path / "out")
    trainer.train()
    with caplog.at_level(logging.WARNING):
        trainer.save_model(base)
    assert f"The trained one is saved to {base}-trained" in caplog.text
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == before
    assert (tmp_path / "base-trained" / "model.safetensors").read_bytes() != before


def test_a_folder_with_two_models_is_refused(base, tmp_path):
    folder = saved(tmp_path / "both", tiny_model(tiny_tokenizer()))
    (tmp_path / "both" / "adapter_model.safetensors").write_bytes(b"")
    for use in (lambda: dpo(folder, tmp_path / "out"), lambda: RewardModelFunction(folder)):
        with pytest.raises(ValueError, match=r"holds the weights of two models \(model.safetensors, adapter_model"):
            use()
