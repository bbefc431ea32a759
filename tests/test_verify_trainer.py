"""`verify(trainer)`: what it finds with a model, with and without a fault, and that it leaves no trace."""

import random

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset

from preferences import pairs, preference_args, tiny_reward_model
from tiny import (
    CountingEnvironment,
    multiply,
    parity_reward,
    plain_dataset,
    scripted_rollout,
    share_reward,
    snapshot,
    tiny_args,
    tiny_lora,
    tiny_model,
    tiny_tokenizer,
    tiny_tool_tokenizer,
)
from training import assert_same_run, assert_same_tensors, build, dapo_args, train
from trl_dapo import (
    DAPOConfig,
    DAPOTrainer,
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    PPOConfig,
    PPOTrainer,
    RewardConfig,
    RewardTrainer,
    verify,
)
from trl_dapo.arena import arena_accuracy, load_warm_start, train_dataset
from trl_dapo.host import probing
from trl_dapo.host.probed_step import one_step
from trl_dapo.verification.certificate import setup_of
from trl_dapo.verification.findings import Report
from trl_dapo.verification.model_checks import check_agreement
from verifying import by_name


def arena_trainer(tmp_path, cls=DAPOTrainer, config=DAPOConfig, reward=arena_accuracy, change=None, **fields):
    """A trainer on the arena whose settings are right by every check."""
    model, tokenizer = load_warm_start()
    if change is not None:
        model = change(model)
    own = {"updates_per_rollout": 2, "warmup_steps": 1} if cls is DAPOTrainer else {}
    given = {"num_generations": 8, "max_completion_length": 80, "learning_rate": 2e-4, "temperature": 1.0}
    peft = fields.pop("peft_config", None)
    args = tiny_args(
        tmp_path,
        cls=config,
        **{"steps_per_generation": 2, **given, **fields} if not own else {**own, **given, **fields},
    )
    return cls(model, reward, args=args, train_dataset=train_dataset(64), processing_class=tokenizer, peft_config=peft)


def look(trainer, **limits) -> Report:
    return verify(trainer, **{"prompts": 4, "completions": 8, **limits})


def complaints(report: Report) -> dict[str, str]:
    """Checks that warned or failed, with their status."""
    return {name: one.status for name, one in by_name(list(report.findings)).items() if one.status in ("warn", "fail")}


def nothing_right(completions, **kwargs):
    return [0.0] * len(completions)


# -------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("cls", "config"),
    [(DAPOTrainer, DAPOConfig), (GRPOTrainer, GRPOConfig), (trl.GRPOTrainer, trl.GRPOConfig), (PPOTrainer, PPOConfig)],
)
def test_a_run_without_a_fault_has_nothing_to_complain_of(tmp_path, cls, config):
    fields = {} if cls is not PPOTrainer else {"peft_config": tiny_lora(), "num_generations": 1}
    report = look(arena_trainer(tmp_path, cls, config, **fields))
    assert complaints(report) == {}, str(report)
    found = by_name(list(report.findings))
    assert found["first_step"].status == found["sampler_agrees"].status == found["right_answers"].status == "pass"
    assert found["reference"].status == ("pass" if cls is PPOTrainer else "skipped")


def test_another_temperature_in_generation_is_seen(tmp_path):
    trainer = arena_trainer(tmp_path, trl.GRPOTrainer, trl.GRPOConfig, generation_kwargs={"temperature": 0.2})
    report = look(trainer)
    assert set(complaints(report)) == {"sampler_agrees"}, str(report)
    assert report.finding("sampler_agrees").numbers["mean"] > 0.05
    assert report.finding("sampler_agrees").setting == "temperature: 0.2, and none in generation_kwargs"


@pytest.mark.parametrize(
    ("apart", "fields", "status", "setting"),
    [
        # bfloat16 rounds by 8 * 2^-7 = 0.0625
        (0.06, {"bf16": True}, "pass", None),
        (0.07, {"bf16": True}, "warn", "bf16: false"),
        (0.11, {"bf16": True}, "fail", "bf16: false"),
        (0.00009, {"bf16": False}, "pass", None),
        (0.0002, {"bf16": False}, "warn", "disable_dropout: true, and no dropout in the model's config"),
    ],
)
def test_rounding_is_no_fault_of_the_sampler(tmp_path, monkeypatch, apart, fields, status, setting):
    trainer = arena_trainer(tmp_path, **fields)
    trained = probing.trained_logps

    def shifted(trainer, completions):
        # As far from the sampler's, in each token, however the model rounds
        logps, mask = trained(trainer, completions)
        object.__setattr__(completions, "logps", (logps - apart).tolist())
        return logps, mask

    monkeypatch.setattr(probing, "trained_logps", shifted)
    finding = check_agreement(trainer, setup_of(trainer))
    assert (finding.status, finding.setting) == (status, setting), finding.message


