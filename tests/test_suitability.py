"""What is packed has the log-probabilities of TRL's own passes; where it would not, nothing is packed."""

import logging

import peft
import pytest
import torch
import trl
from peft import PeftType
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from tiny import parity_reward, plain_dataset, share_reward, tiny_args, tiny_lora, tiny_model, tiny_tokenizer
from training import assert_same_run, build, record_rollouts, train
from trl_dapo import GRPOConfig, GRPOTrainer
from trl_dapo.packing.suitability import BY_TOKEN, length_dependence, tied_to_batch


TOKENIZER = tiny_tokenizer()
SIZES = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": TOKENIZER.pad_token_id,
    "bos_token_id": None,
    "eos_token_id": TOKENIZER.eos_token_id,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "rope_theta": 1e4,
    "original_max_position_embeddings": 8,
}


def llama(**fields):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "max_position_embeddings": 8, **fields}))
    model.config._name_or_path = "tiny"
    return model


def phi(**fields):
    torch.manual_seed(0)
    config = Phi3Config(**SIZES, max_position_embeddings=64, original_max_position_embeddings=8, **fields)
    config._name_or_path = "tiny"
    return Phi3ForCausalLM(config)


def run(cls, tmp_path, model=None, peft_config=None, **fields):
    fields = {"steps_per_generation": 2, "per_device_train_batch_size": 8, "max_steps": 2, **fields}
    args = tiny_args(tmp_path, cls=GRPOConfig, **fields)
    rollouts = []
    given = {"train_dataset": plain_dataset(32), "reward_funcs": parity_reward}
    result = train(
        cls,
        args,
        model=model or tiny_model(TOKENIZER),
        peft_config=peft_config,
        prepare=lambda trainer: rollouts.append(record_rollouts(trainer)),
        **given,
    )
    return result, rollouts[0]


# ----------------------------------------------------------------------------------------------------------- positions


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: llama(rope_parameters=DYNAMIC), "dynamic"),
        (lambda: phi(rope_parameters=LONG), "longrope"),
        (lambda: llama(rope_parameters=LONG), "longrope"),
    ],
)
def test_a_model_whose_positions_depend_on_length_trains_as_in_trl(tmp_path, make, kind, caplog):
    # Prompts have 4 or 6 tokens and completions up to 8: rows cross the original context of 8
    with caplog.at_level(logging.WARNING, "trl_dapo.grpo.trainer"):
        ours, rollouts = run(GRPOTrainer, tmp_path, make())
    assert f"No row is packed, and none is left out of generation: rope_type='{kind}'" in caplog.text
    theirs, expected = run(trl.GRPOTrainer, tmp_path, make())
    for one, other in zip(rollouts, expected, strict=True):
        assert torch.equal(one["completion_ids"], other["completion_ids"])
        assert torch.equal(one["old_per_token_logps"], other["old_per_token_logps"])
    assert_same_run(ours, theirs)


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "default", "rope_theta": 1e4},
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
        {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 8},
        {
            "rope_type": "llama3",
            "factor": 4.0,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 8,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    ],
)
def test_positions_that_do_not_depend_on_length_are_packed(parameters):
    assert length_dependence(llama(rope_parameters=parameters, max_position_embeddings=32)) is None


@pytest.mark.parametrize("make", [lambda: llama(rope_parameters=DYNAMIC), lambda: phi(rope_parameters=LONG)])
def test_the_try_finds_it_where_the_config_does_not_say(make):
    model = make()
    model.config.rope_parameters = dict(model.config.rope_parameters)
    kept = model.model.rotary_emb.config
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}

    class Silent:
        rope_parameters = None

        def get_text_config(self):
            return self

    model.model.config, model.model.rotary_emb.config = Silent(), kept
    assert "RotaryEmbedding turns by angles" in length_dependence(model)
    assert all(torch.equal(buffer, state[name]) for name, buffer in model.named_buffers())


def test_nested_parameters_and_fields_of_hub_code_are_read():
    model = llama()
    model.config.rope_parameters = {
        "full_attention": {"rope_type": "longrope"},
        "sliding_attention": {"type": "default"},
    }
    assert "longrope" in length_dependence(model)
    model.config.rope_parameters = {}
    model.config.use_dynamic_ntk = True
    assert "use_dynamic_ntk" in length_dependence(model)


def test_a_bound_on_tokens_is_refused_where_nothing_can_be_packed(tmp_path):
    args = tiny_args(tmp_path, cls=GRPOConfig, max_tokens_per_microbatch=64)
    with pytest.raises(ValueError, match=r"max_tokens_per_microbatch=64 .* rope_type='dynamic'"):
        build(GRPOTrainer, args, model=llama(rope_parameters=DYNAMIC), reward_funcs=share_reward)


# ------------------------------------------------------------------------------------------------------------ adapters

