"""Training that goes on from an adapter in a folder: in all five trainers, with what belongs to the adapter."""

import logging
import shutil

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from preferences import pairs, preference_args, saved, tiny_reward_model
from tiny import plain_dataset, share_reward, tiny_args, tiny_lora, tiny_model, tiny_tokenizer
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
    RewardModelFunction,
    RewardTrainer,
)


POLICIES = {
    "grpo": (GRPOTrainer, GRPOConfig),
    "dapo": (DAPOTrainer, DAPOConfig),
    "ppo": (PPOTrainer, PPOConfig),
    "dpo": (DPOTrainer, DPOConfig),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("base"), tiny_model(tiny_tokenizer()))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, base):
    """A trained adapter: not at zero."""
    torch.manual_seed(5)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), tiny_lora(init_lora_weights=False))
    return saved(tmp_path_factory.mktemp("adapter"), model)


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("reward")
    trainer = reward_trainer(base, folder, peft_config=tiny_lora(), max_steps=20)
    trainer.train()
    trainer.save_model(folder)
    return str(folder)


def reward_trainer(model, folder, max_steps=1, **kwargs):
    args = preference_args(RewardConfig, folder, max_steps=max_steps, learning_rate=1e-2)
    return RewardTrainer(model, args=args, train_dataset=pairs(), eval_dataset=pairs(), **kwargs)


def policy_trainer(kind, model, folder, **kwargs):
    cls, config = POLICIES[kind]
    if kind == "dpo":
        return cls(model, args=preference_args(config, folder, max_steps=1), train_dataset=pairs(), **kwargs)
    fields = {"overlong_filtering": False, "dynamic_sampling": False} if kind == "dapo" else {}
    args = tiny_args(folder, cls=config, max_steps=1, beta=0.1, **fields)
    return cls(model, reward_funcs=share_reward, args=args, train_dataset=plain_dataset(64), **kwargs)


def logits(model, ids=((20, 21, 22),)):
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(ids)).logits


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("config", [None, tiny_lora()])
def test_a_policy_goes_on_from_an_adapter_in_a_folder(base, adapter, tmp_path, kind, config):
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    trainer = policy_trainer(kind, adapter, tmp_path / "out", peft_config=config)
    assert torch.equal(logits(trainer.model), logits(expected))
    assert not torch.equal(logits(trainer.model), logits(AutoModelForCausalLM.from_pretrained(base)))
    trainer.train()
    trainer.save_model(tmp_path / "model")
    found = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "model")
    assert torch.equal(logits(found), logits(trainer.model))
    assert not torch.equal(logits(found), logits(expected))


@pytest.mark.parametrize("config", [None, tiny_lora()])
def test_a_reward_model_goes_on_from_an_adapter_in_a_folder(reward_folder, tmp_path, config):
    # From scratch, the margin is near 0
    before = reward_trainer(reward_folder, tmp_path / "out", peft_config=config)
    margin = before.evaluate()["eval_margin"]
    assert margin > 0.5
    rewards = RewardModelFunction(reward_folder)(pairs()["prompt"], pairs()["chosen"])
    others = RewardModelFunction(reward_folder)(pairs()["prompt"], pairs()["rejected"])
    assert margin == pytest.approx(sum(a - b for a, b in zip(rewards, others, strict=True)) / 16, abs=1e-4)
    before.train()
    before.save_model(tmp_path / "model")
    after = RewardModelFunction(tmp_path / "model")(pairs()["prompt"], pairs()["chosen"])
    assert after != rewards
    assert before.evaluate()["eval_margin"] != margin


