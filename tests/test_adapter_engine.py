"""Rollouts from an engine that gets the adapter, against a stand-in that keeps vLLM's rules."""

import pytest
import torch
from transformers import BitsAndBytesConfig, LlamaForCausalLM

import stand_in_engine
from stand_in_engine import LLM
from tiny import save_tiny_model, share_reward, snapshot, tiny_args, tiny_lora, tiny_tokenizer
from training import build, dapo_args, record_rollouts, train
from trl_dapo import DAPOTrainer, GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer
from trl_dapo.rollouts.sync_check import SyncError


def quantized_model(folder):
    path = save_tiny_model(folder / "base", tiny_tokenizer())
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    return LlamaForCausalLM.from_pretrained(path, quantization_config=config, dtype=torch.float32, device_map="cpu")


def arguments(folder, cls=DAPOTrainer, **fields):
    own = {"use_vllm": True, "vllm_mode": "colocate", "learning_rate": 0.05, **fields}
    if cls is DAPOTrainer:
        return dapo_args(folder, **{"warmup_steps": 0, "overlong_filtering": False, **own})
    return tiny_args(folder, cls=GRPOConfig, **own)


def run(folder, cls=DAPOTrainer, **fields):
    rollouts, before = [], []

    def prepare(trainer):
        rollouts.append(record_rollouts(trainer))
        before.append(snapshot(trainer.model))

    result = train(
        cls,
        arguments(folder, cls, **fields),
        model=quantized_model(folder),
        # With a B that is not 0, so that base and policy differ
        peft_config=tiny_lora(init_lora_weights=False),
        reward_funcs=share_reward,
        prepare=prepare,
    )
    return result, rollouts[0], before[0]


@pytest.mark.parametrize("sleeps", [False, True])
@pytest.mark.parametrize("cls", [DAPOTrainer, GRPOTrainer])
def test_the_engine_samples_from_the_policy_that_is_trained(tmp_path, monkeypatch, cls, sleeps):
    engines = stand_in_engine.install(monkeypatch)
    result, rollouts, before = run(tmp_path, cls, vllm_enable_sleep_mode=sleeps)
    assert len(rollouts) >= 2
    for one in rollouts:
        apart = (one["old_per_token_logps"] - one["sampling_per_token_logps"]) * one["completion_mask"]
        assert apart.abs().max() < 1e-5
    after = result.parameters
    assert all(torch.equal(after[name], value) for name, value in before.items() if "lora_" not in name)
    assert any(not torch.equal(after[name], value) for name, value in before.items() if "lora_" in name)
    assert max(log["rollout/sync_difference"] for log in result.logs if "rollout/sync_difference" in log) < 1e-5
    (engine,) = engines
    # What was kept of prompts belongs to the adapter before
    loads = [place for place, call in enumerate(engine.calls) if call == "add_lora"]
    assert len(loads) >= 2
    assert all(engine.calls[place + 1] == "reset_prefix_cache" for place in loads)
    assert "sleep 2" not in engine.calls
    assert ("sleep 1" in engine.calls) == sleeps
    given = engine.arguments
    assert (given["quantization"], given["load_format"], given["max_lora_rank"]) == ("bitsandbytes", "bitsandbytes", 8)


class IgnoresRequests(LLM):
    def _logits(self, ids, request):
        return super()._logits(ids, None)


class KeepsTheFirst(LLM):
    def _add_lora(self, lora_request):
        lora_request.load_inplace = False
        return super()._add_lora(lora_request)


class LosesTheBase(LLM):
    def sleep(self, level=1, mode="abort"):
        super().sleep(level=2)


CONTROLS = [
    (IgnoresRequests, r"samples from the base"),
    (KeepsTheFirst, r"samples from the policy of the sync before"),
    (LosesTheBase, r"above vllm_sync_tolerance=0\.01"),
]


@pytest.mark.parametrize(("engine", "message"), CONTROLS)
def test_an_engine_with_another_policy_stops_the_run(tmp_path, monkeypatch, engine, message):
    stand_in_engine.install(monkeypatch, engine)
    with pytest.raises(SyncError, match=message):
        # A tiny random model is nearly uniform with any weights: its differences are small
        run(tmp_path, vllm_enable_sleep_mode=True, vllm_sync_tolerance=0.01)


