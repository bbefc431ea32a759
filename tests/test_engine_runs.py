"""Whole runs with an engine that keeps vLLM's rules: evaluations, refills, sleep, importance sampling, resume."""

import json
import logging
import math

import pytest
import torch
from transformers import TrainerCallback

import stand_in_engine
from test_adapter_engine import arguments, quantized_model
from tiny import parity_reward, plain_dataset, rare_reward, tiny_lora, tiny_tokenizer
from training import assert_same_tensors, record_rollouts, train
from trl_dapo import DAPOTrainer, EvaluationCallback, GRPOTrainer
from trl_dapo.rollouts.engine import seeded


# Seconds, and what is rounding alone
LEFT_OUT = ("step_time", "dapo/generation_seconds", "dapo/update_seconds", "rollout/sync_difference")
WAYS = {
    "adapter": {},
    "adapter_asleep": {"vllm_enable_sleep_mode": True},
    "dense": {"vllm_sync": "dense"},
    "dense_asleep": {"vllm_sync": "dense", "vllm_enable_sleep_mode": True},
}
every_way = pytest.mark.parametrize("way", WAYS)


class Evaluates(TrainerCallback):
    """Adds an [`EvaluationCallback`] once there is a trainer."""

    def __init__(self, **fields):
        self.fields, self.callback = fields, None

    def add_to(self, trainer):
        settings = {"k": 2, "every": 1, "batch_size": 6, "max_new_tokens": 5, **self.fields}
        held_out = plain_dataset(5).remove_columns("answer")
        self.callback = EvaluationCallback(trainer, {"held": held_out}, parity_reward, **settings)
        trainer.add_callback(self.callback)


def go(folder, reward=parity_reward, cls=DAPOTrainer, evaluates=None, resume=None, prompts=13, **fields):
    """A run on a 4-bit base whose adapter is not 0 at the start; returns it and its rollouts."""
    rollouts = []

    def prepare(trainer):
        rollouts.append(record_rollouts(trainer))
        if evaluates is not None:
            evaluates.add_to(trainer)

    torch.manual_seed(0)  # for the adapter
    result = train(
        cls,
        arguments(folder, cls, **fields),
        model=quantized_model(folder),
        peft_config=tiny_lora(init_lora_weights=False),
        reward_funcs=reward,
        train_dataset=plain_dataset(prompts),
        prepare=prepare,
        resume=resume,
    )
    return result, rollouts[0]


def numbers(logs):
    return [{name: value for name, value in log.items() if name not in LEFT_OUT} for log in logs]


def assert_same(first, second):
    assert_same_tensors(first.parameters, second.parameters)
    assert len(first.logs) == len(second.logs) > 0
    for one, other in zip(numbers(first.logs), numbers(second.logs), strict=True):
        assert one == pytest.approx(other, nan_ok=True, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("cls", "way"), [(DAPOTrainer, way) for way in WAYS] + [(GRPOTrainer, "adapter")])
def test_evaluations_leave_no_trace_in_training(tmp_path, monkeypatch, cls, way):
    stand_in_engine.install(monkeypatch)
    alone, _ = go(tmp_path / "alone", cls=cls, **WAYS[way])
    evaluates = Evaluates()
    beside, _ = go(tmp_path / "beside", cls=cls, evaluates=evaluates, **WAYS[way])
    assert sorted(evaluates.callback.results) == [0, 1, 2, 3]
    # A sync that comes with an evaluation is checked there, and its difference is logged with the next rollout
    assert_same(alone, beside)
    engine, generation = stand_in_engine.LLM.made[-1], beside.trainer.vllm_generation
    assert generation.temperature == beside.trainer.args.temperature
    assert generation.max_completion_length == beside.trainer.args.max_completion_length
    assert generation.llm.unchecked is None
    assert engine.asleep == ({"weights", "kv_cache"} if "asleep" in way else set())


def answers(folder, step):
    lines = (folder / "evaluations" / f"step-{step}" / "samples" / "held.jsonl").read_text().splitlines()
    rows = sorted((json.loads(line) for line in lines), key=lambda one: int(one["question_id"]))
    return [one["completion"] for one in rows]