def test_what_differs_in_peft_config_is_named_once(adapter, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        policy_trainer("dpo", adapter, tmp_path, peft_config=tiny_lora(r=3, lora_alpha=7))
    assert "as it is, with r=4 and not 3, lora_alpha=8 and not 7 of `peft_config`" in caplog.text
    from peft import IA3Config

    with pytest.raises(ValueError, match=r"`peft_config` is of type .*IA3, and the adapter .* of type .*LORA"):
        policy_trainer(
            "dpo", adapter, tmp_path, peft_config=IA3Config(target_modules=["q_proj"], feedforward_modules=[])
        )


def test_an_adapter_for_another_task_is_refused(adapter, reward_folder, tmp_path):
    with pytest.raises(ValueError, match=r"task_type='SEQ_CLS', and this trainer goes on from 'CAUSAL_LM'"):
        policy_trainer("dpo", reward_folder, tmp_path)
    with pytest.raises(ValueError, match=r"task_type='CAUSAL_LM', and this trainer goes on from .*SEQ_CLS"):
        reward_trainer(adapter, tmp_path)


@pytest.mark.parametrize("kind", [*POLICIES, "reward"])
def test_a_model_with_an_adapter_of_transformers_is_refused(adapter, reward_folder, tmp_path, kind):
    # It would be trained, and `save_model` would fail afterwards
    if kind == "reward":
        model = AutoModelForSequenceClassification.from_pretrained(reward_folder, num_labels=1)
    else:
        model = AutoModelForCausalLM.from_pretrained(adapter)
    with pytest.raises(ValueError, match=r"into which transformers has put an adapter.*Pass the adapter's folder"):
        reward_trainer(model, tmp_path) if kind == "reward" else policy_trainer(kind, model, tmp_path)


def test_the_tokenizer_is_that_of_the_adapter(base, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{% for message in messages %}#{{ message.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    trainer = policy_trainer("dpo", str(folder), tmp_path / "out")
    assert trainer.processing_class.chat_template == tokenizer.chat_template


def grown(base, folder, cls, bring=True, **kwargs):
    """An adapter whose tokenizer has tokens that its base does not have."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<more>", "<less>"])
    torch.manual_seed(6)
    model = cls.from_pretrained(base, **kwargs)
    model.resize_token_embeddings(len(tokenizer))
    task = "SEQ_CLS" if kwargs else "CAUSAL_LM"
    model = get_peft_model(model, tiny_lora(init_lora_weights=False, task_type=task))
    model.save_pretrained(folder, save_embedding_layers=bring)
    tokenizer.save_pretrained(folder)
    return str(folder), model


def test_adapters_with_added_tokens_load(base, tmp_path):
    policy, model = grown(base, tmp_path / "policy", AutoModelForCausalLM)
    new = len(tiny_tokenizer())
    trainer = policy_trainer("dpo", policy, tmp_path / "out")
    assert torch.equal(logits(trainer.model, [[20, new, new + 1]]), logits(model, [[20, new, new + 1]]))
    reward, model = grown(base, tmp_path / "reward", AutoModelForSequenceClassification, num_labels=1)
    found = RewardModelFunction(reward)(["1+<more>="], ["<less>"])
    model.config.pad_token_id = 0
    ids = AutoTokenizer.from_pretrained(reward)("1+<more>=<less><|im_end|>")["input_ids"]
    assert new in ids
    assert found == [logits(model, [ids]).item()]
    # The next one stands on the same base without them
    reward, _ = grown(base, tmp_path / "bare", AutoModelForSequenceClassification, bring=False, num_labels=1)
    with pytest.raises(ValueError, match=r"those of the added tokens would be random"):
        RewardModelFunction(reward)(["1+<more>="], ["<less>"])


def test_a_base_that_was_moved_is_named_at_construction(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, "base")
    trainer = reward_trainer("base", tmp_path / "out", peft_config=tiny_lora())
    trainer.save_model("reward")
    expected = RewardModelFunction("reward")(["1+1="], ["2"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"trained on the base 'base', and there is no such model here.*`base=`"):
        RewardModelFunction(tmp_path / "reward")
    assert RewardModelFunction(tmp_path / "reward", base=str(tmp_path / "base"))(["1+1="], ["2"]) == expected
    with pytest.raises(ValueError, match=r"`model`=.* was trained on the base 'base', and there is no such model"):
        reward_trainer(str(tmp_path / "reward"), tmp_path / "more")


def test_a_model_of_another_size_in_the_place_of_the_base_is_refused(base, reward_folder, tmp_path):
    other = saved(tmp_path, tiny_model(tiny_tokenizer(), hidden=64))
    with pytest.raises(ValueError, match=r"does not fit the base"):
        RewardModelFunction(reward_folder, base=other)(["1+1="], ["2"])
    model = tiny_reward_model()
    assert RewardModelFunction(model, tiny_tokenizer())(["1+1="], ["2"])
