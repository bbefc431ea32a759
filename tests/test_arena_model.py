from math import sqrt

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from trl_dapo.arena import arena_accuracy, build_model, evaluate, held_out_dataset, load_warm_start, train_dataset
from trl_dapo.arena.warm_start import WARM_START_ACCURACY


@pytest.fixture(scope="module")
def warm_start():
    return load_warm_start()


def test_random_weights_are_a_function_of_the_seed_and_leave_the_global_state():
    state = torch.get_rng_state()
    first, again, other = (build_model(seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_model_is_tiny_tied_and_in_single_precision(warm_start):
    model, tokenizer = warm_start
    # 28 * 64 embeddings (tied); per layer 4 * 64 * 64 attention, 3 * 64 * 192 MLP, 2 * 64 norms; 64 last norm:
    # 1792 + 2 * (16384 + 36864 + 128) + 64 = 108608
    assert model.num_parameters() == 108_608
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for config in (model.config, model.generation_config):
        assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert model.config._name_or_path == "arena"


def test_loading_leaves_the_global_random_state(warm_start):
    state = torch.get_rng_state()
    load_warm_start()
    assert torch.equal(torch.get_rng_state(), state)


def test_shipped_weights_reach_the_recorded_accuracy(warm_start):
    # Same 900 prompts as the record. Given the prompts, completions are independent, so the standard error of a mean
    # of N is at most sqrt(p (1 - p) / N): N = 7200 for the record, N = 1800 here. Four of the joint standard error.
    variance = WARM_START_ACCURACY * (1 - WARM_START_ACCURACY)
    bound = 4 * sqrt(variance / 7200 + variance / 1800)
    score = evaluate(*warm_start, held_out_dataset(900), samples=2, seed=1)
    assert score.accuracy == pytest.approx(WARM_START_ACCURACY, abs=bound)


def test_warm_start_leaves_something_to_learn(warm_start):
    score = evaluate(*warm_start, held_out_dataset(180), samples=8)
    # Longer walks are harder, and every style is there to be reinforced
    assert score.accuracy_by_length[2] > 0.5
    assert score.accuracy_by_length[10] < 0.3
    assert min(score.style_shares.values()) > 0.05
    assert score.truncated > 0.03


def test_saved_model_loads_as_the_same(warm_start, tmp_path):
    model, _ = warm_start
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    input_ids = torch.tensor([[9, 12, 22, 25]])
    with torch.no_grad():
        assert torch.equal(loaded(input_ids).logits, model(input_ids).logits)


def test_warm_start_trains_under_grpo(tmp_path):
    model, tokenizer = load_warm_start()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    config = GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=32,
        num_generations=8,
        max_completion_length=40,
        max_steps=2,
        learning_rate=2e-4,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to=[],
    )
    trainer = GRPOTrainer(
        model, arena_accuracy, args=config, train_dataset=train_dataset(64), processing_class=tokenizer
    )
    trainer.train()
    rewards = [entry["rewards/arena_accuracy/mean"] for entry in trainer.state.log_history[:-1]]
    assert all(0.0 <= reward <= 1.0 for reward in rewards)
    assert any(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