def test_a_dropout_that_is_left_on_is_seen(tmp_path):
    def with_dropout(model):
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.5
        return model

    trainer = arena_trainer(tmp_path, trl.GRPOTrainer, trl.GRPOConfig, change=with_dropout)
    # As a model that was loaded from a folder is, until it trains
    trainer.model.eval()
    assert "sampler_agrees" in complaints(look(trainer))
    # `disable_dropout` knows modules, and this one is a number of the attention: set to 0 there is no fault
    for layer in trainer.model.model.layers:
        layer.self_attn.attention_dropout = 0.0
    assert complaints(look(trainer)) == {}


def test_a_learning_rate_that_the_precision_rounds_away_is_seen(tmp_path):
    trainer = arena_trainer(tmp_path, change=lambda model: model.to(torch.bfloat16), learning_rate=1e-6)
    report = look(trainer)
    finding = report.finding("first_step")
    assert finding.status in ("warn", "fail")
    assert finding.numbers["moved"] < 0.1
    assert "bfloat16" in finding.message
    assert set(complaints(report)) == {"first_step"}, str(report)


def test_a_learning_rate_of_0_trains_nothing(tmp_path):
    assert complaints(look(arena_trainer(tmp_path, learning_rate=0.0))) == {"first_step": "fail"}


def test_a_policy_that_has_left_its_reference_is_seen(tmp_path):
    trainer = arena_trainer(tmp_path, trl.GRPOTrainer, trl.GRPOConfig, peft_config=tiny_lora(), beta=0.1)
    assert complaints(look(trainer)) == {}
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter += 0.05
    assert complaints(look(trainer)) == {"reference": "warn"}


def test_a_data_set_with_no_right_answer_fails(tmp_path):
    report = look(arena_trainer(tmp_path, reward=nothing_right))
    assert complaints(report) == {"right_answers": "fail"}
    assert report.exit_code == 1


def test_a_reward_that_raises_on_a_completion_fails_with_its_name(tmp_path):
    def fragile(completions, **kwargs):
        # Self-checks, which no answer that is written by hand has
        if any("?" in completion for completion in completions):
            raise IndexError("list index out of range")
        return [1.0] * len(completions)

    report = look(arena_trainer(tmp_path, reward=fragile))
    assert complaints(report) == {"right_answers": "fail"}
    assert "IndexError" in report.finding("right_answers").message
    assert report.finding("truncation").message == "see right_answers"


def test_a_penalty_of_the_whole_distance_fails(tmp_path):
    report = look(arena_trainer(tmp_path, overlong_penalty_factor=1.0))
    assert complaints(report) == {"length_penalty": "fail"}
    assert report.finding("length_penalty").setting == "overlong_penalty_factor: 0.5, or leave it out"


def test_completions_that_are_cut_are_seen(tmp_path):
    report = look(arena_trainer(tmp_path, max_completion_length=2))
    assert complaints(report)["truncation"] == "fail"


def test_trained_weights_without_a_gradient_are_counted():
    model = tiny_model(tiny_tokenizer())
    idle = one_step(model, lambda model: model.lm_head.weight * 0, 1e-2)
    assert (idle.with_gradient, idle.moved, idle.change) == (0, 0, 0.0)
    # The sum of 108 x 16 weights: each has the gradient 1 and moves by 0.25, which float32 does not round away
    before = snapshot(model)
    step = one_step(model, lambda model: model.lm_head.weight * 1, 0.25)
    assert (step.with_gradient, step.moved) == (108 * 16, 108 * 16)
    assert step.change == pytest.approx(0.25)
    assert_same_tensors(before, snapshot(model))


# --------------------------------------------------------------------------------------------------------- preferences


def dpo_trainer(tmp_path, cls=DPOTrainer, config=DPOConfig, **kwargs):
    tokenizer = tiny_tokenizer()
    fields = {name: kwargs.pop(name) for name in [*kwargs] if name in config.__dataclass_fields__}
    args = preference_args(config, tmp_path, **fields)
    kwargs.setdefault("ref_model", None if args.__dict__.get("reference_free") else tiny_model(tokenizer))
    kwargs.setdefault("train_dataset", pairs())
    return cls(tiny_model(tokenizer), args=args, processing_class=tokenizer, **kwargs)


