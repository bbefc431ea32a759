"""An engine whose probabilities are not the trainer's: the diagnosis tells, and with the same weights it does not."""

import pytest
import torch

import stand_in_engine
from stand_in_engine import LLM
from test_adapter_engine import arguments, quantized_model
from tiny import share_reward, tiny_lora
from training import train
from trl_dapo import DiagnosisCallback, GRPOTrainer


class Apart(LLM):
    """Adds the same noise to the logits of each token."""

    def _logits(self, ids, request):
        logits = super()._logits(ids, request)
        return logits + 2.0 * torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(("engine", "apart"), [(Apart, True), (LLM, False)])
def test_a_sampler_apart_from_the_trainer_is_told_within_four_rollouts(engine, apart, tmp_path, monkeypatch):
    stand_in_engine.install(monkeypatch, engine)
    callback = DiagnosisCallback()
    train(
        GRPOTrainer,
        arguments(tmp_path, GRPOTrainer, vllm_sync_tolerance=1e6, max_steps=6, learning_rate=1e-3),
        model=quantized_model(tmp_path),
        peft_config=tiny_lora(init_lora_weights=False),
        reward_funcs=share_reward,
        callbacks=[callback],
    )
    found = [one for one in callback.findings if one.rule == "sampler_apart"]
    assert bool(found) == apart
    if apart:
        assert found[0].step <= 4
    # A random model hardly ends, and plain prompts pass the template of this tokenizer over
    others = {one.rule for one in callback.findings} - {"sampler_apart"}
    assert others <= {"no_chat_template", "truncated_at_start"}
