"""What a load leaves new: trained and saved in a reward model, refused everywhere else."""

import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from preferences import pairs, preference_args, reward_adapter, saved, tiny_reward_model
from tiny import plain_dataset, tiny_args, tiny_lora, tiny_model, tiny_tokenizer
from trl_dapo import DPOConfig, DPOTrainer, GRPOTrainer, RewardConfig, RewardModelFunction, RewardTrainer
from trl_dapo.reward_model.adapter import AdapterReward


# Body, and the linear layers that LoRA goes to
BODIES = {
    "deberta": (DebertaV2Config, DebertaV2ForMaskedLM, ["query_proj"]),
    "distilbert": (DistilBertConfig, DistilBertModel, ["q_lin"]),
    "roberta": (RobertaConfig, RobertaModel, ["query"]),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel, ["query"]),
    "electra": (ElectraConfig, ElectraModel, ["query"]),
}


def body(kind, folder):
    """A folder with an encoder as it comes from pretraining: without what classification adds to it."""
    config_class, model_class, _ = BODIES[kind]
    tokenizer = tiny_tokenizer()
    names = {"dim": 16, "hidden_dim": 16, "n_layers": 1, "n_heads": 2} if kind == "distilbert" else {}
    config = config_class(
        vocab_size=len(tokenizer),
        **(names or {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}),
        **({"embedding_size": 16} if kind == "electra" else {}),
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    return saved(folder, model_class(config), tokenizer)


def reward_trainer(model, folder, **kwargs):
    return RewardTrainer(
        model,
        args=preference_args(RewardConfig, folder, max_steps=2, learning_rate=1e-2),
        train_dataset=pairs(),
        processing_class=tiny_tokenizer(),
        **kwargs,
    )


def rewards_in_training(trainer):
    with torch.no_grad():
        rows = [torch.tensor([row["chosen_ids"]]) for row in trainer.train_dataset]
        return [trainer.model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.item() for ids in rows]


@pytest.mark.parametrize(
    ("kind", "targets"),
    [*((kind, "some") for kind in BODIES), ("deberta", "all-linear"), ("distilbert", "all-linear")],
)
def test_every_load_of_an_adapter_gives_the_rewards_of_training(tmp_path, kind, targets):
    # peft#876: `pooler.dense` of DeBERTa was random at each load
    lora = tiny_lora(target_modules=BODIES[kind][2] if targets == "some" else targets)
    trainer = reward_trainer(body(kind, tmp_path / "base"), tmp_path / "out", peft_config=lora)
    trainer.train()
    trainer.save_model(tmp_path / "model")
    expected = rewards_in_training(trainer)
    for seed in (1, 2):
        torch.manual_seed(seed)
        function = RewardModelFunction(tmp_path / "model", chunk_size=1)
        assert function(pairs()["prompt"], pairs()["chosen"]) == expected


def test_an_adapter_that_trains_the_embeddings_loads(tmp_path):
    base = saved(tmp_path / "base", tiny_model(tiny_tokenizer()))
    trainer = reward_trainer(base, tmp_path / "out", peft_config=tiny_lora(modules_to_save=["embed_tokens"]))
    trainer.train()
    trainer.save_model(tmp_path / "model")
    function = RewardModelFunction(tmp_path / "model", chunk_size=1)
    assert function(pairs()["prompt"], pairs()["chosen"]) == rewards_in_training(trainer)


@pytest.mark.parametrize("kind", ["deberta", "roberta"])
def test_a_model_that_is_already_loaded_is_looked_at_too(tmp_path, kind):
    base = body(kind, tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    trainer = reward_trainer(model, tmp_path / "out", peft_config=tiny_lora(target_modules=BODIES[kind][2]))
    saved_too = trainer.model.peft_config["default"].modules_to_save
    assert ("pooler.dense" in saved_too) == (kind == "deberta")
    # With the adapter on it already, it is too late
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model = get_peft_model(model, tiny_lora(target_modules=BODIES[kind][2], task_type="SEQ_CLS"))
    if kind == "roberta":
        reward_trainer(model, tmp_path / "out")
    else:
        with pytest.raises(ValueError, match=r"2 parameters .* frozen and not saved .*pooler\.dense\.weight"):
            reward_trainer(model, tmp_path / "out")


def cut(folder, *names):
    """Takes tensors out of a saved model."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({name: one for name, one in tensors.items() if name not in names}, path, metadata={"format": "pt"})
    return str(folder)


def test_a_whole_reward_model_that_lacks_a_tensor_is_refused(tmp_path):
    saved(tmp_path, tiny_reward_model())
    function = RewardModelFunction(cut(tmp_path, "model.layers.0.mlp.up_proj.weight"))
    with pytest.raises(ValueError, match=r"does not have 1 parameters .*model\.layers\.0\.mlp\.up_proj\.weight"):
        function(["1+1="], ["2"])


@pytest.mark.parametrize("trainer", ["grpo", "dpo"])
def test_a_policy_that_lacks_a_tensor_is_refused(tmp_path, trainer):
    folder = tmp_path / "model"
    saved(folder, tiny_model(tiny_tokenizer()))
    folder = cut(folder, "model.norm.weight")
    make = {
        "dpo": lambda: DPOTrainer(folder, args=preference_args(DPOConfig, tmp_path), train_dataset=pairs()),
        "grpo": lambda: GRPOTrainer(folder, len, tiny_args(tmp_path), plain_dataset(64)),
    }
    with pytest.raises(ValueError, match=r"does not have 1 parameters of LlamaForCausalLM.*model\.norm\.weight"):
        make[trainer]()


def test_an_adapter_that_lacks_a_tensor_is_refused(tmp_path):
    base = saved(tmp_path / "base", tiny_model(tiny_tokenizer()))
    folder = tmp_path / "model"
    reward_adapter(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
    RewardModelFunction(folder)(["1+1="], ["2"])
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_B" in name)
    save_file({one: tensor for one, tensor in tensors.items() if one != name}, path)
    with pytest.raises(ValueError, match=r"does not fit the base .* lacks .*lora_B"):
        RewardModelFunction(folder)(["1+1="], ["2"])
    reward = AdapterReward(str(folder))
    policy = get_peft_model(AutoModelForCausalLM.from_pretrained(base), tiny_lora())
    policy.get_base_model().score = torch.nn.Linear(16, 1, bias=False)
    with pytest.raises(ValueError, match=r"lacks .*lora_B"):
        reward.attach(policy, tiny_tokenizer(), 4)


def test_transformers_report_of_more_than_the_head_is_not_hidden(tmp_path, caplog):
    import logging

    trainer = reward_trainer(
        body("deberta", tmp_path / "base"), tmp_path / "out", peft_config=tiny_lora(target_modules=["query_proj"])
    )
    trainer.save_model(tmp_path / "model")
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.WARNING):
        RewardModelFunction(tmp_path / "model")(["1+1="], ["2"])
    logging.getLogger("transformers").propagate = False
    assert "pooler.dense.weight" in caplog.text
    assert isinstance(trainer.model, PeftModel)