def reward_trainer(tmp_path, model=None, **kwargs):
    tokenizer = tiny_tokenizer()
    args = preference_args(RewardConfig, tmp_path)
    model = tiny_reward_model(tokenizer) if model is None else model
    return RewardTrainer(model, args=args, train_dataset=pairs(), processing_class=tokenizer, **kwargs)


@pytest.mark.parametrize(("cls", "config"), [(DPOTrainer, DPOConfig), (trl.DPOTrainer, trl.DPOConfig)])
def test_dpo_begins_at_log_2(tmp_path, cls, config):
    report = look(dpo_trainer(tmp_path, cls, config))
    assert complaints(report) == {}, str(report)
    # -log sigmoid(0) = log 2 = 0.6931
    assert report.finding("first_loss").numbers["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert report.finding("reference").numbers["difference"] == 0


def test_dpo_with_another_reference_does_not(tmp_path):
    report = look(dpo_trainer(tmp_path, ref_model=tiny_model(tiny_tokenizer(), seed=1), beta=2.0))
    assert complaints(report) == {"reference": "warn", "first_loss": "warn"}


def test_dpo_without_a_reference_is_not_held_against_one(tmp_path):
    report = look(dpo_trainer(tmp_path, reference_free=True))
    assert complaints(report) == {}
    assert report.finding("first_loss").status == report.finding("reference").status == "skipped"


def test_a_reward_model_begins_near_log_2_with_a_head_that_is_trained(tmp_path):
    assert complaints(look(reward_trainer(tmp_path))) == {}


def test_a_head_that_is_frozen_fails(tmp_path):
    model = tiny_reward_model()
    model.score.weight.requires_grad_(False)
    report = look(reward_trainer(tmp_path, model))
    assert complaints(report) == {"reward_head": "fail"}
    assert report.exit_code == 1


def test_a_head_that_was_trained_already_is_told(tmp_path):
    model = tiny_reward_model()
    with torch.no_grad():
        model.score.weight *= 10000
    assert complaints(look(reward_trainer(tmp_path, model))) == {"first_loss": "warn"}


# ------------------------------------------------------------------------------------------------------------ no trace


def no_times(logs):
    """What was logged, without what a clock says; as text, since one NaN is not another."""
    clocks = ("time", "seconds", "per_second")
    return [repr({name: log[name] for name in log if not any(one in name for one in clocks)}) for log in logs]


@pytest.mark.parametrize(
    ("cls", "args", "kwargs"),
    [
        (DAPOTrainer, lambda path: dapo_args(path), {}),
        (DAPOTrainer, lambda path: dapo_args(path, surplus="carry", beta=0.1), {"peft_config": tiny_lora()}),
        (GRPOTrainer, lambda path: tiny_args(path, cls=GRPOConfig), {}),
        (trl.GRPOTrainer, lambda path: tiny_args(path), {}),
        (
            PPOTrainer,
            lambda path: tiny_args(path, cls=PPOConfig, num_generations=1, num_iterations=1),
            {"peft_config": tiny_lora(lora_dropout=0.2)},
        ),
    ],
)
def test_training_after_it_is_training_without_it(tmp_path, cls, args, kwargs):
    reports = []
    plain = train(cls, args(tmp_path), reward_funcs=share_reward, **kwargs)
    after = train(
        cls, args(tmp_path), reward_funcs=share_reward, prepare=lambda trainer: reports.append(look(trainer)), **kwargs
    )
    assert_same_run(plain, after)
    assert no_times(plain.logs) == no_times(after.logs)
    assert reports[0].finding("right_answers").status != "skipped"


@pytest.mark.parametrize("make", [dpo_trainer, reward_trainer])
def test_training_on_pairs_after_it_is_training_without_it(tmp_path, make):
    trained = []
    for looks in (False, True):
        trainer = make(tmp_path)
        if looks:
            look(trainer)
        trainer.train()
        trained.append((snapshot(trainer.model), no_times(trainer.state.log_history)))
    assert_same_tensors(trained[0][0], trained[1][0])
    assert trained[0][1] == trained[1][1]


def test_nothing_of_a_trainer_is_changed(tmp_path):
    trainer = build(DAPOTrainer, dapo_args(tmp_path), reward_funcs=share_reward)
    trainer.model.eval()
    before, weights, state = dict(vars(trainer)), snapshot(trainer.model), vars(trainer.state).copy()
    metrics = {mode: dict(values) for mode, values in trainer._metrics.items()}
    modes = [module.training for module in trainer.model.modules()]
    numbers = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    files = sorted(tmp_path.rglob("*"))
    look(trainer)
    assert vars(trainer).keys() == before.keys()
    assert all(vars(trainer)[name] is before[name] for name in before)
    assert_same_tensors(weights, snapshot(trainer.model))
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert vars(trainer.state) == state
    assert {mode: dict(values) for mode, values in trainer._metrics.items()} == metrics
    assert [module.training for module in trainer.model.modules()] == modes
    assert (random.getstate(), np.random.get_state()[1].tolist()) == numbers[:2]
    assert torch.equal(torch.get_rng_state(), numbers[2])
    assert sorted(tmp_path.rglob("*")) == files


def test_what_a_reward_function_counts_is_put_back(tmp_path):
    class Counting:
        __name__ = "counting"

        def __init__(self):
            self.calls, self.seen = 0, []

        def __call__(self, completion_ids, **kwargs):
            self.calls += 1
            self.seen.append(len(completion_ids))
            return share_reward(completion_ids)

    reward = Counting()
    look(build(DAPOTrainer, dapo_args(tmp_path), reward_funcs=reward))
    assert (reward.calls, reward.seen) == (0, [])


def test_buffers_are_put_back(tmp_path):
    def counting(completion_ids, **kwargs):
        trainer.model.passes += 1
        return share_reward(completion_ids)

    trainer = build(DAPOTrainer, dapo_args(tmp_path), reward_funcs=counting)
    trainer.model.register_buffer("passes", torch.zeros(1))
    look(trainer)
    assert trainer.model.passes.item() == 0


def test_reward_models_stay_as_they_are(tmp_path):
    given = {
        "reward_funcs": [tiny_reward_model(), share_reward],
        "reward_processing_classes": [tiny_tokenizer(), None],
    }
    trainer = build(trl.GRPOTrainer, tiny_args(tmp_path), **given)
    parameters = [*trainer.reward_funcs[0].parameters()]
    report = look(trainer)
    assert all(one is other for one, other in zip(parameters, trainer.reward_funcs[0].parameters(), strict=True))
    assert report.finding("right_answers").status == "pass"
    assert report.finding("answer_format").status == "skipped"


def test_a_check_that_is_interrupted_leaves_no_trace_either(tmp_path):
    def interrupted(completion_ids, **kwargs):
        raise KeyboardInterrupt

    trainer = build(DAPOTrainer, dapo_args(tmp_path), reward_funcs=interrupted)
    before, weights = dict(vars(trainer)), snapshot(trainer.model)
    with pytest.raises(KeyboardInterrupt):
        look(trainer)
    assert all(vars(trainer)[name] is before[name] for name in before)
    assert_same_tensors(weights, snapshot(trainer.model))


# ------------------------------------------------------------------------------------------- what cannot be looked at


def test_rows_that_a_rollout_func_makes_are_probed_and_its_sampler_is_not(tmp_path):
    trainer = build(
        DAPOTrainer,
        dapo_args(tmp_path),
        reward_funcs=parity_reward,
        rollout_func=scripted_rollout(),
        train_dataset=plain_dataset(32),
    )
    report = look(trainer, completions=4)
    assert report.finding("sampler_agrees").status == "skipped"
    # Of scripted rows, every other is rewarded, and one in three has no end
    assert report.finding("right_answers").numbers["pass_rate"] == 0.5
    assert report.finding("truncation").numbers["cut"] == 0.25


def test_environments_and_tools_are_skipped_with_the_reason(tmp_path):
    args, tokenizer = dapo_args(tmp_path, max_completion_length=16), tiny_tool_tokenizer()
    chats = Dataset.from_dict({"prompt": [[{"role": "user", "content": "1"}]] * 8})
    for given, why in (
        ({"environment_factory": CountingEnvironment}, "an environment"),
        ({"tools": [multiply]}, "tools"),
    ):
        trainer = build(
            DAPOTrainer, args, reward_funcs=parity_reward, processing_class=tokenizer, train_dataset=chats, **given
        )
        report = look(trainer)
        assert why in report.finding("right_answers").message
        assert report.finding("first_step").status == "pass"


def test_what_is_no_trainer_is_refused(tmp_path):
    trainer = build(DAPOTrainer, dapo_args(tmp_path), reward_funcs=share_reward)
    with pytest.raises(ValueError, match="`prompts` must be at least 1"):
        verify(trainer, prompts=0)
    trainer.accelerator = type("Many", (), {"num_processes": 2})()
    with pytest.raises(ValueError, match="several"):
        verify(trainer)