@every_way
def test_an_evaluation_has_the_answers_that_the_model_itself_gives(tmp_path, monkeypatch, way):
    stand_in_engine.install(monkeypatch)
    evaluates = Evaluates(temperature=0.0, k=1, at_start=False, every=3)
    result, _ = go(tmp_path, evaluates=evaluates, **WAYS[way])
    tokenizer, expected = tiny_tokenizer(), []
    model = result.trainer.model.train()  # in eval mode, bitsandbytes has no kernel on a CPU for layers this small
    for prompt in plain_dataset(5)["prompt"]:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        drawn = model.generate(input_ids=ids, do_sample=False, max_new_tokens=5)[0, ids.shape[1] :]
        expected.append(tokenizer.decode(drawn, skip_special_tokens=True))
    assert answers(tmp_path, 3) == expected
    assert len(set(expected)) > 1


@every_way
def test_an_evaluation_at_the_end_is_of_the_weights_that_were_loaded_then(tmp_path, monkeypatch, way):
    engines = stand_in_engine.install(monkeypatch)
    result, _ = go(tmp_path, **WAYS[way])
    trainer = result.trainer
    # As `load_best_model_at_end` does: other weights at the same step, of which TRL tells the engine nothing
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-3.0)
    before = len(engines[0].calls)
    trainer.vllm_generation.generate([[20, 30, 40]], None, 1)
    assert trainer.vllm_generation.take_differences() == [pytest.approx(0, abs=1e-5)]
    loads = engines[0].calls[before:].count("add_lora")
    assert loads == ("dense" not in way)


REFILLS = {"max_refill_rounds": 3, "max_steps": 4}


@pytest.mark.parametrize("sync", ["adapter", "dense"])
def test_refill_rounds_are_the_same_while_the_engine_sleeps_between(tmp_path, monkeypatch, sync):
    engines = stand_in_engine.install(monkeypatch)
    awake, rollouts = go(tmp_path / "awake", rare_reward, vllm_sync=sync, **REFILLS)
    asleep, _ = go(tmp_path / "asleep", rare_reward, vllm_sync=sync, vllm_enable_sleep_mode=True, **REFILLS)
    rounds = [log["dapo/refill_rounds"] for log in awake.logs]
    assert sum(rounds) > 0
    assert_same(awake, asleep)
    for one in rollouts:
        apart = (one["old_per_token_logps"] - one["sampling_per_token_logps"]) * one["completion_mask"]
        assert apart.abs().max() < 1e-5
    if sync == "adapter":
        for engine in engines:
            # Each of the rollouts is of a policy of its own, and has several rounds
            assert engine.calls.count("add_lora") == len(rollouts)
            assert engine.calls.count("reset_prefix_cache") == len(rollouts)
            # One more call for each check of a sync
            assert engine.calls.count("generate") == awake.generations + len(rollouts)
        assert engines[1].calls.count("sleep 1") == awake.generations + 1
        assert "sleep 2" not in engines[1].calls


def test_a_policy_that_has_not_changed_is_not_sent_again(tmp_path, monkeypatch):
    engines = stand_in_engine.install(monkeypatch)
    result, _ = go(tmp_path, vllm_enable_sleep_mode=True)
    before = len(engines[0].calls)
    result.trainer.vllm_generation.generate([[20, 30]], None, 1)
    result.trainer.vllm_generation.generate([[20, 30]], None, 1)
    once = ["wake_up ['weights']", "wake_up ['kv_cache']", "generate", "sleep 1"]
    later = engines[0].calls[before:]
    assert later[-4:] == once
    assert later.count("add_lora") <= 1  # after the last update


def test_a_16_bit_engine_beside_a_4_bit_trainer(tmp_path, monkeypatch):
    engines = stand_in_engine.install(monkeypatch)
    result, rollouts = go(tmp_path, vllm_base="16bit", vllm_importance_sampling_correction=True)
    limits = result.trainer.vllm_generation.sync_check._limits
    assert (limits.nats, limits.share) == (1.0, 0.5)
    assert engines[0].arguments["quantization"] is None
    assert engines[0].arguments["load_format"] == "auto"
    for log in result.logs:
        if "rollout/sync_difference" in log:
            assert 0 < log["rollout/sync_difference"] < 0.2
            assert log["rollout/mismatch_k3"] > 0
            assert 0 < log["rollout/effective_sample_size"] < 1
            assert log["sampling/importance_sampling_ratio/mean"] != 1
    ratio = rollouts[0]["importance_sampling_ratio"]
    given = rollouts[0]["old_per_token_logps"] - rollouts[0]["sampling_per_token_logps"]
    counted = (given * rollouts[0]["completion_mask"]).abs()
    assert counted.max() > 1e-4
    assert (ratio != 1).any()


