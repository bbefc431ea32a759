"""What of an adapter reaches an engine: the policy's alone, all that it computes, or a refusal by name."""

import logging
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

import stand_in_engine
from stand_in_engine import LLM
from test_adapter_engine import arguments, quantized_model
from test_engine_runs import go
from tiny import save_tiny_model, share_reward, tiny_args, tiny_lora, tiny_model, tiny_tokenizer
from training import build, record_rollouts, train
from trl_dapo import GRPOTrainer, PPOConfig, PPOTrainer
from trl_dapo.rollouts import dense_engine
from trl_dapo.rollouts.dense_engine import DenseSync
from trl_dapo.rollouts.engine_settings import EngineSettings
from trl_dapo.rollouts.servable import policy_adapter


# Kinds of adapters


def plain_model(folder, **fields):
    path = save_tiny_model(folder / "base", tiny_tokenizer(), **fields)
    return LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)


SERVED = {
    "rslora": {"use_rslora": True},
    "all_linear": {"target_modules": "all-linear"},
    "rank_16": {"r": 16, "lora_alpha": 4},
    "dropout": {"lora_dropout": 0.3},
    "two_layers": {"layers_to_transform": [0]},
}
ADDED = SERVED | {
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "saved_norm": {"modules_to_save": ["norm"]},
    "patterns": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    "pissa": {"init_lora_weights": "pissa"},
}
CASES = [("adapter", name) for name in SERVED] + [("dense", name) for name in ADDED]


@pytest.mark.parametrize(("sync", "name"), CASES)
def test_the_engine_computes_what_the_adapter_does(tmp_path, monkeypatch, sync, name):
    stand_in_engine.install(monkeypatch)
    lora = tiny_lora(**{"init_lora_weights": False, **ADDED[name]})
    rollouts = []
    torch.manual_seed(0)
    fields = {"vllm_sync": sync, "learning_rate": 0.05, "disable_dropout": True}
    trainer = train(
        GRPOTrainer,
        arguments(tmp_path, GRPOTrainer, max_steps=2, **fields),
        model=plain_model(tmp_path, layers=2),
        peft_config=lora,
        reward_funcs=share_reward,
        prepare=lambda trainer: rollouts.append(record_rollouts(trainer)),
    )
    assert len(rollouts[0]) == 2
    for one in rollouts[0]:
        apart = (one["old_per_token_logps"] - one["sampling_per_token_logps"]) * one["completion_mask"]
        assert apart.abs().max() < 1e-5
    found = [log["rollout/sync_difference"] for log in trainer.logs if "rollout/sync_difference" in log]
    assert max(found) < 1e-5


REFUSED = [
    ("adapter", {"bias": "lora_only"}, {}, r"bias='lora_only' with vllm_sync='adapter'"),
    ("adapter", {"bias": "all"}, {}, r"bias='all' with vllm_sync='adapter'"),
    ("adapter", {"modules_to_save": ["lm_head"]}, {}, r"`modules_to_save` of .* has 'lm_head'"),
    ("adapter", {"modules_to_save": ["norm"]}, {}, r"modules_to_save=\['norm'\] with vllm_sync='adapter'"),
    ("adapter", {"lora_bias": True}, {}, r"lora_bias=True with vllm_sync='adapter'"),
    ("adapter", {"use_dora": True}, {}, r"use_dora=True with vllm_sync='adapter'"),
    ("adapter", {"rank_pattern": {"v_proj": 2}}, {}, r"rank_pattern=.*with vllm_sync='adapter'"),
    ("adapter", {"alpha_pattern": {"v_proj": 2}}, {}, r"alpha_pattern=.*with vllm_sync='adapter'"),
    ("adapter", {"target_modules": ["embed_tokens"]}, {}, r"target_modules has 'embed_tokens'"),
    ("adapter", {"target_modules": ["lm_head"]}, {}, r"`target_modules` of .* has 'lm_head'"),
    ("dense", {"target_modules": ["lm_head"]}, {}, r"`target_modules` of .* has 'lm_head'"),
    ("adapter", {"init_lora_weights": "pissa"}, {}, r"init_lora_weights='pissa' changes the base"),
    ("dense", {"use_dora": True}, {}, r"use_dora=True is not handled by vllm_sync='dense'"),
    ("dense", {"lora_bias": True}, {}, r"lora_bias=True is not handled by vllm_sync='dense'"),
    ("dense", {"target_modules": ["embed_tokens"]}, {"tied": True}, r"tie_word_embeddings=True, and .*embed_tokens"),
    ("dense", {"modules_to_save": ["embed_tokens"]}, {"tied": True}, r"tie_word_embeddings=True, and embed_tokens"),
]


@pytest.mark.parametrize(("sync", "lora", "model", "message"), REFUSED)
def test_an_adapter_that_would_be_computed_otherwise_is_refused_by_name(
    tmp_path, monkeypatch, sync, lora, model, message
):
    engines = stand_in_engine.install(monkeypatch)
    with pytest.raises(ValueError, match=message):
        build(
            GRPOTrainer,
            arguments(tmp_path, GRPOTrainer, vllm_sync=sync),
            model=plain_model(tmp_path, **model),
            peft_config=tiny_lora(**lora),
            reward_funcs=share_reward,
        )
    assert not engines


