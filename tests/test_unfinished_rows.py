"""Rows that have ended leave generation: the same completions, for fewer rows of the model."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from tiny import (
    conversational_dataset,
    image_dataset,
    parity_reward,
    plain_dataset,
    share_reward,
    tiny_lora,
    tiny_model,
    tiny_tokenizer,
    tiny_vlm,
)
from training import assert_same_run, build, dapo_args, record_rollouts, train
from trl_dapo import DAPOTrainer
from trl_dapo.dapo.config import TOGGLES
from trl_dapo.packing.unfinished_rows import only_unfinished_rows


END, PAD = 5, 0


def llama():
    return tiny_model(tiny_tokenizer(), layers=2)


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=108, n_embd=16, n_layer=2, n_head=2, n_positions=128))


def mistral():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return MistralForCausalLM(MistralConfig(vocab_size=108, num_key_value_heads=1, sliding_window=6, **sizes))


MODELS = {"llama": llama, "gpt2": gpt2, "mistral": mistral}


def biased(model, likelier=2.5):
    """The model, with an end that comes after some ten tokens."""
    head = model.get_output_embeddings()
    model.lm_head = torch.nn.Linear(head.in_features, head.out_features)
    with torch.no_grad():
        model.lm_head.weight.copy_(head.weight)
        model.lm_head.bias.zero_()
        model.lm_head.bias[END] = likelier
    return model.eval()


def completions(model, seed, dropping, **settings):
    """Generates from prompts of unequal length; returns the rows and how many of them each pass had."""
    torch.manual_seed(seed)
    prompts = torch.randint(10, 100, (12, 7))
    mask = torch.ones_like(prompts)
    for row in range(12):
        mask[row, : row % 5] = 0
    passes = []
    note = model.register_forward_hook(
        lambda _, args, kwargs, output: passes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    ids = {"eos_token_id": END, "pad_token_id": PAD, **settings}
    try:
        # The hook that counts rows comes before the one that puts the others back
        with only_unfinished_rows(model, [END]) if dropping else torch.no_grad():
            rows = model.generate(
                input_ids=prompts * mask,
                attention_mask=mask,
                max_new_tokens=40,
                do_sample=True,
                disable_compile=True,
                **ids,
            )
    finally:
        note.remove()
    return rows, passes


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(4))
def test_completions_are_the_same_for_fewer_rows(name, seed):
    model = biased(MODELS[name]())
    whole, all_rows = completions(model, seed, dropping=False)
    rows, fewer_rows = completions(model, seed, dropping=True)
    assert torch.equal(rows, whole)
    assert len(fewer_rows) == len(all_rows)
    assert set(all_rows) == {12}
    assert sum(fewer_rows) < 0.8 * sum(all_rows)
    assert sorted(fewer_rows, reverse=True) == fewer_rows


def test_the_random_numbers_afterwards_are_the_same():
    model, found = biased(llama()), []
    for dropping in (True, False):
        completions(model, 1, dropping)
        found.append(torch.rand(3))
    assert torch.equal(*found)


def test_a_second_call_begins_with_all_rows():
    model = biased(llama())
    once = completions(model, 3, dropping=True)[0]
    with only_unfinished_rows(model, [END]):
        for _ in range(2):
            assert torch.equal(completions(model, 3, dropping=False)[0], once)


def test_nothing_is_left_on_the_model():
    model = biased(llama())
    completions(model, 0, dropping=True)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


@pytest.mark.parametrize(
    "settings", [{"cache_implementation": "static"}, {"use_cache": False}], ids=["static", "no-cache"]
)
def test_without_a_cache_that_can_shrink_all_rows_are_computed(settings):
    model = biased(llama())
    whole, _ = completions(model, 2, dropping=False, **settings)
    rows, passes = completions(model, 2, dropping=True, **settings)
    assert torch.equal(rows, whole)
    assert set(passes) == {12}


def test_rows_that_never_end_are_all_computed():
    model = biased(llama(), likelier=-100.0)
    _, passes = completions(model, 0, dropping=True)
    assert set(passes) == {12}
    assert len(passes) == 40


# ------------------------------------------------------------------------------------------------------------- trainer


def both(tmp_path, **kwargs):
    fields = {
        "max_completion_length": 24,
        "compact_microbatches": False,
        "max_refill_rounds": 2,
        **kwargs.pop("fields", {}),
    }
    settings = {"reward_funcs": parity_reward, "train_dataset": plain_dataset(64), **kwargs}
    runs, rollouts = [], []
    for drops in (True, False):

        def prepare(trainer):
            rollouts.append(record_rollouts(trainer))
            # Half of the rows end early
            trainer.generation_config.eos_token_id = [trainer._tokenizer.eos_token_id, *range(20, 28)]

        made = {
            key: value() if callable(value) and key in ("model", "make") else value for key, value in settings.items()
        }
        made |= made.pop("make", {})
        runs.append(
            train(DAPOTrainer, dapo_args(tmp_path, drop_finished_rows=drops, **fields), prepare=prepare, **made)
        )
    return runs, rollouts


@pytest.mark.parametrize(
    "kwargs",
    [
        pytest.param({}, id="text"),
        pytest.param({"peft_config": tiny_lora()}, id="peft"),
        pytest.param({"train_dataset": conversational_dataset(64)}, id="conversational"),
        pytest.param({"fields": {"gradient_checkpointing": True}}, id="checkpointing"),
        pytest.param({"fields": {"generation_kwargs": {"num_beams": 2}}}, id="beams"),
    ],
)
def test_training_is_the_same(tmp_path, kwargs):
    (ours, theirs), rollouts = both(tmp_path, **kwargs)
    for one, other in zip(*rollouts, strict=True):
        assert torch.equal(one["completion_ids"], other["completion_ids"])
    assert_same_run(ours, theirs)
    assert len(rollouts[0]) > 1


def test_images_are_generated_as_by_trl(tmp_path):
    def make():
        model, processor = tiny_vlm("qwen")
        return {"model": model, "processing_class": processor}

    (ours, theirs), _ = both(
        tmp_path,
        make=make,
        train_dataset=image_dataset(16, None),
        reward_funcs=share_reward,
        fields={"dynamic_sampling": False, "max_completion_length": 8},
    )
    assert_same_run(ours, theirs)


def test_with_every_toggle_off_nothing_is_dropped(tmp_path):
    entered = []

    def trainer_of(**fields):
        return build(
            DAPOTrainer, dapo_args(tmp_path, **fields), reward_funcs=parity_reward, train_dataset=plain_dataset(64)
        )

    for fields in ({}, dict.fromkeys(TOGGLES, False), {"drop_finished_rows": False}):
        entered.append(trainer_of(**fields).can_drop_finished_rows)
    assert entered == [True, False, False]
    assert not trainer_of(generation_kwargs={"num_beams": 2}).can_drop_finished_rows
