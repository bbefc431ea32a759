"""A group's prompt read once in passes without gradient: the log-probs of a pass over whole rows."""

import pytest
import torch
import trl.trainer.utils
from datasets import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from test_trainer_compact import _PlainHead, assert_same_logs, distance, positional_model
from tiny import parity_reward, scripted_rollout, tiny_lora, tiny_tokenizer
from training import dapo_args, even, train
from trl_dapo import DAPOTrainer
from trl_dapo.packing.positions import counted_from, numbers_columns, with_inputs
from trl_dapo.packing.shared_prompts import can_share, going_on_from, prompt_numbers, read_prompts


VOCABULARY = 60
HEADS = {"num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 96}
LLAMA = {**HEADS, "hidden_size": 16, "intermediate_size": 32, "num_key_value_heads": 1}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**LLAMA)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=96)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**HEADS, hidden_size=16, ffn_dim=32, word_embed_proj_dim=16)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**LLAMA, sliding_window=4)),
}


def backbone(name, seed=0):
    torch.manual_seed(seed)
    return MODELS[name]().base_model.eval()


def padded_prompts():
    """Three prompts of 3, 5 and 2 tokens, padded on the left, and their rows' completions: two, one and one."""
    prompts = torch.tensor([[0, 0, 11, 12, 13], [21, 22, 23, 24, 25], [0, 0, 0, 31, 32]])
    completions = torch.tensor([[41, 42, 43], [44, 45, 0], [46, 47, 48], [49, 0, 0]])
    return prompts, (prompts > 0).long(), completions, (completions > 0).long(), torch.tensor([0, 0, 1, 2])


# -------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("name", "by_column", "shares"),
    [
        ("llama", True, True),
        ("qwen2", True, True),
        ("gpt2", True, True),
        ("opt", False, True),  # numbers tokens by the attention mask
        ("mistral", True, False),  # forgets what is behind its window
    ],
)
def test_what_a_model_can_do_is_found_out(name, by_column, shares):
    torch.manual_seed(0)
    model = MODELS[name]().train()  # dropout of GPT-2 and OPT is on
    state = torch.random.get_rng_state()
    assert numbers_columns(model) == by_column
    assert can_share(model.base_model) == shares
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_rows_that_go_on_from_their_prompt_have_the_hidden_states_of_whole_rows(name):
    model = backbone(name)
    prompts, prompt_mask, completions, mask, numbers = padded_prompts()
    whole = torch.cat([prompts[numbers], completions], dim=1)
    whole_mask = torch.cat([prompt_mask[numbers], mask], dim=1)
    with torch.no_grad():
        expected = model(input_ids=whole, attention_mask=whole_mask, use_cache=False).last_hidden_state[:, 4:]
        prefix = read_prompts(model, prompts, prompt_mask, first=0)
        rows = {"input_ids": whole[:, 4:], "attention_mask": whole_mask[:, 4:]}
        with with_inputs(model, going_on_from(model, prefix, numbers)):
            found = model(**rows, use_cache=False).last_hidden_state
    assert prefix.mask.shape == (3, 4)
    real = torch.cat([torch.ones(4, 1), mask], dim=1).bool()
    torch.testing.assert_close(found[real], expected[real], rtol=1e-5, atol=2e-6)


def test_positions_begin_where_the_cut_columns_ended():
    # The same row with two columns of padding, which GPT-2's learned positions tell apart
    model = backbone("gpt2")
    ids, mask = torch.tensor([[0, 0, 7, 8, 9]]), torch.tensor([[0, 0, 1, 1, 1]])
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 2:]
        shifted = model(input_ids=ids[:, 2:], attention_mask=mask[:, 2:]).last_hidden_state
        with with_inputs(model, counted_from(2)):
            found = model(ids[:, 2:], attention_mask=mask[:, 2:]).last_hidden_state
        after = model(input_ids=ids[:, 2:], attention_mask=mask[:, 2:]).last_hidden_state
    assert not torch.allclose(shifted, expected, atol=1e-3)
    torch.testing.assert_close(found, expected)
    assert torch.equal(after, shifted)  # nothing is left behind


def test_prompts_are_told_apart_by_their_tokens():
    ids = torch.tensor([[0, 5, 6], [0, 5, 6], [9, 5, 6], [5, 5, 6], [5, 5, 6]])
    mask = torch.tensor([[0, 1, 1], [0, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1]])
    # What stands in the padding does not matter; a token more does
    first, second, third, fourth, fifth = prompt_numbers(ids, mask).tolist()
    assert first == second == third != fourth == fifth


# ------------------------------------------------------------------------------------------------------------- trainer

FIELDS = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "updates_per_rollout": 2,
    "max_completion_length": 8,
    "max_steps": 4,
    "adam_epsilon": 1e-4,
    "learning_rate": 1e-3,
    "soft_overlong_punishment": False,
}


