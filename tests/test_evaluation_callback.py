"""Held-out accuracy during training: the metrics that are logged, and training that goes on as without it."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean

import pytest
import torch
from transformers import EarlyStoppingCallback
from trl import GRPOTrainer as HostTrainer
from trl import RLOOConfig, RLOOTrainer

from ppo_runs import ppo_args
from tiny import parity_reward, plain_dataset, snapshot, tiny_args
from training import assert_same_tensors, build, dapo_args, host_args
from trl_dapo import DAPOTrainer, EvaluationCallback, GRPOConfig, GRPOTrainer, PPOTrainer
from trl_dapo.evaluation.generation import Text, TransformersSampler
from trl_dapo.evaluation.results import ResultsFolder, read_results, read_samples
from trl_dapo.evaluation.runner import evaluate, make_problems
from trl_dapo.evaluation.samples import score_data_set
from trl_dapo.evaluation.settings import Protocol


HERE = Path(__file__).parent


# 2 accumulation steps an update, 2 updates a rollout: an evaluation after the first step is within a rollout
FIELDS = {
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 4,
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
}
HELD_OUT = plain_dataset(5).remove_columns("answer")


def trl_grpo(folder, **fields):
    return HostTrainer, host_args(dapo_args(folder, **{**FIELDS, "overlong_filtering": False, **fields}))


def rloo(folder, **fields):
    return RLOOTrainer, tiny_args(folder, cls=RLOOConfig, **{**FIELDS, "beta": 0.0, **fields})


def grpo(folder, **fields):
    return GRPOTrainer, tiny_args(folder, cls=GRPOConfig, **{**FIELDS, **fields})


def grpo_packed(folder, **fields):
    return grpo(folder, max_tokens_per_microbatch=60, **fields)


def dapo(folder, **fields):
    return DAPOTrainer, dapo_args(folder, **{**FIELDS, "overlong_filtering": False, "max_refill_rounds": 1, **fields})


def ppo(folder, **fields):
    return PPOTrainer, ppo_args(folder, **{**FIELDS, "num_iterations": 2, "beta": 0.0, **fields})


TRAINERS = [trl_grpo, rloo, grpo, grpo_packed, dapo, ppo]
every_trainer = pytest.mark.parametrize("make", TRAINERS, ids=lambda make: make.__name__)


def trainer_of(make, folder, **fields):
    cls, args = make(folder, **fields)
    evaluation = {"eval_dataset": plain_dataset(4)} if args.eval_strategy != "no" else {}
    return build(cls, args, reward_funcs=parity_reward, train_dataset=plain_dataset(32), **evaluation)


def with_callback(trainer, **fields):
    settings = {"k": 2, "every": 1, "batch_size": 6, "max_new_tokens": 5, **fields}
    callback = EvaluationCallback(trainer, {"held": HELD_OUT}, parity_reward, **settings)
    trainer.add_callback(callback)
    return callback


@functools.cache
def undisturbed(make):
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(make, folder)
        trainer.train()
        return snapshot(trainer.model), train_logs(trainer)


def train_logs(trainer):
    seconds = ("step_time", "dapo/generation_seconds", "dapo/update_seconds", "train_runtime")
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return [{name: value for name, value in log.items() if name not in seconds} for log in logs]


def evaluations(trainer, name="eval_held_avg@2"):
    return [log for log in trainer.state.log_history if name in log]


@every_trainer
def test_training_goes_on_bit_for_bit_as_without_the_callback(tmp_path, make):
    parameters, logs = undisturbed(make)
    trainer = trainer_of(make, tmp_path)
    callback = with_callback(trainer)
    trainer.train()
    assert_same_tensors(snapshot(trainer.model), parameters)
    assert len(logs) == 3
    for one, other in zip(train_logs(trainer), logs, strict=True):
        assert one == pytest.approx(other, nan_ok=True)
    found = evaluations(trainer)
    assert [log["step"] for log in found] == [0, 1, 2, 3]
    assert sorted(callback.results) == [0, 1, 2, 3]
    assert all(0 <= log["eval_held_avg@2"] <= log["eval_held_pass@2"] <= 1 for log in found)
    assert all(0 < log["eval_held_mean_length"] <= 5 for log in found)


def test_the_scores_are_those_of_the_samples_in_the_folder(tmp_path):
    trainer = trainer_of(grpo, tmp_path, max_steps=1)
    callback = with_callback(trainer, k=3)
    trainer.train()
    for step in (0, 1):
        folder = tmp_path / "evaluations" / f"step-{step}"
        content = read_results(folder)
        assert content["complete"]
        assert (content["settings"]["step"], content["settings"]["k"]) == (step, 3)
        samples = read_samples(folder / "samples" / "held.jsonl")
        assert [(one.question_id, one.sample) for one in samples] == [(str(q), n) for q in range(5) for n in range(3)]
        score = score_data_set(samples)
        assert score == callback.results[step]["held"]
        log = evaluations(trainer, "eval_held_avg@3")[step]
        assert log["eval_held_avg@3"] == score.metrics["avg@3"].value
        assert log["eval_held_avg@3"] == pytest.approx(fmean(one.reward == 1.0 for one in samples))
        assert log["eval_held_truncated"] == score.metrics["truncated"].value


def test_the_same_policy_gets_the_same_scores_whenever_it_is_measured(tmp_path):
    trainer = trainer_of(grpo, tmp_path)
    callback = with_callback(trainer)
    torch.manual_seed(1)
    first = callback.evaluate()
    torch.manual_seed(2)
    assert callback.evaluate() == first
    assert not evaluations(trainer)


def test_the_trainers_completions_are_those_of_the_command(tmp_path):
    # 5 questions of 2, 10 at once: one batch, and no row is filled up
    trainer = trainer_of(grpo, tmp_path)
    callback = with_callback(trainer, batch_size=10, save=False)
    protocol = Protocol(k=2, batch_size=10, max_new_tokens=5)
    sampler = TransformersSampler(trainer.model, Text(trainer.processing_class), protocol)
    results = ResultsFolder(tmp_path / "command", {})
    problems = make_problems("held", HELD_OUT, parity_reward)
    assert evaluate(sampler, [problems], protocol, results)["held"] == callback.evaluate()["held"]
    results.close()


class Improves:
    """A scorer of which the third evaluation is the best, by call."""

    __name__ = "improves"
    shares = (0.0, 0.5, 1.0, 0.5, 0.0)

    def __init__(self):
        self.calls = 0

    def __call__(self, completions, **columns):
        share = self.shares[min(self.calls, len(self.shares) - 1)]
        self.calls += 1
        return [float(row < share * len(completions)) for row in range(len(completions))]


BEST = {
    "max_steps": 4,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_held_avg@2",
    "greater_is_better": True,
}


@pytest.mark.parametrize("make", [trl_grpo, grpo, dapo], ids=lambda make: make.__name__)
def test_the_best_model_is_chosen_by_held_out_accuracy(tmp_path, make):
    trainer = trainer_of(make, tmp_path, **BEST)
    callback = EvaluationCallback(trainer, {"held": HELD_OUT}, Improves(), k=2, batch_size=10, at_start=False)
    trainer.add_callback(callback)
    trainer.train()
    # One evaluation a step, of which the third is the best
    assert [callback.results[step]["held"].metrics["avg@2"].value for step in (1, 2, 3, 4)] == [0.0, 0.5, 1.0, 0.5]
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (1.0, 3)
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-3")
    saved = build(HostTrainer, trl_grpo(tmp_path / "other")[1], reward_funcs=parity_reward).model.from_pretrained(
        tmp_path / "checkpoint-3"
    )
    assert_same_tensors(snapshot(trainer.model), snapshot(saved))


@pytest.mark.parametrize("first", ["evaluation", "early stopping"])
def test_early_stopping_reads_held_out_accuracy_in_whatever_order_callbacks_are_added(tmp_path, first):
    trainer = trainer_of(grpo, tmp_path, **{**BEST, "max_steps": 8})
    callback = EvaluationCallback(trainer, {"held": HELD_OUT}, Improves(), k=2, batch_size=10, at_start=False)
    both = [callback, EarlyStoppingCallback(early_stopping_patience=2)]
    for one in both if first == "evaluation" else reversed(both):
        trainer.add_callback(one)
    trainer.train()
    # The best is the third; two evaluations without improvement later, training ends
    assert trainer.state.global_step == 5
    assert sorted(callback.results) == [1, 2, 3, 4, 5]


def test_several_evaluation_sets_of_the_trainer_measure_once_a_step(tmp_path):
    cls, args = grpo(tmp_path, max_steps=1, eval_strategy="steps", eval_steps=1)
    sets = {"a": plain_dataset(4), "b": plain_dataset(4)}
    trainer = build(cls, args, reward_funcs=parity_reward, train_dataset=plain_dataset(32), eval_dataset=sets)
    scorer = Improves()
    trainer.add_callback(EvaluationCallback(trainer, HELD_OUT, scorer, k=2, batch_size=10, at_start=False, save=False))
    trainer.train()
    assert scorer.calls == 1
    # Without a name, and beside what TRL logs under `eval_`
    assert [log["eval_avg@2"] for log in trainer.state.log_history if "eval_avg@2" in log] == [0.0]


def test_when_is_measured(tmp_path):
    # 4 prompts of 4 generations, 8 completions an update: 2 updates an epoch
    fields = {"max_steps": -1, "num_train_epochs": 2.0}
    for every, expected in (("epoch", [0, 2, 4]), (3, [0, 3, 4])):
        cls, args = grpo(tmp_path / str(every), **fields)
        trainer = build(cls, args, reward_funcs=parity_reward, train_dataset=plain_dataset(4))
        callback = with_callback(trainer, every=every)
        trainer.train()
        assert trainer.state.global_step == 4
        assert sorted(callback.results) == expected


def test_a_resumed_run_does_not_measure_the_start_again(tmp_path):
    fields = {"save_strategy": "steps", "save_steps": 1}
    trainer = trainer_of(grpo, tmp_path, **fields)
    with_callback(trainer)
    trainer.train()
    resumed = trainer_of(grpo, tmp_path, **fields)
    callback = with_callback(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert sorted(callback.results) == [3]
    assert evaluations(resumed) == evaluations(trainer)


def test_an_evaluation_outside_of_training_is_that_of_the_present_policy(tmp_path):
    trainer = trainer_of(grpo, tmp_path, **{**BEST, "max_steps": 1})
    scorer = Improves()
    trainer.add_callback(EvaluationCallback(trainer, HELD_OUT, scorer, k=2, batch_size=10, save=False))
    first, second = trainer.evaluate(), trainer.evaluate()
    assert (first["eval_avg@2"], second["eval_avg@2"]) == (0.0, 0.5)


def test_the_logs_of_the_trainer_do_not_hold_those_of_the_evaluation(tmp_path):
    trainer = trainer_of(trl_grpo, tmp_path, max_steps=2)
    with_callback(trainer)
    trainer.train()
    assert not any("completions/mean_length" in log for log in evaluations(trainer))
    # The rollout's, of which TRL logs the lengths once
    assert [log["step"] for log in trainer.state.log_history if "completions/mean_length" in log] == [1]


@pytest.mark.parametrize("make", [trl_grpo, rloo, dapo], ids=lambda make: make.__name__)
def test_the_trainers_own_evaluations_are_those_without_the_callback(tmp_path, make):
    logs = []
    for name in ("alone", "measured"):
        trainer = trainer_of(make, tmp_path / name, max_steps=2, eval_strategy="steps", eval_steps=1)
        if name == "measured":
            with_callback(trainer)
        trainer.train()
        own = [log for log in trainer.state.log_history if "eval_loss" in log]
        timed = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
        logs.append([{key: value for key, value in log.items() if key not in timed} for log in own])
    assert len(logs[0]) == 2
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, nan_ok=True)


def test_vllm_samples_with_the_evaluations_settings_and_then_with_its_own(tmp_path):
    trainer = trainer_of(grpo, tmp_path)
    ends = trainer.processing_class.eos_token_id
    seen = []

    class Generation:
        temperature, top_p, top_k, min_p, repetition_penalty, max_completion_length = 0.9, 0.8, 5, 0.1, 1.2, 8

        def sync_weights(self):
            seen.append("synced")

        def generate(self, prompts, images, num_generations, profiler=None):
            names = "temperature top_p top_k min_p repetition_penalty max_completion_length"
            seen.append((len(prompts), num_generations, *(getattr(self, name) for name in names.split())))
            return prompts, [[20, ends] for _ in prompts], [[[0.0], [0.0]] for _ in prompts], None

    trainer.vllm_generation, trainer._last_loaded_step = Generation(), -1
    callback = with_callback(trainer, max_new_tokens=7)
    trainer.use_vllm = True
    score = callback.evaluate()["held"]
    # 5 questions of 2, 6 at once: batches of 2 and 3 questions, the first filled up to 3
    assert seen == ["synced", *[(6, 2, 1.0, 0.7, 0, None, 1.0, 7)] * 2]
    assert score.metrics["mean_length"].value == 2
    assert score.metrics["truncated"].value == 0
    assert (trainer.vllm_generation.temperature, vars(trainer.vllm_generation)) == (0.9, {})


def test_a_step_that_cannot_be_written_does_not_end_training(tmp_path, caplog):
    trainer = trainer_of(grpo, tmp_path, max_steps=1)
    callback = with_callback(trainer)
    (tmp_path / "evaluations").write_text("")
    trainer.train()
    assert sorted(callback.results) == [0, 1]
    assert "The evaluation of step 1 is not written" in caplog.text


# ----------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, "k=0: at least 1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"every": 0}, "every=0: "),
        ({"every": "step"}, "every='step': "),
        ({"every": True}, "every=True: "),
        ({"every": "eval"}, 'eval_strategy="no": the trainer never evaluates'),
    ],
)
def test_what_cannot_be_evaluated_with_is_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        with_callback(trainer_of(grpo, tmp_path), **fields)


def test_data_sets_that_cannot_be_evaluated_on_are_refused(tmp_path):
    trainer = trainer_of(grpo, tmp_path)
    with pytest.raises(ValueError, match="the data set a has no rows"):
        EvaluationCallback(trainer, {"a": HELD_OUT.select([])}, parity_reward, every=1)
    with pytest.raises(ValueError, match="there is no data set"):
        EvaluationCallback(trainer, {}, parity_reward, every=1)
    with pytest.raises(ValueError, match=r"the data set a has no solution"):
        EvaluationCallback(trainer, {"a": HELD_OUT}, "dapo_math", every=1)
    with pytest.raises(ValueError, match="scorer has none for the data set 'a'"):
        EvaluationCallback(trainer, {"a": HELD_OUT}, {"b": parity_reward}, every=1)


def test_trainers_that_generate_nothing_are_refused():
    with pytest.raises(TypeError, match="trainer is a object: only online trainers of TRL generate"):
        EvaluationCallback(object(), HELD_OUT, parity_reward, every=1)


def test_a_scorer_that_raises_names_question_and_sample(tmp_path):
    trainer = trainer_of(grpo, tmp_path)

    def broken(prompts, completions, **columns):
        if any("3+4" in prompt for prompt in prompts):
            raise ZeroDivisionError("oh")
        return [0.0] * len(completions)

    trainer.add_callback(EvaluationCallback(trainer, HELD_OUT, broken, k=2, every=1, batch_size=6))
    with pytest.raises(ValueError, match="broken raised ZeroDivisionError on question '3', sample 0: oh"):
        trainer.train()


# ---------------------------------------------------------------------------------------------------------- processes


def launch(folder, processes):
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE}:{HERE.parent}",
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    subprocess.run(
        [*command, str(HERE / "evaluation_worker.py"), str(folder)],
        env=environment,
        check=True,
        timeout=300,
        capture_output=True,
    )
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
def test_two_processes_share_the_questions_and_find_what_one_finds(tmp_path):
    (one,), two = launch(tmp_path / "one", 1), launch(tmp_path / "two", 2)
    folders = [tmp_path / name / "evaluations" / "step-0" for name in ("one", "two")]
    samples = [read_samples(folder / "samples" / "held.jsonl") for folder in folders]
    assert samples[0] == samples[1]
    assert len(samples[0]) == 10
    # All processes know all scores, and each has generated about half of the batches
    assert two[0]["logs"] == two[1]["logs"]
    assert two[0]["logs"][0] == one["logs"][0]
    assert [log["step"] for log in two[0]["logs"]] == [0, 1]
    assert one["judged"] == 10
    assert sorted(rank["judged"] for rank in two) == [4, 6]
    # A scorer that raises on one process ends both
    assert all("raised ZeroDivisionError on question" in rank["failure"] for rank in two)
    # And so it does in the command, once the first process has written what was drawn beside it
    assert {rank["runner"] for rank in (one, *two)} == {
        "the scorer last_number raised ZeroDivisionError on question 'q1', sample 0: oh"
    }
    for name in ("one", "two"):
        rows = read_samples(tmp_path / name / "broken" / "samples" / "numbers.jsonl")
        assert [(row.question_id, row.sample) for row in rows] == [("q0", 0), ("q0", 1)]
    for path in ("results.json", "samples/arena.jsonl", "questions/arena.jsonl"):
        assert (tmp_path / "one" / "arena" / path).read_text() == (tmp_path / "two" / "arena" / path).read_text()
