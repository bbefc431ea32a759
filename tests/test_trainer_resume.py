"""A run that is killed anywhere and resumed is the run that was never stopped, bit for bit."""

import json
import logging
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from trl import GRPOTrainer

from tiny import iterable_dataset, parity_reward, plain_dataset, tiny_lora
from training import assert_same_tensors, dapo_args, host_args, train
from trl_dapo import DAPOTrainer
from trl_dapo.host.checkpoints import STATE_FILE, rank_file


HERE = Path(__file__).parent
SECONDS = ("step_time", "dapo/generation_seconds", "dapo/update_seconds")


def run(folder, steps=7, resume=None, dataset=None, cls=DAPOTrainer, **fields):
    # 13 prompts and rollouts of 4 groups and 2 updates: the stream turns an epoch within 7 steps, and steps 1, 3, 5
    # lie inside a rollout. Logs every 3 steps, so that most checkpoints fall between two
    settings = {"save_strategy": "steps", "save_steps": 1, "logging_steps": 3, "overlong_filtering": False, **fields}
    peft_config = tiny_lora() if settings.pop("peft", False) else None
    return train(
        cls,
        dapo_args(folder, max_steps=steps, **settings),
        reward_funcs=parity_reward,
        train_dataset=plain_dataset(13) if dataset is None else dataset,
        peft_config=peft_config,
        resume=resume,
    )


def without_seconds(logs):
    return [{name: value for name, value in log.items() if name not in SECONDS} for log in logs]


def assert_resumes(whole, folder, stop, **fields):
    resumed = run(folder, resume=str(folder / f"checkpoint-{stop}"), **fields)
    assert_same_tensors(resumed.parameters, whole.parameters)
    for one, other in zip(without_seconds(resumed.logs), without_seconds(whole.logs), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value == other[name] or (math.isnan(value) and math.isnan(other[name])), name
    assert resumed.trainer.completions_generated == whole.trainer.completions_generated
    assert resumed.trainer.sampler.stream.state_dict() == whole.trainer.sampler.stream.state_dict()
    assert resumed.trainer.sampler.history.state_dict() == whole.trainer.sampler.history.state_dict()
    assert resumed.trainer.sampler.keep_rate.state_dict() == whole.trainer.sampler.keep_rate.state_dict()


CASES = {
    "all_of_dapo": {},
    "two_iterations_and_accumulation": {"num_iterations": 2, "gradient_accumulation_steps": 2},
    "without_dynamic_sampling": {"dynamic_sampling": False},
    "filter_alone": {"max_refill_rounds": 0},
    "selected_prompts": {"skip_degenerate": "greso", "skip_solved_above": 0.9, "prompt_selection": "thompson"},
    "carried_surplus": {"surplus": "carry", "max_round_batches": 3.0},
    "adapter_with_kl_and_entropy": {"peft": True, "beta": 0.1, "entropy_coef": 0.01},
}


@pytest.mark.parametrize("name", CASES)
def test_resumed_at_any_step_equals_never_stopped(tmp_path, name):
    whole = run(tmp_path, **CASES[name])
    assert any(log["dapo/carried_groups"] for log in whole.logs) == (name == "carried_surplus")
    for stop in (1, 2, 4, 5):
        assert_resumes(whole, tmp_path, stop, **CASES[name])


def test_resumed_on_an_iterable_dataset_equals_never_stopped(tmp_path):
    whole = run(tmp_path, dataset=iterable_dataset(13))
    for stop in (3, 4):
        assert_resumes(whole, tmp_path, stop, dataset=iterable_dataset(13))


def test_a_second_epoch_of_the_hosts_sampler_is_not_the_first_again(tmp_path):
    # Without dynamic sampling the host's loader serves the prompts: 3 batches of 4 in an epoch of 13, so that step 6
    # ends the first epoch and 7 and 8 are of the second
    fields = {"dynamic_sampling": False, "steps": 10}
    whole = run(tmp_path, **fields)
    for stop in (6, 7):
        assert_resumes(whole, tmp_path, stop, **fields)


def test_completions_table_after_a_resume_holds_the_whole_rollout(tmp_path):
    fields = {"log_completions": True, "logging_steps": 2, "steps": 2}
    run(tmp_path / "whole", **fields)
    run(tmp_path / "parts", **fields)
    table = Path("completions") / "completions_00002.parquet"
    (tmp_path / "parts" / table).unlink()
    run(tmp_path / "parts", resume=str(tmp_path / "parts" / "checkpoint-1"), **fields)
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "whole" / table), pd.read_parquet(tmp_path / "parts" / table)
    )