TASK = {"task_type": "CAUSAL_LM"}
VIRTUAL = {
    "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=3, **TASK),
    "projected": lambda: peft.PrefixTuningConfig(num_virtual_tokens=3, prefix_projection=True, **TASK),
    "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, **TASK),
    "p-tuning": lambda: peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8, **TASK),
}


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_train_as_in_trl(tmp_path, kind, caplog):
    with caplog.at_level(logging.WARNING, "trl_dapo.grpo.trainer"):
        ours, rollouts = run(GRPOTrainer, tmp_path, peft_config=VIRTUAL[kind]())
    assert "has virtual tokens" in caplog.text
    theirs, expected = run(trl.GRPOTrainer, tmp_path, peft_config=VIRTUAL[kind]())
    for one, other in zip(rollouts, expected, strict=True):
        assert torch.equal(one["completion_ids"], other["completion_ids"])
        assert torch.equal(one["old_per_token_logps"], other["old_per_token_logps"])
    assert_same_run(ours, theirs)


TARGETS = {"target_modules": ["q_proj", "v_proj"], **TASK}
TESTED = {
    "LORA": lambda: tiny_lora(init_lora_weights=False),
    "DORA": lambda: tiny_lora(init_lora_weights=False, use_dora=True),
    "IA3": lambda: peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False, **TASK
    ),
    "LOHA": lambda: peft.LoHaConfig(r=2, init_weights=False, **TARGETS),
    "LOKR": lambda: peft.LoKrConfig(r=2, init_weights=False, **TARGETS),
    "OFT": lambda: peft.OFTConfig(oft_block_size=4, init_weights=False, **TARGETS),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=4, init_weights=False, **TARGETS),
    "VERA": lambda: peft.VeraConfig(r=2, init_weights=False, target_modules=["q_proj"], **TASK),
    "ADALORA": lambda: peft.AdaLoraConfig(init_r=3, target_r=2, total_step=10, tinit=1, tfinal=2, **TARGETS),
    "LN_TUNING": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"], **TASK),
    "FOURIERFT": lambda: peft.FourierFTConfig(n_frequency=8, init_weights=False, **TARGETS),
    "HRA": lambda: peft.HRAConfig(r=2, init_weights=False, **TARGETS),
    "MISS": lambda: peft.MissConfig(r=2, init_weights=False, **TARGETS),
    "C3A": lambda: peft.C3AConfig(block_size=8, init_weights="xavier_uniform", **TARGETS),
    "RANDLORA": lambda: peft.RandLoraConfig(r=2, init_weights=False, target_modules=["q_proj"], **TASK),
    "SHIRA": lambda: peft.ShiraConfig(r=2, init_weights=False, **TARGETS),
    "ROAD": lambda: peft.RoadConfig(group_size=4, init_weights=False, **TARGETS),
    "DELORA": lambda: peft.DeloraConfig(r=2, init_weights=False, **TARGETS),
    "GRALORA": lambda: peft.GraloraConfig(r=2, gralora_k=1, init_weights=False, **TARGETS),
    "WAVEFT": lambda: peft.WaveFTConfig(n_frequency=8, init_weights=False, **TARGETS),
    "OSF": lambda: peft.OSFConfig(**TARGETS),
    "VBLORA": lambda: peft.VBLoRAConfig(r=2, vector_length=8, num_vectors=8, topk=2, **TARGETS),
    "TRAINABLE_TOKENS": lambda: peft.TrainableTokensConfig(
        token_indices=[20, 21, 22], target_modules=["embed_tokens"], **TASK
    ),
}


@pytest.mark.parametrize("kind", TESTED)
def test_adapters_that_act_on_single_tokens_have_trls_log_probabilities_when_packed(tmp_path, kind):
    args = tiny_args(tmp_path, cls=GRPOConfig, per_device_train_batch_size=16)
    trainer = build(GRPOTrainer, args, peft_config=TESTED[kind](), reward_funcs=share_reward)
    assert trainer.packed_passes is not None
    trainer.model.train()
    # Two prompts of 12 and 5 tokens, four completions each, of 1 to 8 tokens
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(18, 100, (2, 12), generator=draw).repeat_interleave(4, dim=0)
    ids = torch.cat([prompts, torch.randint(18, 100, (8, 8), generator=draw)], dim=1)
    mask = torch.ones_like(ids)
    mask[4:, :7] = 0
    for row in range(8):
        mask[row, 12 + row + 1 :] = 0
    ids = torch.where(mask.bool(), ids, TOKENIZER.pad_token_id)
    with torch.no_grad():
        packed = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 8, batch_size=3)[0]
        host = trl.GRPOTrainer._get_per_token_logps_and_entropies
        expected = host(trainer, trainer.model, ids, mask, 8, batch_size=8)[0]
    inside = mask[:, 12:].bool()
    torch.testing.assert_close(packed[inside], expected[inside], atol=1e-5, rtol=0)


def test_every_method_that_is_packed_has_been_tried():
    assert set(BY_TOKEN) == set(TESTED) - {"DORA"}
    assert set(BY_TOKEN) <= {kind.value for kind in PeftType}


@pytest.mark.parametrize("field", ["alora_invocation_tokens", "arrow_config"])
def test_a_lora_that_acts_by_place_is_not_packed(field):
    model = peft.get_peft_model(tiny_model(TOKENIZER), tiny_lora())
    setattr(model.peft_config["default"], field, [20])
    assert field in tied_to_batch(model)


def test_a_method_that_nobody_tried_is_not_packed():
    config = peft.PolyConfig(r=2, n_tasks=1, n_skills=1, n_splits=1, **TARGETS)
    model = peft.get_peft_model(tiny_model(TOKENIZER), config)
    assert "POLY" in tied_to_batch(model)