def long_prompts(n=24):
    """Prompts of 20 to 30 characters, each a token."""
    questions = [f"{i}+{i + 1}=" for i in range(n)]
    return Dataset.from_dict({"prompt": [text + "?" * (16 + (7 * i) % 10) for i, text in enumerate(questions)]})


def go(tmp_path, compact, note=None, **kwargs):
    fields = {**FIELDS, **kwargs.pop("fields", {}), "compact_microbatches": compact}
    if not compact:
        fields.pop("max_tokens_per_microbatch", None)
    torch.manual_seed(0)
    return train(
        DAPOTrainer,
        dapo_args(tmp_path, **fields),
        prepare=note,
        reward_funcs=parity_reward,
        rollout_func=scripted_rollout(even),
        train_dataset=long_prompts(),
        **kwargs,
    )


def tokens_without_gradient(into):
    def note(trainer):
        def count(_, args, kwargs):
            if trainer.model.training and not torch.is_grad_enabled():
                into.append(kwargs["input_ids"].numel())

        trainer.accelerator.unwrap_model(trainer.model).base_model.register_forward_pre_hook(count, with_kwargs=True)

    return note


@pytest.mark.parametrize("limit", [None, 80])
def test_parameters_are_those_of_trls_passes_for_fewer_tokens(tmp_path, limit):
    ours, theirs = [], []
    fields = {"max_tokens_per_microbatch": limit}
    runs = [
        go(tmp_path, True, tokens_without_gradient(ours), fields=fields),
        go(tmp_path, False, tokens_without_gradient(theirs), fields=fields),
    ]
    assert distance(*runs) < 1e-6
    assert_same_logs(*runs)
    # A prompt of 25 tokens is read once for 4 rows, of which one in three is masked
    assert sum(ours) < 0.5 * sum(theirs)


@pytest.mark.parametrize("limit", [None, 60])  # all prompts at once, or in blocks of two, of which one is cut
def test_in_float64_they_are_equal_to_twelve_digits(tmp_path, monkeypatch, limit):
    if hasattr(trl.trainer.utils, "_ChunkedLogProbFunction"):
        monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", _PlainHead)
    fields = {"max_tokens_per_microbatch": limit}
    runs = [go(tmp_path, compact, model=positional_model(), fields=fields) for compact in (True, False)]
    assert distance(*runs) < 1e-12


def test_the_reference_reads_prompts_without_the_adapter(tmp_path):
    fields = {"beta": 0.1, "use_bias_correction_kl": True}  # as in TRL
    runs = [go(tmp_path, compact, peft_config=tiny_lora(), fields=fields) for compact in (True, False)]
    assert distance(*runs) < 1e-6
    assert_same_logs(*runs)
    assert runs[0].logs[-1]["kl"] > 0


def test_with_checkpointing_the_cache_is_used_all_the_same(tmp_path):
    ours = []
    fields = {"gradient_checkpointing": True}
    runs = [
        go(tmp_path, True, tokens_without_gradient(ours), fields=fields),
        go(tmp_path, False, fields=fields),
    ]
    assert distance(*runs) < 1e-6
    assert_same_logs(*runs)


def test_a_model_that_cannot_share_reads_whole_rows(tmp_path):
    def model():
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer()
        config = OPTConfig(
            **{**HEADS, "vocab_size": len(tokenizer)}, hidden_size=16, ffn_dim=32, word_embed_proj_dim=16
        )
        config.dropout, config.pad_token_id, config.eos_token_id = 0.0, tokenizer.pad_token_id, tokenizer.eos_token_id
        return OPTForCausalLM(config)

    runs = [go(tmp_path, compact, model=model()) for compact in (True, False)]
    assert distance(*runs) < 2e-6
    assert_same_logs(*runs)


def test_a_model_that_keeps_nothing_of_what_it_reads_reads_whole_rows(tmp_path):
    # As models of transformers before 5.24 do in train mode, with gradient checkpointing
    ours, theirs = [], []

    def forgetful(into):
        count = tokens_without_gradient(into)

        def note(trainer):
            count(trainer)

            def forget(_, args, kwargs):
                if trainer.model.training and not torch.is_grad_enabled() and kwargs.get("use_cache"):
                    return args, {
                        name: value for name, value in kwargs.items() if name not in ("cache", "past_key_values")
                    }

            trainer.accelerator.unwrap_model(trainer.model).base_model.register_forward_pre_hook(
                forget, with_kwargs=True
            )

        return note

    runs = [go(tmp_path, True, forgetful(ours)), go(tmp_path, False, tokens_without_gradient(theirs))]
    assert distance(*runs) < 1e-6
    assert_same_logs(*runs)
    assert 0.5 * sum(theirs) < sum(ours)
