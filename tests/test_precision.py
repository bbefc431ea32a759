"""The precision of trainable parameters on a quantized base, and that nothing clashes."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from preferences import lora_a, nf4, pairs, preference_args, saved
from tiny import snapshot, tiny_lora, tiny_model, tiny_tokenizer
from trl_dapo import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer
from trl_dapo.qlora.precision import adapters_kept, is_quantized, set_adapter_dtype, takes_any_float


TRAINERS = {"dpo": (DPOTrainer, DPOConfig), "reward": (RewardTrainer, RewardConfig)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    tokenizer = tiny_tokenizer()
    return saved(tmp_path_factory.mktemp("base"), tiny_model(tokenizer, hidden=64), tokenizer)


def quantized(base, dtype=torch.float32, task="CAUSAL_LM", **kwargs):
    cls = {"CAUSAL_LM": AutoModelForCausalLM, "SEQ_CLS": AutoModelForSequenceClassification}[task]
    labels = {"num_labels": 1} if task == "SEQ_CLS" else {}
    model = cls.from_pretrained(base, quantization_config=nf4(dtype), dtype=dtype, **labels)
    return get_peft_model(model, tiny_lora(task_type=task, **kwargs))


def dtypes(model):
    return {p.dtype for p in model.parameters() if p.requires_grad}


def as_trl_leaves_it(model):
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_trainable_parameters_take_the_dtype(base, name):
    model = as_trl_leaves_it(quantized(base))
    frozen = {n: p.dtype for n, p in model.named_parameters() if not p.requires_grad}
    set_adapter_dtype(model, name)
    assert dtypes(model) == {getattr(torch, name)}
    assert {n: p.dtype for n, p in model.named_parameters() if not p.requires_grad} == frozen


def test_the_magnitudes_of_dora_stay_float32(base):
    model = quantized(base, use_dora=True)
    set_adapter_dtype(model, "bfloat16")
    assert {p.dtype for n, p in model.named_parameters() if "lora_magnitude_vector" in n} == {torch.float32}
    assert {p.dtype for n, p in model.named_parameters() if "lora_A" in n} == {torch.bfloat16}


def test_a_model_that_is_not_quantized_is_left_alone():
    model = get_peft_model(tiny_model(tiny_tokenizer()).to(torch.bfloat16), tiny_lora())
    before = {name: p.dtype for name, p in model.named_parameters()}
    set_adapter_dtype(model, "bfloat16")
    assert not is_quantized(model)
    assert {name: p.dtype for name, p in model.named_parameters()} == before


def test_an_unknown_dtype_is_refused(base):
    with pytest.raises(ValueError, match=r"`adapter_dtype` must be one of .*'float32'.*got 'float16'"):
        set_adapter_dtype(nn.Linear(1, 1), "float16")
    for config in (DPOConfig, RewardConfig):
        with pytest.raises(ValueError, match="adapter_dtype"):
            preference_args(config, "x", adapter_dtype="float16")


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_float32_head_takes_hidden_states_of_any_dtype(base, dtype, checkpointing, autocast):
    model = as_trl_leaves_it(quantized(base, dtype, task="SEQ_CLS"))
    model.config.pad_token_id = 0
    set_adapter_dtype(model)
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(input_ids=torch.tensor([[20, 21, 22], [23, 24, 25]])).logits.float().square().sum()
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert {g.dtype for g in gradients.values()} == {torch.float32}
    assert all(g.abs().max() > 0 for n, g in gradients.items() if "lora_B" in n or "score" in n)


def test_the_cast_is_added_once():
    layer = nn.Linear(2, 1)
    for _ in range(2):
        takes_any_float(layer)
    assert len(layer._forward_pre_hooks) == 1
    assert layer(torch.ones(1, 2, dtype=torch.bfloat16)).dtype == torch.float32


def test_adapters_are_kept_to_the_last_digit(base):
    model = quantized(base)
    before = snapshot(model)
    with adapters_kept(model):
        as_trl_leaves_it(model)
        assert dtypes(model) == {torch.bfloat16}
    after = snapshot(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_is_not_quantized_is_not_kept():
    layer = nn.Linear(2, 1)
    with adapters_kept(layer), adapters_kept("name of a model"):
        layer.weight.data.zero_()
    assert layer.weight.abs().sum() == 0


# ----------------------------------------------------------------------------------------------------- in the trainers


def build(kind, base, tmp_path, **fields):
    trainer, config = TRAINERS[kind]
    args = preference_args(config, tmp_path, **{"learning_rate": 1e-6, "max_steps": 2, **fields})
    return trainer(
        base,
        args=args,
        train_dataset=pairs(8),
        processing_class=tiny_tokenizer(),
        quantization_config=nf4(),
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", sorted(TRAINERS))
def test_two_small_steps_move_nearly_every_entry(base, tmp_path, kind, checkpointing):
    trainer = build(kind, base, tmp_path, gradient_checkpointing=checkpointing)
    assert is_quantized(trainer.model)
    assert dtypes(trainer.model) == {torch.float32}
    before = lora_a(trainer.model)
    trainer.train()
    assert (lora_a(trainer.model) != before).float().mean() > 0.99


@pytest.mark.parametrize("kind", sorted(TRAINERS))
def test_bfloat16_adapters_lose_small_steps_as_in_trl(base, tmp_path, kind):
    trainer = build(kind, base, tmp_path, adapter_dtype="bfloat16", bf16=True)
    assert dtypes(trainer.model) == {torch.bfloat16}
    before = lora_a(trainer.model)
    trainer.train()
    assert (lora_a(trainer.model) != before).float().mean() < 0.2


@pytest.mark.parametrize("kind", sorted(TRAINERS))
@pytest.mark.parametrize("bf16", [False, True])
def test_a_base_of_bfloat16_trains_with_and_without_autocast(base, tmp_path, kind, bf16):
    trainer = build(kind, base, tmp_path, bf16=bf16, model_init_kwargs={"dtype": "bfloat16"}, max_steps=1)
    assert dtypes(trainer.model) == {torch.float32}
    trainer.train()
    assert trainer.state.global_step == 1


def test_a_trained_adapter_is_not_rounded(base, tmp_path):
    model = quantized(base)
    before = lora_a(model)
    args = preference_args(DPOConfig, tmp_path)
    trainer = DPOTrainer(model, args=args, train_dataset=pairs(8), processing_class=tiny_tokenizer())
    assert torch.equal(lora_a(trainer.model), before)
