"""Rollouts from an engine that gets dense weights, `W + s B A`, against a stand-in."""

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaForCausalLM

import stand_in_engine
from stand_in_engine import LLM
from test_adapter_engine import arguments, quantized_model, run
from tiny import share_reward, tiny_lora, tiny_model, tiny_tokenizer
from training import build
from trl_dapo import DAPOTrainer, GRPOTrainer
from trl_dapo.rollouts.dense_weights import dense_weights
from trl_dapo.rollouts.sync_check import SyncError


@pytest.mark.parametrize("sleeps", [False, True])
def test_the_engine_gets_what_the_policy_computes(tmp_path, monkeypatch, sleeps):
    engines = stand_in_engine.install(monkeypatch)
    result, rollouts, before = run(tmp_path, DAPOTrainer, vllm_sync="dense", vllm_enable_sleep_mode=sleeps)
    for one in rollouts:
        apart = (one["old_per_token_logps"] - one["sampling_per_token_logps"]) * one["completion_mask"]
        assert apart.abs().max() < 1e-5
    after = result.parameters
    assert all(torch.equal(after[name], value) for name, value in before.items() if "lora_" not in name)
    (engine,) = engines
    assert engine.arguments["quantization"] is None
    assert ("sleep 2" in engine.calls) == sleeps


class IgnoresWeights(LLM):
    def _load_weights(self, weights):
        list(weights)


def test_weights_that_did_not_arrive_stop_the_run(tmp_path, monkeypatch):
    stand_in_engine.install(monkeypatch, IgnoresWeights)
    with pytest.raises(SyncError, match=r"samples from the base.*vllm_sync='dense' did not reach"):
        run(tmp_path, vllm_sync="dense")


def test_dense_weights_compute_what_the_model_does(tmp_path):
    model = get_peft_model(quantized_model(tmp_path), tiny_lora(init_lora_weights=False))
    plain = type(model.get_base_model()).from_pretrained(tmp_path / "base", dtype=torch.float32)
    plain.load_state_dict(dict(dense_weights(model, "default", torch.float32)), strict=True)
    ids = torch.tensor([[20, 30, 40, 50]])
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, model.train()(ids).logits, atol=1e-5, rtol=0)


def test_biases_that_are_trained_are_sent():
    tokenizer = tiny_tokenizer()
    config = tiny_model(tokenizer).config
    config.attention_bias = True
    torch.manual_seed(0)
    model = get_peft_model(LlamaForCausalLM(config), tiny_lora(init_lora_weights=False, bias="lora_only"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_()
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(dict(dense_weights(model, "default", torch.float32)), strict=True)
    ids = torch.tensor([[20, 30, 40, 50]])
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, model(ids).logits, atol=1e-5, rtol=0)


def test_other_adapters_are_left_out():
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora(init_lora_weights=False, modules_to_save=["norm"]))
    before = {name: one.clone() for name, one in dense_weights(model, "default", torch.float32)}
    more = ["q_proj", "o_proj", "v_proj"]
    model.add_adapter("value", tiny_lora(init_lora_weights=False, target_modules=more, modules_to_save=["norm"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".value." in name:
                parameter.add_(1.0)
    after = dict(dense_weights(model, "default", torch.float32))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], one) for name, one in before.items())


def test_the_sum_is_rounded_once():
    # W = 1 in bfloat16, and the adapter adds 3/512. float32 has the sum; bfloat16 has 1 and 1 + 4/512 beside it, and
    # the second is nearer
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora(r=1, lora_alpha=1)).to(torch.bfloat16)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    with torch.no_grad():
        layer.base_layer.weight.fill_(1.0)
        layer.lora_A["default"].weight.fill_(1.0)
        layer.lora_B["default"].weight.fill_(3 / 512)
    sent = dict(dense_weights(model, "default", torch.float32))["model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(sent, torch.full_like(sent, 1 + 3 / 512))
    sent = dict(dense_weights(model, "default", torch.bfloat16))["model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(sent, torch.full_like(sent, 1 + 4 / 512))


@pytest.mark.parametrize("sync", [{"vllm_sync": "dense"}, {"vllm_base": "16bit"}])
def test_a_base_that_is_stored_in_4_bits_is_refused_by_name(tmp_path, monkeypatch, sync):
    engines = stand_in_engine.install(monkeypatch)
    quantized_model(tmp_path).save_pretrained(tmp_path / "stored")
    tiny_tokenizer().save_pretrained(tmp_path / "stored")
    with pytest.raises(ValueError, match=r"needs the base in 16 bits, and .*stored is stored quantized"):
        build(
            GRPOTrainer,
            arguments(tmp_path, GRPOTrainer, **sync),
            model=LlamaForCausalLM.from_pretrained(tmp_path / "stored", device_map="cpu"),
            peft_config=tiny_lora(),
            reward_funcs=share_reward,
        )
    assert not engines
