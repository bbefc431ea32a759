"""Prompts that are read once, by architecture: completions are those of ordinary generation, or nothing is shared."""

import pytest
import torch
from accelerate import PartialState
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from tiny import plain_dataset, share_reward, tiny_args, tiny_model, tiny_tokenizer
from trl_dapo import GRPOConfig, GRPOTrainer
from trl_dapo.packing.unfinished_rows import only_unfinished_rows
from trl_dapo.rollouts.generation_mode import other_mode
from trl_dapo.rollouts.shared_prefill import CacheKind, sharing_prompts


ENDS = [2, 11, 17, 23, 31]
# 3 prompts of 3 completions, of different lengths; windows of 6 tokens are shorter than the longest
LENGTHS, WIDTH, GROUP = (13, 5, 9), 13, 3

TOKENS = {"vocab_size": 120, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PLAIN = {**TOKENS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**PLAIN, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
WINDOW = {**GROUPED, "sliding_window": 6}
OLDER = {**TOKENS, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 256}
BOTH = ["sliding_attention", "full_attention"]
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}

READ_ONCE = {
    "bloom": {**TOKENS, "hidden_size": 32, "n_head": 4, "n_layer": 2},
    "falcon": PLAIN,
    "gemma": GROUPED,
    "gemma2": WINDOW,
    "gemma3_text": {**WINDOW, "layer_types": BOTH},
    "gpt2": OLDER,
    "gpt_neox": PLAIN,
    "gpt_oss": {**WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gptj": {**OLDER, "rotary_dim": 4},
    "llama": GROUPED,
    "mistral": WINDOW,
    "opt": {**TOKENS, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "word_embed_proj_dim": 32, "max_position_embeddings": 256},
    "phi": PLAIN,
    "phi3": WINDOW,
    "qwen2": {**WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": GROUPED,
    "qwen3_moe": {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}  # fmt: skip
OTHER_CACHE = {
    "bamba": {**GROUPED, **MAMBA, "attn_layer_indices": [1]},
    "mamba": {**TOKENS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "recurrent_gemma": {**PLAIN, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8},
    "rwkv": {**TOKENS, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64},
}
# Its config says `use_cache=False` by default
MPT = {**TOKENS, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}


def made(kind, fields):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields), dtype=torch.float32).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            # Wide enough that greedy tokens depend on what is read
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def given(**fields):
    draw = torch.Generator().manual_seed(3)
    rows, masks = [], []
    for length in LENGTHS:
        prompt = torch.randint(40, 110, (length,), generator=draw).tolist()
        rows += [[0] * (WIDTH - length) + prompt] * GROUP
        masks += [[0] * (WIDTH - length) + [1] * length] * GROUP
    config = GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=ENDS, **fields)
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks), "generation_config": config}


class Reads:
    """Rows of each pass over more than a token."""

    def __init__(self, model):
        self.rows = []

        def look(module, args, kwargs):
            ids = kwargs.get("input_ids", args[0] if args else None)
            if ids.size(1) > 1:
                self.rows.append(len(ids))

        model.register_forward_pre_hook(look, with_kwargs=True)


@torch.no_grad()
def both_ways(model, kind=None, **fields):
    """Ordinary completions, completions with what is saved, and the passes over prompts of the second."""
    ordinary = model.generate(**given(**fields))
    reads = Reads(model)
    with only_unfinished_rows(model, ENDS) as prefilled:
        saved = sharing_prompts(model, model.generate, prefilled, kind)(**given(**fields))
    return ordinary, saved, reads.rows


@pytest.mark.parametrize("kind", READ_ONCE)
def test_prompts_are_read_once_and_completions_are_the_same(kind):
    ordinary, saved, reads = both_ways(made(kind, READ_ONCE[kind]))
    assert reads == [3]
    assert torch.equal(ordinary, saved)


@pytest.mark.parametrize("kind", OTHER_CACHE)
def test_another_cache_is_tried_once_and_prompts_are_then_read_as_ever(kind, caplog):
    PartialState()
    known = CacheKind()
    model = made(kind, OTHER_CACHE[kind])
    ordinary, saved, reads = both_ways(model, known)
    assert reads == [3, 9]
    assert torch.equal(ordinary, saved)
    assert [one for one in caplog.messages if "prefill_once=True has no effect" in one]
    caplog.clear()
    _, saved, reads = both_ways(model, known)
    assert reads == [9]
    assert torch.equal(ordinary, saved)
    assert not [one for one in caplog.messages if "prefill_once" in one]