@pytest.mark.parametrize("vllm_base", ["4bit", "16bit"])
def test_the_metrics_of_a_run_are_those_of_its_rows(tmp_path, monkeypatch, vllm_base):
    stand_in_engine.install(monkeypatch)
    result, rollouts = go(tmp_path, vllm_base=vllm_base, vllm_importance_sampling_correction=True)
    one = rollouts[0]
    total = tokens = 0
    weights = []
    for trainer, sampler, mask in zip(
        one["old_per_token_logps"].tolist(),
        one["sampling_per_token_logps"].tolist(),
        one["completion_mask"].tolist(),
        strict=True,
    ):
        ratios = [math.exp(t - s) for t, s, m in zip(trainer, sampler, mask, strict=True) if m]
        total += sum(r - 1 - math.log(r) for r in ratios)
        tokens += len(ratios)
        weights.append(math.prod(ratios))
    log = result.logs[0]
    assert log["rollout/mismatch_k3"] == pytest.approx(total / tokens, abs=1e-9)
    size = sum(weights) ** 2 / (len(weights) * sum(weight**2 for weight in weights))
    assert log["rollout/effective_sample_size"] == pytest.approx(size, rel=1e-6)


@pytest.mark.parametrize(("clip_max", "out"), [(3.0, 0.0), (1e-9, 1.0)])
def test_groups_that_sequence_masking_takes_out_are_counted_and_said(tmp_path, monkeypatch, caplog, clip_max, out):
    stand_in_engine.install(monkeypatch)
    fields = {
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "sequence_mask",
        "vllm_importance_sampling_clip_max": clip_max,
    }
    with caplog.at_level(logging.WARNING):
        result, _ = go(tmp_path, **fields)
    found = [log["rollout/masked_groups"] for log in result.logs if "rollout/masked_groups" in log]
    assert found == [out] * 2  # rollouts
    said = [one.message for one in caplog.records if "Importance sampling takes" in one.message]
    assert bool(said) == (out > 0)
    if said:
        assert "takes 100% of the groups out of the loss" in said[0]
        assert "vllm_importance_sampling_mode='token_truncate'" in said[0]
        assert all(log["loss"] == 0 for log in result.logs)


def test_without_a_mode_that_masks_no_group_is_counted(tmp_path, monkeypatch):
    stand_in_engine.install(monkeypatch)
    result, _ = go(tmp_path, vllm_importance_sampling_correction=True, vllm_importance_sampling_mode="token_truncate")
    assert not any("rollout/masked_groups" in log for log in result.logs)


RESUMES = [("adapter", 2, rare_reward), ("adapter_asleep", 3, rare_reward), ("dense_asleep", 4, parity_reward)]


@pytest.mark.parametrize(("way", "stop", "reward"), RESUMES)
def test_a_run_that_was_stopped_is_the_one_that_was_not(tmp_path, monkeypatch, way, stop, reward):
    stand_in_engine.install(monkeypatch)
    fields = {"save_strategy": "steps", "save_steps": 1, "max_refill_rounds": 3, "max_steps": 5, **WAYS[way]}
    whole, _ = go(tmp_path, reward, **fields)
    if reward is rare_reward:
        assert sum(log["dapo/refill_rounds"] for log in whole.logs) > 0
    # Step 3 lies within a rollout of two updates
    resumed, _ = go(tmp_path, reward, resume=str(tmp_path / f"checkpoint-{stop}"), **fields)
    assert_same(resumed, whole)


def test_completions_of_a_prompt_differ(tmp_path, monkeypatch):
    stand_in_engine.install(monkeypatch)
    result, _ = go(tmp_path)
    _, rows, *_ = result.trainer.vllm_generation.generate([[20, 30]] * 4, None, 4)
    assert len({tuple(row) for row in rows}) == 4


def test_seeds_are_torchs_and_one_that_was_given_stays():
    torch.manual_seed(0)
    first = [one.seed for one in seeded(stand_in_engine.SamplingParams(), 5)]
    torch.manual_seed(0)
    assert [one.seed for one in seeded(stand_in_engine.SamplingParams(), 5)] == first
    assert len(set(first)) == 5
    assert [one.seed for one in seeded(stand_in_engine.SamplingParams(seed=3), 2)] == [3, 3]