@pytest.mark.parametrize("sync", ["adapter", "dense"])
def test_tied_embeddings_beside_adapters_on_other_layers(tmp_path, monkeypatch, sync):
    stand_in_engine.install(monkeypatch)
    trainer = build(
        GRPOTrainer,
        arguments(tmp_path, GRPOTrainer, vllm_sync=sync),
        model=plain_model(tmp_path, tied=True),
        peft_config=tiny_lora(init_lora_weights=False),
        reward_funcs=share_reward,
    )
    trainer.vllm_generation.sync_weights()
    trainer.vllm_generation.generate([[20, 30]], None, 1)
    assert trainer.vllm_generation.take_differences() == [pytest.approx(0, abs=1e-5)]


class SaysNo(LLM):
    def _add_lora(self, lora_request):
        return False


def test_an_engine_that_does_not_take_the_adapter_stops_the_run(tmp_path, monkeypatch):
    stand_in_engine.install(monkeypatch, SaysNo)
    with pytest.raises(RuntimeError, match=r"vLLM did not load the adapter: `add_lora` returned False"):
        go(tmp_path)


def test_another_kind_of_4_bits_is_refused_by_name(tmp_path, monkeypatch):
    engines = stand_in_engine.install(monkeypatch)
    fp4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype=torch.float32)
    with pytest.raises(ValueError, match=r"bnb_4bit_quant_type='fp4' with vllm_base='4bit'"):
        build(
            GRPOTrainer,
            arguments(tmp_path, GRPOTrainer),
            model=save_tiny_model(tmp_path / "base", tiny_tokenizer()),
            quantization_config=fp4,
            peft_config=tiny_lora(),
            reward_funcs=share_reward,
        )
    assert not engines


def test_which_adapter_is_the_policy():
    model = tiny_model(tiny_tokenizer())
    with pytest.raises(ValueError, match=r"vllm_sync='adapter' needs a LoRA adapter, and LlamaForCausalLM has none"):
        policy_adapter(model, "adapter")
    model = get_peft_model(model, tiny_lora())
    model.add_adapter("second", tiny_lora())
    assert policy_adapter(model, "adapter") == "default"
    model.set_adapter("second")
    assert policy_adapter(model, "adapter") == "second"
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ValueError, match=r"needs one active adapter, and \['default', 'second'\] are active"):
        policy_adapter(model, "adapter")
    other = get_peft_model(tiny_model(tiny_tokenizer()), IA3Config(task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match=r"takes LoRA alone, and adapter 'default' is of type .*IA3"):
        policy_adapter(other, "dense")


# Sizes


@pytest.mark.parametrize(("layers", "said"), [(32, True), (12, False)])
def test_a_dense_engine_above_3b_is_said_with_its_bytes(tmp_path, monkeypatch, caplog, layers, said):
    # Per layer: 4 * 4096 * 4096 + 3 * 4096 * 11008 + 2 * 4096 = 202,383,360. Beside them 2 * 32000 * 4096 + 4096 =
    # 262,148,096. 32 layers: 6,738,415,616, at 2 bytes 12.55 GiB. 12 layers: 2,690,748,416
    config = LlamaConfig(num_hidden_layers=layers, intermediate_size=11008, vocab_size=32000)
    with init_empty_weights():
        model = LlamaForCausalLM(config).to(torch.bfloat16)
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]), low_cpu_mem_usage=True)
    monkeypatch.setattr(dense_engine, "check_original", lambda *given: None)
    with caplog.at_level(logging.WARNING):
        DenseSync(model, EngineSettings("dense", None, None))
    lines = [one.message for one in caplog.records if "vllm_sync='dense' holds" in one.message]
    assert bool(lines) == said
    if said:
        assert "6.7B parameters" in lines[0]
        assert "12.6 GiB" in lines[0]


# Only the policy's


class NotesFolders(LLM):
    seen: list

    def _add_lora(self, lora_request):
        folder = Path(lora_request.lora_path)
        files = sorted(path.name for path in folder.rglob("*") if path.is_file())
        NotesFolders.seen.append((files, load_file(folder / "adapter_model.safetensors"), folder))
        return super()._add_lora(lora_request)


def test_only_the_policy_of_ppo_reaches_the_engine(tmp_path, monkeypatch):
    stand_in_engine.install(monkeypatch, NotesFolders)
    NotesFolders.seen = []
    # The reference is a copy of the adapter, since the start is not the base
    args = tiny_args(tmp_path, cls=PPOConfig, use_vllm=True, vllm_mode="colocate", max_steps=3, beta=0.1)
    torch.manual_seed(0)
    result = train(
        PPOTrainer,
        args,
        model=quantized_model(tmp_path),
        peft_config=tiny_lora(init_lora_weights=False),
        reward_funcs=share_reward,
    )
    model = result.trainer.model
    assert {"default", "ref", "value"} <= set(model.peft_config)
    # A reward model that shares the base is one more
    model.add_adapter("reward", tiny_lora(init_lora_weights=False))
    result.trainer.vllm_generation.sync_weights()
    expected = {
        f"base_model.model.model.layers.0.self_attn.{layer}.lora_{side}.weight"
        for layer in ("q_proj", "v_proj")
        for side in "AB"
    }
    assert len(NotesFolders.seen) >= 2
    for files, weights, _ in NotesFolders.seen:
        assert files == ["adapter_config.json", "adapter_model.safetensors"]
        assert set(weights) == expected
    held = dict(model.named_parameters())
    for name, weight in NotesFolders.seen[-1][1].items():
        torch.testing.assert_close(weight, held[name.replace(".weight", ".default.weight")].detach(), atol=0, rtol=0)
