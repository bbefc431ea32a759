"""GRPOTrainer: TRL's where nothing else is asked for, and QLoRA whose adapters move."""

import pytest
import torch
import trl
from transformers import BitsAndBytesConfig, LlamaForCausalLM
from trl import GRPOTrainer as HostTrainer

from tiny import (
    parity_reward,
    save_tiny_model,
    share_reward,
    snapshot,
    tiny_args,
    tiny_lora,
    tiny_tokenizer,
)
from training import assert_same_run, build, dapo_args, train
from trl_dapo import DAPOTrainer, GRPOConfig, GRPOTrainer


def own_args(output_dir, **fields):
    return tiny_args(output_dir, cls=GRPOConfig, **fields)


def quantized_model(folder):
    path = save_tiny_model(folder / "base", tiny_tokenizer())
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    return LlamaForCausalLM.from_pretrained(path, quantization_config=config, dtype=torch.float32, device_map="cpu")


def moved(before, after, part="lora_A"):
    """The share of entries of parameters of this name that changed."""
    changed = [(after[name] != tensor).double().flatten() for name, tensor in before.items() if part in name]
    return torch.cat(changed).mean().item()


@pytest.mark.parametrize("fields", [{}, {"beta": 0.04, "steps_per_generation": 2}, {"loss_type": "bnpo"}])
def test_without_compact_microbatches_it_is_trl_bit_for_bit(tmp_path, fields):
    path = save_tiny_model(tmp_path / "model", tiny_tokenizer())
    runs = []
    for cls, args in (
        (HostTrainer, tiny_args(tmp_path / "host", **fields)),
        (GRPOTrainer, own_args(tmp_path / "own", compact_microbatches=False, **fields)),
    ):
        runs.append(train(cls, args, model=path, reward_funcs=share_reward))
    assert_same_run(*runs)


def test_a_plain_config_keeps_its_fields(tmp_path):
    given = tiny_args(tmp_path, beta=0.02, epsilon=0.1, loss_type="grpo", disable_dropout=False)
    path = save_tiny_model(tmp_path / "model", tiny_tokenizer())
    trainer = build(GRPOTrainer, given, model=path, reward_funcs=parity_reward)
    assert isinstance(trainer.args, GRPOConfig)
    for name, value in vars(given).items():
        assert getattr(trainer.args, name) == value, name
    assert trainer.args.compact_microbatches
    assert trainer.args.adapter_dtype == "float32"


def test_another_config_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"GRPOConfig.*SFTConfig"):
        build(GRPOTrainer, trl.SFTConfig(str(tmp_path), use_cpu=True, bf16=False), reward_funcs=parity_reward)


def test_naive_is_the_published_baseline(tmp_path):
    config = GRPOConfig.naive(str(tmp_path), use_cpu=True, bf16=False)
    found = (config.loss_type, config.epsilon, config.epsilon_high, config.beta, config.mask_truncated_completions)
    assert found == ("grpo", 0.2, None, 0.04, False)
    assert config.scale_rewards == "group"
    assert GRPOConfig.naive(str(tmp_path), use_cpu=True, bf16=False, beta=0.0).beta == 0.0


def test_an_unknown_adapter_dtype_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`adapter_dtype` must be one of.*'float16'"):
        own_args(tmp_path, adapter_dtype="float16")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("cls", [GRPOTrainer, DAPOTrainer])
def test_small_updates_move_adapters_on_a_4bit_base(tmp_path, cls, checkpointing):
    fields = {"learning_rate": 1e-6, "max_steps": 2, "gradient_checkpointing": checkpointing}
    more = {"warmup_steps": 0, "overlong_filtering": False}
    args = dapo_args(tmp_path, **fields, **more) if cls is DAPOTrainer else own_args(tmp_path, **fields)
    before = []
    run = train(
        cls,
        args,
        model=quantized_model(tmp_path),
        # With a B that is not 0, as after some steps: at first A has no gradient
        peft_config=tiny_lora(init_lora_weights=False),
        reward_funcs=share_reward,
        prepare=lambda trainer: before.append(snapshot(trainer.model)),
    )
    assert moved(before[0], run.parameters) > 0.99
    frozen = {name: value for name, value in before[0].items() if "lora_" not in name}
    assert all(torch.equal(run.parameters[name], value) for name, value in frozen.items())


def test_adapters_can_be_bfloat16_as_in_trl(tmp_path):
    args = own_args(tmp_path, adapter_dtype="bfloat16")
    trainer = build(
        GRPOTrainer, args, model=quantized_model(tmp_path), peft_config=tiny_lora(), reward_funcs=share_reward
    )
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.bfloat16}


def test_microbatches_that_are_not_packed_are_generated_once(tmp_path):
    # Completions of one length leave nothing to pack
    def alike(prompts, trainer):
        ids = [[20 + 60 * (row % 2), 30, 40, 50] for row in range(len(prompts))]
        prompt_ids = trainer.processing_class("0+1=")["input_ids"]
        return {
            "prompt_ids": [prompt_ids] * len(prompts),
            "completion_ids": ids,
            "logprobs": [[-1.0] * 4] * len(prompts),
        }

    fields = {"steps_per_generation": 2, "max_steps": 4}
    packed = train(GRPOTrainer, own_args(tmp_path, **fields), reward_funcs=share_reward, rollout_func=alike)
    plain = train(
        GRPOTrainer,
        own_args(tmp_path, compact_microbatches=False, **fields),
        reward_funcs=share_reward,
        rollout_func=alike,
    )
    assert packed.generations == plain.generations == 2
    assert_same_run(packed, plain)
