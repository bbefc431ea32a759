"""What a run records of its memory and time: it changes no number of training, and costs it nothing."""

import json
import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from five import FIVE, trainer
from tiny import snapshot
from training import assert_same_tensors
from trl_dapo.host.watch import Watch
from trl_dapo.planning import measured
from trl_dapo.planning.measured import FILE, Measured, RunMeasured, read_measured, watch
from trl_dapo.planning.run_shape import RunShape
from trl_dapo.planning.throughput import measured_speeds


ONLINE = ("dapo", "grpo", "ppo")
# What the clock decides
TIMES = ("runtime", "per_second", "step_time", "seconds")


def reference():
    """What makes the base the reference, which scores rollouts without gradient."""
    return {"beta": 0.1, "peft_config": LoraConfig(r=2, target_modules=["q_proj", "v_proj"])}


class Evaluates(TrainerCallback):
    """Evaluates on the training rows after each step."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.evaluate(self.trainer.train_dataset)


def logs(one):
    kept = [{k: v for k, v in log.items() if not any(word in k for word in TIMES)} for log in one.state.log_history]
    return json.dumps(kept, sort_keys=True)


def trained(name, folder, watched, **fields):
    one = trainer(name, folder, **fields)
    if watched:
        watch(one)
    one.train()
    return one


@pytest.mark.parametrize("name", FIVE)
def test_no_number_of_training_changes(tmp_path, name):
    # Dynamic sampling with rounds, a reference, and completions in chunks
    fields = {"max_steps": 3}
    if name in ONLINE:
        fields |= {**reference(), "generation_chunk_size": 4}
    if name == "dapo":
        fields |= {"max_refill_rounds": 2}
    plain, state = trained(name, tmp_path / "False", False, **fields), torch.get_rng_state()
    seen = trained(name, tmp_path / "True", True, **fields)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_tensors(snapshot(plain.model), snapshot(seen.model))
    assert logs(plain) == logs(seen)
    assert not (tmp_path / "False" / FILE).exists()
    assert (tmp_path / "True" / FILE).exists()


@pytest.mark.parametrize("name", ONLINE)
def test_completions_and_passes_are_counted(tmp_path, name):
    one = trained(name, tmp_path, True, **reference(), max_steps=2)
    found = read_measured(tmp_path)
    assert (found.device, found.steps, list(found.phases)) == ("cpu", 2, ["generate", "score", "update"])
    assert found.at_start_bytes > 2**20
    assert all(phase.seconds > 0 and phase.peak_bytes >= 2**20 for phase in found.phases.values())
    # 8 rows a step. Each is read once by an update, with its padded prompt: no fewer tokens than were written
    assert 8 <= found.phases["generate"].tokens <= one.state.global_step * 8 * one.args.max_completion_length * 4
    # Filtered rows are not read, and dynamic sampling writes several batches for one
    assert found.phases["update"].tokens > 0
    speeds = measured_speeds(found, RunShape(name, None, round_rows=8))
    assert speeds.generate == found.phases["generate"].tokens / found.phases["generate"].seconds


def test_tokens_are_those_of_the_completions(tmp_path):
    # A scripted rollout of 8 rows of 3 tokens a step: 24 are written
    def script(prompts, trainer):
        ids = [[10 + i, 11, 12 + i % 2] for i in range(len(prompts))]
        return {"prompt_ids": [[40, 41]] * len(prompts), "completion_ids": ids, "logprobs": [[0.0] * 3] * len(prompts)}

    one = trainer("grpo", tmp_path, max_steps=2, **reference())
    one.rollout_func = script
    watch(one)
    one.train()
    found = read_measured(tmp_path)
    assert found.phases["generate"].tokens == 2 * 8 * 3
    # The update reads prompts of 2 and completions of 3 tokens once, and what packing fills up; the reference reads
    # them before, without gradient
    assert 2 * 8 * 5 <= found.phases["update"].tokens < 2 * 8 * 6
    assert 2 * 8 * 5 <= found.phases["score"].tokens < 2 * 8 * 6


def test_chunks_of_generation_are_one_phase_and_count_the_same(tmp_path):
    whole = trained("grpo", tmp_path / "a", True, temperature=1.0, top_k=1)
    chunked = trained("grpo", tmp_path / "b", True, temperature=1.0, top_k=1, generation_chunk_size=4)
    first, second = (read_measured(Path(one.args.output_dir)).phases["generate"] for one in (whole, chunked))
    assert first.tokens == second.tokens > 0


@pytest.mark.parametrize("name", ["dpo", "reward"])
def test_a_run_without_generation_has_an_update_alone(tmp_path, name):
    trained(name, tmp_path, True)
    found = read_measured(tmp_path)
    assert "generate" not in found.phases
    assert found.phases["update"].tokens > 0


def test_an_evaluation_is_no_part_of_it(tmp_path):
    one = trainer("grpo", tmp_path, max_steps=1)
    two = watch(one)
    with torch.no_grad():
        one.model(torch.tensor([[5, 6, 7]]))
    assert two.phases == {}
    one.train()
    before = {name: phase.tokens for name, phase in two.phases.items()}
    one.evaluate(one.train_dataset.select(range(4)))
    assert {name: phase.tokens for name, phase in two.phases.items()} == before


def test_an_evaluation_during_the_run_counts_no_tokens(tmp_path):
    trained("dpo", tmp_path / "a", True, max_steps=2)
    one = trainer("dpo", tmp_path / "b", max_steps=2)
    watch(one)
    one.add_callback(Evaluates(one))
    one.train()
    assert any("eval_loss" in log for log in one.state.log_history)
    found, expected = read_measured(tmp_path / "b"), read_measured(tmp_path / "a")
    assert found.phases["update"].tokens == expected.phases["update"].tokens


@pytest.mark.parametrize("name", ["dapo", "dpo"])
def test_a_resumed_run_goes_on_with_what_is_there(tmp_path, name):
    trained(name, tmp_path / "whole", True, max_steps=2)
    trained(name, tmp_path / "cut", True, max_steps=1)
    first = read_measured(tmp_path / "cut")
    one = trainer(name, tmp_path / "cut", max_steps=2)
    watch(one)
    one.train(resume_from_checkpoint=True)
    found, whole = read_measured(tmp_path / "cut"), read_measured(tmp_path / "whole")
    assert (first.steps, found.steps) == (1, 2)
    # Not those of scoring: what a run tries out before its first update is done again
    for phase in set(found.phases) - {"score"}:
        assert found.phases[phase].tokens == whole.phases[phase].tokens
    assert found.phases["update"].seconds > first.phases["update"].seconds


def test_a_resumed_run_without_a_file_counts_from_there(tmp_path):
    trained("dpo", tmp_path, True, max_steps=1)
    (tmp_path / FILE).write_text("torn")
    one = trainer("dpo", tmp_path, max_steps=2)
    watch(one)
    one.train(resume_from_checkpoint=True)
    assert read_measured(tmp_path).steps == 1


def test_a_new_run_forgets_the_last_one_of_the_folder(tmp_path):
    trained("dpo", tmp_path, True, max_steps=2)
    trained("dpo", tmp_path, True, max_steps=1)
    assert read_measured(tmp_path).steps == 1


def test_a_file_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measured, "write_whole", full)
    assert trained("grpo", tmp_path, True, max_steps=2).state.global_step == 2
    assert not (tmp_path / FILE).exists()


def test_a_folder_in_the_files_place_ends_no_run(tmp_path):
    (tmp_path / FILE).mkdir(parents=True)
    assert trained("grpo", tmp_path, True, max_steps=1).state.global_step == 1


def test_a_kernel_that_tells_no_memory_ends_no_run(tmp_path, monkeypatch):
    for name in ("STATUS", "CLEAR"):
        monkeypatch.setattr(f"trl_dapo.planning.resident.{name}", Path(os.devnull) / "not" / "there")
    trained("grpo", tmp_path, True, max_steps=1)
    assert read_measured(tmp_path).phases["update"].peak_bytes == 0


def test_a_generation_that_raises_is_raised_as_it_is(tmp_path):
    def script(prompts, trainer):
        raise RuntimeError("the server is gone")

    one = trainer("grpo", tmp_path, max_steps=1)
    one.rollout_func = script
    seen = watch(one)
    with pytest.raises(RuntimeError, match="the server is gone"):
        one.train()
    assert seen.phases["generate"].seconds > 0
    # And the trainer can train again
    one.rollout_func = None
    one.train()
    assert read_measured(tmp_path).steps == 1


def test_a_compiled_model_is_not_looked_into(tmp_path):
    one = trainer("grpo", tmp_path)
    one.args.torch_compile = True
    assert watch(one) is None
    assert type(one.watch) is Watch


def test_it_costs_a_few_system_calls_per_phase(tmp_path, monkeypatch):
    # No more than: each generation begins two phases and each update one, and each is read once
    one = trainer("grpo", tmp_path, max_steps=2, **reference())
    seen = watch(one)
    resets = []
    monkeypatch.setattr(seen._resident, "reset", lambda: resets.append(1))
    one.train()
    assert len(resets) <= 1 + 2 * 3


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"version": 99, "phases": {}}', "version 99"),
        ('{"version": 1, "device": "cpu", "steps": 1, "at_start_bytes": 0, "phases": {"update": {"x": 1}}}', "cannot"),
        ('{"version": 1, "device": "cpu", "steps": 1, "at_start_bytes": 0}', "phases"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(tmp_path, text, part):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match=part):
        read_measured(tmp_path)


def test_a_folder_without_a_file_says_who_writes_it(tmp_path):
    with pytest.raises(ValueError, match="It is written by runs of `trl-dapo`"):
        read_measured(tmp_path)


def test_a_run_that_lacks_a_phase_gives_no_speed_of_it():
    run = RunMeasured("cpu", 1, 0, {"update": Measured(seconds=2.0, tokens=10)})
    with pytest.raises(ValueError, match="no speed of the phase 'generate'"):
        measured_speeds(run, RunShape("grpo", None, round_rows=8))
    assert measured_speeds(run, RunShape("dpo", None)).update == 5.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_peaks_of_a_card_are_those_of_its_allocator(tmp_path):
    one = trainer("grpo", tmp_path, max_steps=1, use_cpu=False)
    watch(one)
    one.train()
    found = read_measured(tmp_path)
    assert found.device == "cuda"
    assert all(0 < phase.peak_bytes <= phase.reserved_bytes for phase in found.phases.values())