REFUSED = [
    ({"vllm_mode": "server"}, {}, r"vllm_mode='server' with vllm_sync='adapter'.*colocate"),
    ({"vllm_tensor_parallel_size": 2}, {}, r"vllm_tensor_parallel_size=2"),
    ({"vllm_sync": "merged"}, {}, r"vllm_sync='merged' with a 4-bit model.*packed integers"),
    ({"vllm_sync": "all"}, {}, r"`vllm_sync` must be one of"),
    ({"vllm_sync_tolerance": 0.0}, {}, r"`vllm_sync_tolerance` must be above 0"),
    ({}, {"r": 513}, r"r=513 is above vLLM's largest LoRA rank, 512"),
    ({}, {"use_dora": True}, r"use_dora=True with vllm_sync='adapter'"),
    ({}, {"target_modules": ["embed_tokens"]}, r"target_modules has 'embed_tokens'"),
]


@pytest.mark.parametrize(("fields", "lora", "message"), REFUSED)
def test_what_the_engine_cannot_have_is_refused_by_name(tmp_path, monkeypatch, fields, lora, message):
    engines = stand_in_engine.install(monkeypatch)
    with pytest.raises(ValueError, match=message):
        build(
            GRPOTrainer,
            arguments(tmp_path, GRPOTrainer, **fields),
            model=quantized_model(tmp_path),
            peft_config=tiny_lora(**lora),
            reward_funcs=share_reward,
        )
    assert not engines


def test_8_bit_is_refused_by_name(tmp_path):
    path = save_tiny_model(tmp_path / "model", tiny_tokenizer())
    with pytest.raises(ValueError, match=r"use_vllm=True with load_in_8bit"):
        build(
            GRPOTrainer,
            arguments(tmp_path, GRPOTrainer),
            model=path,
            quantization_config=BitsAndBytesConfig(load_in_8bit=True),
            peft_config=tiny_lora(),
            reward_funcs=share_reward,
        )


@pytest.mark.parametrize("sleeps", [False, True])
def test_the_engine_samples_for_ppo(tmp_path, monkeypatch, sleeps):
    engines = stand_in_engine.install(monkeypatch)
    args = tiny_args(tmp_path, cls=PPOConfig, use_vllm=True, vllm_mode="colocate", max_steps=6)
    args.vllm_enable_sleep_mode = sleeps
    rollouts, values = [], []

    def prepare(trainer):
        rollouts.append(record_rollouts(trainer))
        values.append({name: one.clone() for name, one in snapshot(trainer.model).items() if ".value." in name})

    result = train(
        PPOTrainer,
        args,
        model=quantized_model(tmp_path),
        peft_config=tiny_lora(init_lora_weights=False),
        reward_funcs=share_reward,
        prepare=prepare,
    )
    assert len(engines) == 1
    # Asking for the base's log-probabilities has not frozen the critic
    after = snapshot(result.trainer.model)
    assert values[0]
    assert not all(torch.equal(after[name], one) for name, one in values[0].items())
    assert len(rollouts[0]) >= 2
    found = [log["rollout/sync_difference"] for log in result.logs if "rollout/sync_difference" in log]
    assert found
    assert max(found) < 1e-5


def test_a_run_goes_on_from_a_checkpoint(tmp_path, monkeypatch):
    stand_in_engine.install(monkeypatch)
    run(tmp_path, save_strategy="steps", save_steps=2, max_steps=2)
    found = train(
        DAPOTrainer,
        arguments(tmp_path, max_steps=4),
        model=quantized_model(tmp_path),
        peft_config=tiny_lora(init_lora_weights=False),
        reward_funcs=share_reward,
        resume=str(tmp_path / "checkpoint-2"),
    )
    assert found.trainer.state.global_step == 4
    found = [log["rollout/sync_difference"] for log in found.logs if "rollout/sync_difference" in log]
    assert max(found) < 1e-5