def test_a_model_that_generates_without_a_cache_is_given_none():
    # With a cache and whole rows, prompts would be read a second time on top of it: other tokens, and no error
    model = made("mpt", MPT)
    assert model.generation_config.use_cache is False
    ordinary, saved, reads = both_ways(model)
    assert set(reads) == {9}
    assert torch.equal(ordinary, saved)
    cached, saved, reads = both_ways(model, use_cache=True)
    assert reads[-1] == 3
    assert torch.equal(ordinary, cached)
    assert torch.equal(cached, saved)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"use_cache": False}, "use_cache=False"),
        ({"num_beams": 3}, "num_beams=3"),
        ({"cache_implementation": "static", "disable_compile": True}, "cache_implementation='static'"),
        ({"prefill_chunk_size": 4}, "prefill_chunk_size=4"),
        ({"cache_implementation": "hybrid"}, None),
        ({"num_beams": 1, "use_cache": True}, None),
    ],
)
def test_what_the_models_own_file_asks_for_is_seen(own, said):
    model = made("llama", GROUPED)
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    assert other_mode(model, GenerationConfig()) == said
    ordinary, saved, reads = both_ways(model)
    assert torch.equal(ordinary, saved)
    assert (reads == [3]) == (said is None)


def test_what_the_call_says_comes_before_the_models_file():
    model = made("llama", GROUPED)
    model.generation_config.use_cache = False
    model.generation_config.num_beams = 4
    assert other_mode(model, GenerationConfig(use_cache=True, num_beams=1)) is None
    assert other_mode(model, GenerationConfig(use_cache=True)) == "num_beams=4"


def trainer_on(model, folder, **fields):
    tokenizer = tiny_tokenizer()
    args = tiny_args(folder, cls=GRPOConfig, **fields)
    return GRPOTrainer(model, share_reward, args, plain_dataset(16), processing_class=tokenizer)


@pytest.mark.parametrize("own", [{"use_cache": False}, {"num_beams": 2}])
def test_a_trainer_generates_as_the_models_file_asks_for(tmp_path, own, caplog):
    rows = [f"{i}={'1' * i}" for i in range(4) for _ in range(4)]
    found = []
    for saving in (False, True):
        config = tiny_model(tiny_tokenizer()).config
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig.from_dict({**config.to_dict(), **own}))
        for name, value in own.items():
            setattr(model.generation_config, name, value)
        trainer = trainer_on(model, tmp_path, prefill_once=saving, drop_finished_rows=saving)
        assert not (trainer.can_drop_finished_rows and "num_beams" in own)
        torch.manual_seed(0)
        found.append(trainer._generate(rows)[1])
    assert found[0] == found[1]
    told = [one for one in caplog.messages if "generation_kwargs" in one and "use_cache" in one]
    assert len(told) == ("use_cache" in own)


def test_a_trainer_tries_another_cache_once(tmp_path, caplog):
    tokenizer = tiny_tokenizer()
    fields = {**OTHER_CACHE["mamba"], "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    model = made("mamba", fields)
    trainer = trainer_on(model, tmp_path, generation_chunk_size=4)
    reads = Reads(model)
    rows = [f"{i}+1=" for i in range(4) for _ in range(4)]
    trainer._generate(rows)
    trainer._generate(rows)
    assert reads.rows == [1, *[4] * 8]
    assert len([one for one in caplog.messages if "prefill_once=True has no effect" in one]) == 1


@torch.no_grad()
def test_beside_a_prompt_of_one_token_nothing_is_shared():
    # Up to its last token it has none, and a row without a token to attend to has no keys that mean anything
    model = made("llama", GROUPED)
    asked = given()
    asked["input_ids"][:GROUP, :-1], asked["attention_mask"][:GROUP, :-1] = 0, 0
    ordinary = model.generate(**asked)
    reads = Reads(model)
    assert torch.equal(sharing_prompts(model, model.generate, lambda: None)(**asked), ordinary)
    assert reads.rows == [9]
