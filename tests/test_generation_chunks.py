"""Bounded calls of `generate`, and prompts that are read once: the same completions, less memory."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    GenerationConfig,
    LlamaForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from allocator import peak_of
from tiny import (
    conversational_dataset,
    parity_reward,
    plain_dataset,
    rare_reward,
    share_reward,
    tiny_args,
    tiny_lora,
    tiny_model,
    tiny_tokenizer,
)
from trl_dapo import DAPOConfig, DAPOTrainer, GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer
from trl_dapo.dapo.sampling.refill import largest_round
from trl_dapo.grpo.generation_calls import check_sharded_calls
from trl_dapo.rollouts.chunks import ChunkSize, are_groups, in_chunks
from trl_dapo.rollouts.shared_prefill import distinct_prompts, sharing_prompts


def trainer_of(folder, cls=GRPOTrainer, config=GRPOConfig, reward=share_reward, dataset=None, **overrides):
    tokenizer = tiny_tokenizer()
    kwargs = {name: overrides.pop(name) for name in ("peft_config",) if name in overrides}
    args = tiny_args(folder, cls=config, **{"max_steps": 2, **overrides})
    return cls(
        tiny_model(tokenizer),
        reward,
        args,
        plain_dataset(16) if dataset is None else dataset,
        processing_class=tokenizer,
        **kwargs,
    )


class Calls:
    """Notes the rows of each pass over prompts, and of each call of `generate`."""

    def __init__(self, trainer):
        self.generate, self.read = [], []
        model = trainer.accelerator.unwrap_model(trainer.model)
        host = model.generate

        def generate(**kwargs):
            self.generate.append(len(kwargs["input_ids"]))
            return host(**kwargs)

        model.generate = generate

        def look(module, args, kwargs):
            if kwargs["input_ids"].size(1) > 1 and kwargs.get("use_cache"):
                self.read.append(len(kwargs["input_ids"]))

        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        causal.register_forward_pre_hook(look, with_kwargs=True)


def completions(trainer, prompts, seed=0):
    torch.manual_seed(seed)
    return trainer._generate(prompts)[1]


PROMPTS = [f"{i}+{'1' * (i % 3)}=" for i in range(4) for _ in range(4)]  # 4 groups of 4, of different lengths


# -------------------------------------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize(("chunk", "calls"), [(None, [16]), (4, [4] * 4), (8, [8, 8]), (12, [12, 4]), (64, [16])])
def test_calls_have_whole_groups_and_at_most_the_chunk(tmp_path, chunk, calls):
    trainer = trainer_of(tmp_path, generation_chunk_size=chunk)
    seen = Calls(trainer)
    found = completions(trainer, PROMPTS)
    assert seen.generate == calls
    assert len(found) == 16


def test_a_bound_of_tokens_is_one_of_groups(tmp_path):
    # The longest prompt has 5 characters, hence tokens, and completions have 8: 13 a row, 52 a group. 104 hold two
    longest = max(map(len, PROMPTS))
    assert longest == 5
    for tokens, calls in ((52, [4] * 4), (103, [4] * 4), (104, [8, 8]), (10_000, [16])):
        trainer = trainer_of(tmp_path, max_tokens_per_generation_call=tokens)
        seen = Calls(trainer)
        completions(trainer, PROMPTS)
        assert seen.generate == calls
    trainer = trainer_of(tmp_path, max_tokens_per_generation_call=51)
    with pytest.raises(ValueError, match="holds no group: 4 completions of a prompt of 5 tokens and up to 8 new ones"):
        completions(trainer, PROMPTS)


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 64))
def test_a_chunk_is_never_more_than_asked_nor_less_than_a_group(groups, group, chunk):
    size = ChunkSize(chunk, None, group).of(groups * group, 5, 5)
    assert size % group == 0
    assert size >= group
    assert size <= max(chunk, group)


def test_rows_that_are_no_groups_are_chunked_all_the_same():
    # A later turn with tools: 5 rows of groups of 4
    assert ChunkSize(4, None, 4).of(5, 3, 3) == 4
    assert ChunkSize(2, None, 4).of(5, 3, 3) == 2
    # 8 rows of two groups would be groups by their number; a bound of 20 tokens has 3 rows of 6, and of 30 none
    assert ChunkSize(None, 20, 4).of(8, 3, 3, in_groups=False) == 3
    assert ChunkSize(None, 20, 4).of(8, 27, 3, in_groups=False) == 1
    with pytest.raises(ValueError, match="holds no group"):
        ChunkSize(None, 20, 4).of(8, 3, 3)


def test_groups_are_told_by_equal_prompts():
    ids = torch.tensor([[1, 2]] * 3 + [[1, 3]] * 3)
    assert are_groups(ids, 3)
    assert not are_groups(ids, 2)
    assert not are_groups(ids, 4)
    assert not are_groups(ids.flip(0)[1:], 5)
    assert are_groups(ids, 1)


def test_a_group_that_does_not_fit_is_split_where_it_may_be():
    # An evaluation of 16 completions a prompt, in calls of 4, or of 25 tokens at 6 a row
    assert ChunkSize(4, None, 16, splits_groups=True).of(32, 3, 3) == 4
    assert ChunkSize(None, 25, 16, splits_groups=True).of(32, 3, 3) == 4
    assert ChunkSize(32, None, 16, splits_groups=True).of(64, 3, 3) == 32
    assert ChunkSize(40, None, 16, splits_groups=True).of(64, 3, 3) == 32


def test_the_same_seed_and_chunk_give_the_same_completions_and_chunks_join_in_order(tmp_path):
    trainer = trainer_of(tmp_path, generation_chunk_size=4, drop_finished_rows=False, prefill_once=False)
    first = completions(trainer, PROMPTS)
    assert completions(trainer, PROMPTS) == first
    # By hand: each group alone, drawn one after the other from one seed
    plain = trainer_of(tmp_path, drop_finished_rows=False, prefill_once=False)
    torch.manual_seed(0)
    alone = [row for group in range(4) for row in plain._generate(PROMPTS[4 * group : 4 * group + 4])[1]]
    assert first == alone


@pytest.mark.parametrize("chunk", [None, 4, 8])
@pytest.mark.parametrize("dataset", [plain_dataset, conversational_dataset])
def test_completions_do_not_depend_on_what_is_computed(tmp_path, chunk, dataset):
    rows = [row for row in dataset(4)["prompt"] for _ in range(4)]
    found = [
        completions(
            trainer_of(
                tmp_path,
                generation_chunk_size=chunk,
                drop_finished_rows=drop,
                prefill_once=once,
                max_completion_length=48,
            ),
            rows,
            seed=3,
        )
        for drop in (False, True)
        for once in (False, True)
    ]
    assert len(found[0]) == 16
    assert len({len(row) for row in found[0]}) > 1  # some end early
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("patches", [20, 8])
def test_tensors_of_which_it_is_not_known_whose_they_are_are_not_cut(caplog, patches):
    # As many patches as rows are no row each
    PartialState()

    class Model(torch.nn.Module):
        def generate(self, **kwargs):
            return kwargs["input_ids"], len(kwargs["pixel_values"])

    model, ids = Model(), torch.zeros(8, 3, dtype=torch.long)
    with in_chunks(model, ChunkSize(2, None, 1)):
        found = model.generate(
            input_ids=ids, pixel_values=torch.zeros(patches, 4), generation_config=GenerationConfig(max_new_tokens=4)
        )
    assert found[1] == patches
    assert len(found[0]) == 8


@pytest.mark.parametrize(
    ("cls", "config", "overrides"),
    [
        (DAPOTrainer, DAPOConfig, {"max_refill_rounds": 2}),
        (GRPOTrainer, GRPOConfig, {"steps_per_generation": 2}),
        (PPOTrainer, PPOConfig, {"num_generations": 1, "peft_config": tiny_lora()}),
    ],
)
def test_training_in_chunks_learns_and_resumes(tmp_path, cls, config, overrides):
    def run(folder, steps, resume=None):
        trainer = trainer_of(
            folder,
            cls,
            config,
            rare_reward if cls is DAPOTrainer else parity_reward,
            generation_chunk_size=4,
            max_steps=steps,
            save_strategy="steps",
            save_steps=1,
            **overrides,
        )
        seen = Calls(trainer)
        trainer.train(resume_from_checkpoint=resume)
        # What is resumed inside a rollout may have generated before
        assert max(seen.generate, default=4 if resume else 0) == 4
        return {name: one.detach().clone() for name, one in trainer.model.named_parameters() if one.requires_grad}

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "half", 3)
    resumed = run(tmp_path / "half", 4, resume=True)
    assert whole
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_evaluation_is_bounded_too(tmp_path):
    trainer = trainer_of(tmp_path, generation_chunk_size=4, num_generations_eval=2, per_device_eval_batch_size=16)
    seen = Calls(trainer)
    trainer.evaluate(plain_dataset(8))
    assert seen.generate == [4, 4, 4, 4]  # 8 prompts of 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"generation_chunk_size": 6}, r"no multiple of num_generations=4.*4 or 8"),
        ({"generation_chunk_size": 3}, r"no multiple of num_generations=4.*to 4"),
        ({"generation_chunk_size": 0}, r"to 4"),
        ({"generation_chunk_size": -4}, r"to 4"),
        ({"max_tokens_per_generation_call": 0}, r"at least 1 token, got 0"),
        ({"generation_chunk_size": 4, "max_tokens_per_generation_call": 100}, r"Leave one of them out"),
    ],
)
def test_a_chunk_that_is_none_is_refused(tmp_path, fields, said):
    with pytest.raises(ValueError, match=said):
        tiny_args(tmp_path, cls=GRPOConfig, **fields)


def test_a_bound_that_has_no_effect_is_told(tmp_path):
    args = tiny_args(tmp_path, cls=GRPOConfig, generation_chunk_size=4, use_vllm=True)
    assert any("generation_chunk_size=4 has no effect with use_vllm=True" in line for line in args.inert_parts())
    assert not tiny_args(tmp_path, cls=GRPOConfig, generation_chunk_size=4).inert_parts()


# -------------------------------------------------------------------------------------------------- prompts read once


def test_a_shared_prompt_is_read_once(tmp_path):
    trainer = trainer_of(tmp_path)
    seen = Calls(trainer)
    completions(trainer, PROMPTS)
    assert seen.read == [4]
    trainer = trainer_of(tmp_path, prefill_once=False)
    seen = Calls(trainer)
    completions(trainer, PROMPTS)
    assert seen.read == [16]


def test_prompts_that_differ_cost_no_further_pass(tmp_path):
    trainer = trainer_of(tmp_path, num_generations=2)
    seen = Calls(trainer)
    completions(trainer, [f"{i}=" for i in range(8)])
    assert seen.read == [8]


def test_rows_with_one_prompt_are_told_by_ids_and_mask():
    # Rows 0 and 1 are one prompt, 2 has the ids of 1 and another mask, 3 is new, 4 is 0 again but not beside it
    ids = torch.tensor([[0, 5], [0, 5], [0, 5], [7, 5], [0, 5]])
    mask = torch.tensor([[0, 1], [0, 1], [1, 1], [1, 1], [0, 1]])
    first, row = distinct_prompts(ids, mask)
    assert first.tolist() == [0, 2, 3, 4]
    assert row.tolist() == [0, 0, 1, 2, 3]


def test_a_prompt_that_ends_with_an_end_token_is_not_over(tmp_path):
    # The pass that reads the last token of the prompts must not take it for a completion's
    tokenizer = tiny_tokenizer()
    # Of half of the prompts: where all rows seem to have ended, none is left out
    rows = [f"{i}=" + tokenizer.eos_token * (i % 2) for i in range(4) for _ in range(4)]
    once, plain = (
        completions(trainer_of(tmp_path, prefill_once=once, drop_finished_rows=once), rows) for once in (True, False)
    )
    assert once == plain
    assert max(map(len, once)) == 8


def test_other_caches_are_read_as_before():
    called = []

    def generate(**kwargs):
        called.append(sorted(kwargs))

    class Model(torch.nn.Module):
        def forward(self, **kwargs):
            raise AssertionError("not read")

    config = GenerationConfig(max_new_tokens=4, cache_implementation="static")
    ids = torch.ones(4, 3, dtype=torch.long)
    sharing_prompts(Model(), generate, lambda: None)(
        input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
    )
    assert called == [["attention_mask", "generation_config", "input_ids"]]


@pytest.mark.parametrize("kind", ["recurrent", "recurrent_and_attention", "counts_itself"])
def test_models_that_keep_something_else_are_read_as_before(kind):
    # RWKV and RecurrentGemma return no cache by the name of keys and values; others take no positions
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 3}
    torch.manual_seed(0)
    if kind == "recurrent":
        model = RwkvForCausalLM(RwkvConfig(**sizes, attention_hidden_size=16, context_length=64))
    elif kind == "recurrent_and_attention":
        model = RecurrentGemmaForCausalLM(
            RecurrentGemmaConfig(
                **sizes, intermediate_size=32, num_attention_heads=2, lru_width=16, attention_window_size=8
            )
        )
    else:

        class Strict(LlamaForCausalLM):
            def forward(self, input_ids=None, attention_mask=None, past_key_values=None, cache=None, use_cache=None,
                        return_dict=True):  # fmt: skip
                state = past_key_values if cache is None else cache
                name = (
                    "cache" if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters else "past_key_values"
                )
                return super().forward(input_ids, attention_mask, use_cache=use_cache, **{name: state})

        model = Strict(tiny_model(tiny_tokenizer()).config)
    model.eval()
    ids = torch.arange(20, 26).repeat(4, 1)
    given = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "generation_config": GenerationConfig(max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None),
    }
    with torch.no_grad():
        found = sharing_prompts(model, model.generate, lambda: None)(**given)
        assert torch.equal(found, model.generate(**given))


# -------------------------------------------------------------------------------------------------------------- memory


def test_the_peak_follows_from_the_chunk():
    # 64 rows of a model with wide keys and values: 2 layers x 2 x 64 entries x 4 bytes = 1 KiB a token
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, layers=2, hidden=128)
    model.generation_config.eos_token_id = None
    ids = torch.randint(20, 100, (64, 96))
    config = GenerationConfig(max_new_tokens=32, do_sample=True, pad_token_id=0, eos_token_id=None)

    def run(rows):
        with in_chunks(model, ChunkSize(rows, None, 1)), torch.no_grad():
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)

    whole, quarter, sixteenth = (peak_of(lambda rows=rows: run(rows)) for rows in (64, 16, 4))
    assert quarter == pytest.approx(whole / 4, rel=0.2)
    assert sixteenth == pytest.approx(whole / 16, rel=0.2)


# -------------------------------------------------------------------------------------------------------- small rounds


@pytest.mark.parametrize(
    ("wanted", "batches", "multiple", "limit"),
    [
        (8, 1.0, 1, 8),
        (8, 1.5, 1, 12),
        (8, 0.25, 1, 2),
        (7, 0.5, 1, 4),
        (8, 0.01, 1, 1),
        (8, 0.25, 3, 3),
        (8, 0.5, 4, 4),
    ],
)
def test_a_round_below_a_batch_is_rounded_up(wanted, batches, multiple, limit):
    assert largest_round(wanted, batches, multiple) == limit


def test_a_batch_is_filled_by_rounds_that_are_smaller(tmp_path):
    trainer = trainer_of(
        tmp_path, DAPOTrainer, DAPOConfig, rare_reward, updates_per_rollout=2, max_round_batches=0.5, max_steps=2
    )
    seen = Calls(trainer)
    trainer.train()
    # 16 rows, or 4 groups, in rounds of at most 2 groups
    assert max(seen.generate) == 8
    log = next(log for log in trainer.state.log_history if "dapo/groups_kept" in log)
    assert log["dapo/refill_rounds"] >= 1


def test_rounds_that_cannot_fill_a_batch_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"at most 0\.75 of a batch.*max_refill_rounds to at least 3"):
        tiny_args(tmp_path, cls=DAPOConfig, max_round_batches=0.25, max_refill_rounds=2)
    tiny_args(tmp_path, cls=DAPOConfig, max_round_batches=0.25, max_refill_rounds=3)
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="max_round_batches"):
            tiny_args(tmp_path, cls=DAPOConfig, max_round_batches=value)


# ------------------------------------------------------------------------------------------------------------ details


@pytest.mark.parametrize(("pad", "ends", "filled"), [(7, 9, 7), (None, 9, 9), (None, [8, 9], 8), (None, None, 0)])
def test_shorter_chunks_are_padded_as_generate_pads(pad, ends, filled):
    PartialState()

    class Model(torch.nn.Module):
        def generate(self, input_ids, attention_mask, generation_config):
            # As many new tokens as the prompt says
            return torch.cat([input_ids, torch.full((len(input_ids), int(input_ids[0, 0])), 5)], dim=1)

    model, ids = Model(), torch.tensor([[1], [3]])
    config = GenerationConfig(max_new_tokens=4, pad_token_id=pad, eos_token_id=ends)
    with in_chunks(model, ChunkSize(1, None, 1)):
        found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    assert found.tolist() == [[1, 5, filled, filled], [3, 5, 5, 5]]


def sharded(**fields):
    settings = {"fsdp": None, "deepspeed": None, "generation_chunk_size": None, "max_tokens_per_generation_call": None}
    return SimpleNamespace(**{**settings, **fields})


@pytest.mark.parametrize("way", ["fsdp", "deepspeed"])
def test_bounds_by_which_processes_call_a_sharded_model_unequally_are_refused(way):
    with pytest.raises(ValueError, match="is called by all processes together"):
        check_sharded_calls(sharded(**{way: "on"}, max_tokens_per_generation_call=100), has_turns=False)
    with pytest.raises(ValueError, match="generation_chunk_size=4 with tools or environments"):
        check_sharded_calls(sharded(**{way: "on"}, generation_chunk_size=4), has_turns=True)
    check_sharded_calls(sharded(**{way: "on"}, generation_chunk_size=4), has_turns=False)
    check_sharded_calls(sharded(**{way: "on"}), has_turns=True)


def test_a_model_that_is_whole_in_each_process_takes_any_bound():
    check_sharded_calls(sharded(generation_chunk_size=4), has_turns=True)
    check_sharded_calls(sharded(max_tokens_per_generation_call=100), has_turns=True)