def test_rollouts_that_are_over_are_not_saved(tmp_path):
    run(tmp_path, steps=2)
    inside = torch.load(tmp_path / "checkpoint-1" / rank_file(0), weights_only=True)["rollout"]
    over = torch.load(tmp_path / "checkpoint-2" / rank_file(0), weights_only=True)["rollout"]
    assert inside["step"] == 1
    assert len(inside["batches"]) == 2
    assert over["batches"] is None


# Damage


@pytest.mark.parametrize("file", ["trainer_state.json", STATE_FILE, rank_file(0), "optimizer.pt", "model.safetensors"])
def test_a_torn_checkpoint_is_told_and_the_one_before_it_used(tmp_path, caplog, file):
    whole = run(tmp_path, steps=4)
    torn = tmp_path / "checkpoint-3" / file
    torn.write_bytes(torn.read_bytes()[:-40])
    shutil.rmtree(tmp_path / "checkpoint-4")
    with caplog.at_level(logging.WARNING):
        resumed = run(tmp_path, steps=4, resume=True)
    assert any(file in line and "resuming from checkpoint-2" in line for line in caplog.messages)
    assert_same_tensors(resumed.parameters, whole.parameters)


def test_without_a_whole_checkpoint_the_run_does_not_start_anew(tmp_path):
    # One that was never finished is another matter, see test_runs_that_stop
    run(tmp_path, steps=1)
    (tmp_path / "checkpoint-1" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-1 is not whole \(a file of weights is missing\)"):
        run(tmp_path, resume=True)


def test_without_any_checkpoint_the_error_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"resume_from_checkpoint=True, and output_dir=.* holds no checkpoint"):
        run(tmp_path, resume=True)


def test_a_checkpoint_of_the_hosts_trainer_is_refused(tmp_path):
    args = dapo_args(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    train(GRPOTrainer, host_args(args), reward_funcs=parity_reward)
    with pytest.raises(ValueError, match="not written by DAPOTrainer"):
        run(tmp_path, resume=True)


def test_checkpoint_of_another_version_is_refused(tmp_path):
    run(tmp_path, steps=2)
    path = tmp_path / "checkpoint-2" / STATE_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 1}))
    with pytest.raises(ValueError, match="version 1"):
        run(tmp_path, resume=True)


def test_checkpoint_of_a_longer_dataset_is_refused(tmp_path):
    run(tmp_path, steps=2, dataset=plain_dataset(32))
    path = tmp_path / "checkpoint-2" / STATE_FILE
    state = json.loads(path.read_text())
    state["parts"]["prompts"].update(epoch=0, position=20, waiting=[])
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match="prompt 20 of epoch 0, and the dataset has only 13 prompts"):
        run(tmp_path, resume=True)


def test_a_checkpoint_inside_a_rollout_of_another_size_is_refused(tmp_path):
    run(tmp_path, steps=1)
    with pytest.raises(ValueError, match="steps_per_generation=2, and this run has steps_per_generation=3"):
        run(tmp_path, resume=True, updates_per_rollout=3)


def test_weights_alone_resume_and_say_that_it_is_not_exact(tmp_path, caplog):
    run(tmp_path, steps=2, save_only_model=True)
    assert not (tmp_path / "checkpoint-2" / rank_file(0)).exists()
    with caplog.at_level(logging.WARNING):
        resumed = run(tmp_path, steps=3, resume=True, save_only_model=True)
    assert any("is not exact" in line and "save_only_model=True" in line for line in caplog.messages)
    assert resumed.trainer.state.global_step == 3


# kill -9


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(tmp_path):
    # In a rollout, between two files of a checkpoint, before older ones are removed, ...: see the worker
    worker = subprocess.run(
        [sys.executable, str(HERE / "resume_worker.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert worker.returncode == 0, worker.stderr[-2000:]
    assert "is not whole" in worker.stderr + worker.stdout
    once, again = (json.loads((tmp_path / folder / "result.json").read_text()) for folder in ("whole", "parts"))
    assert again["logs"] == once["logs"]
    assert again["parameters"] == once["parameters"]
