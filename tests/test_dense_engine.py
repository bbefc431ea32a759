"""Rollouts from an engine that gets dense weights, `W + s B A`, against a stand-in."""

import pytest
import torch
from peft import get_peft_model

import stand_in_engine
from stand_in_engine import LLM
from test_adapter_engine import quantized_model, run
from tiny import tiny_lora
from trl_dapo import DAPOTrainer
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
