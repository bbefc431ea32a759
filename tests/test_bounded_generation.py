"""Bounded calls of `generate` beside what else a run may have: tools, environments, carried groups, evaluation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tiny import (
    CountingEnvironment,
    add_turns,
    conversational_dataset,
    environment_factory,
    multiply,
    multiply_turns,
    parity_reward,
    plain_dataset,
    rare_reward,
    share_reward,
    snapshot,
    tiny_args,
    tiny_lora,
    tiny_model,
    tiny_tokenizer,
    tiny_tool_tokenizer,
    total_reward,
    used_tool_reward,
)
from trl_dapo import DAPOConfig, DAPOTrainer, EvaluationCallback, GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer


HERE = Path(__file__).parent
CHUNK = 4
PROMPTS = [f"{i}+{'1' * (i % 3)}=" for i in range(4) for _ in range(4)]


def trainer_of(folder, cls=DAPOTrainer, config=DAPOConfig, **given):
    names = (
        "peft_config",
        "tools",
        "environment_factory",
        "processing_class",
        "reward_funcs",
        "train_dataset",
        "model",
    )
    own = {name: given.pop(name) for name in (*names, "model") if name in given}
    tokenizer = own.setdefault("processing_class", tiny_tokenizer())
    own.setdefault("model", tiny_model(tokenizer))
    own.setdefault("reward_funcs", share_reward)
    own.setdefault("train_dataset", plain_dataset(32))
    return cls(args=tiny_args(folder, cls=config, **{"max_steps": 2, **given}), **own)


def generating_model(trainer):
    return trainer.accelerator.unwrap_model(trainer.model)


def noted(trainer):
    """Prompts of each call of `generate`, without padding."""
    calls, model = [], generating_model(trainer)
    host = model.generate

    def generate(**kwargs):
        rows = zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True)
        calls.append([tuple(ids[mask.bool()].tolist()) for ids, mask in rows])
        return host(**kwargs)

    model.generate = generate
    return calls


def script_model(trainer, turns):
    """Has the model write what a script says of each row; returns the number of rows of each call."""
    calls, model, tokenizer = [], generating_model(trainer), trainer.processing_class

    def generate(input_ids, attention_mask, generation_config, **kwargs):
        answers = []
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            answer = turns(tokenizer.decode(ids[mask.bool()]), row % trainer.num_generations)
            answers.append([*tokenizer(answer)["input_ids"], tokenizer.eos_token_id])
        calls.append(len(answers))
        longest = max(map(len, answers))
        padded = [answer + [tokenizer.pad_token_id] * (longest - len(answer)) for answer in answers]
        return torch.cat([input_ids, torch.tensor(padded)], dim=1)

    model.generate = generate
    return calls


def whole_groups(calls, group=4):
    """Whether each call has groups: as many rows of each prompt, beside each other."""
    return all(rows[i] == rows[i - i % group] for rows in calls for i in range(len(rows))) and all(
        len(rows) % group == 0 for rows in calls
    )


def completions(trainer, prompts=PROMPTS, seed=0):
    torch.manual_seed(seed)
    return trainer._generate(prompts)[1]


# -------------------------------------------------------------------------------------------------- several turns


@pytest.mark.parametrize("bound", [{"generation_chunk_size": 4}, {"max_tokens_per_generation_call": 5500}])
def test_tools_are_called_in_bounded_turns(tmp_path, bound):
    def run(**fields):
        trainer = trainer_of(
            tmp_path,
            GRPOTrainer,
            GRPOConfig,
            tools=[multiply],
            processing_class=tiny_tool_tokenizer(),
            train_dataset=conversational_dataset(16),
            reward_funcs=used_tool_reward,
            max_completion_length=256,
            **fields,
        )
        calls = script_model(trainer, multiply_turns())
        trainer.train()
        return calls, snapshot(trainer.model)

    whole, of_whole = run()
    chunked, of_chunked = run(**bound)
    # A rollout is 8 rows, of which every second one calls the tool: 8, then 4
    assert whole == [8, 4, 8, 4]
    assert sum(chunked) == sum(whole)
    if "generation_chunk_size" in bound:
        assert chunked == [4, 4, 4, 4, 4, 4]
    assert len(chunked) > len(whole)
    assert all(torch.equal(one, of_chunked[name]) for name, one in of_whole.items())


def test_environments_and_refills_are_bounded(tmp_path):
    def run(**fields):
        trainer = trainer_of(
            tmp_path,
            environment_factory=environment_factory(CountingEnvironment),
            processing_class=tiny_tool_tokenizer(),
            train_dataset=conversational_dataset(64),
            reward_funcs=total_reward,
            updates_per_rollout=2,
            overlong_filtering=False,
            soft_overlong_punishment=False,
            max_completion_length=256,
            **fields,
        )
        calls = script_model(trainer, add_turns())
        trainer.train()
        return calls, snapshot(trainer.model)

    whole, of_whole = run()
    chunked, of_chunked = run(generation_chunk_size=CHUNK)
    assert max(whole) == 16
    assert max(chunked) == CHUNK
    assert sum(chunked) == sum(whole)
    assert all(torch.equal(one, of_chunked[name]) for name, one in of_whole.items())


# ------------------------------------------------------------------------------------------ dynamic sampling and PPO

CARRY = {"surplus": "carry", "updates_per_rollout": 2, "max_steps": 4}


@pytest.mark.parametrize(
    ("cls", "config", "fields", "rows"),
    [
        (DAPOTrainer, DAPOConfig, {**CARRY, "max_round_batches": 2.0}, 4),
        (DAPOTrainer, DAPOConfig, {**CARRY, "max_round_batches": 0.5}, 4),
        (DAPOTrainer, DAPOConfig, {"updates_per_rollout": 2, "max_round_batches": 0.25, "max_steps": 4}, 4),
        (PPOTrainer, PPOConfig, {"peft_config": tiny_lora(), "num_generations": 1}, 4),
        (PPOTrainer, PPOConfig, {"num_generations": 4, "beta": 0.0}, 4),
    ],
)
def test_the_same_seed_and_chunk_give_the_same_run_in_bounded_calls(tmp_path, cls, config, fields, rows):
    def run(folder):
        trainer = trainer_of(
            folder,
            cls,
            config,
            generation_chunk_size=CHUNK,
            reward_funcs=rare_reward,
            max_completion_length=6,
            **fields,
        )
        calls = noted(trainer)
        trainer.train()
        assert max(map(len, calls)) == rows
        assert whole_groups(calls, fields.get("num_generations", 4))
        return calls, snapshot(trainer.model)

    (calls, parameters), (again, same) = run(tmp_path / "one"), run(tmp_path / "other")
    assert calls == again
    assert all(torch.equal(one, same[name]) for name, one in parameters.items())


# -------------------------------------------------------------------------------------------------- how is sampled

SAMPLING = {"top_k": 7, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.3, "temperature": 0.7}


@pytest.mark.parametrize(
    "fields", [SAMPLING, {"generation_kwargs": {"no_repeat_ngram_size": 2, "min_new_tokens": 3}}, {"top_k": 1}]
)
def test_how_is_sampled_does_not_change_what_is_saved(tmp_path, fields):
    found = [
        completions(
            trainer_of(
                tmp_path,
                GRPOTrainer,
                GRPOConfig,
                generation_chunk_size=8,
                max_completion_length=24,
                prefill_once=saving,
                drop_finished_rows=saving,
                **fields,
            )
        )
        for saving in (False, True)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("loading", ["weights", "autocast"])
def test_bfloat16_is_bounded_and_the_same_for_the_same_seed(tmp_path, loading):
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, layers=2)

    def trainer():
        own = model.bfloat16() if loading == "weights" else model
        fields = {"bf16": loading == "autocast", "max_completion_length": 16}
        return trainer_of(tmp_path, GRPOTrainer, GRPOConfig, model=own, generation_chunk_size=CHUNK, **fields)

    first = trainer()
    calls = noted(first)
    found = completions(first)
    assert [len(rows) for rows in calls] == [4] * 4
    assert completions(trainer()) == found
    assert whole_groups(calls)


def test_rows_that_are_tied_to_their_batch_are_bounded_and_nothing_is_shared(tmp_path):
    config = tiny_model(tiny_tokenizer()).config.to_dict()
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig.from_dict({**config, "rope_parameters": rope, "max_position_embeddings": 8}))

    def found(**fields):
        trainer = trainer_of(
            tmp_path,
            GRPOTrainer,
            GRPOConfig,
            model=model,
            generation_chunk_size=CHUNK,
            max_completion_length=16,
            **fields,
        )
        assert trainer.tie is not None
        assert not trainer.can_prefill_once
        calls = noted(trainer)
        rows = completions(trainer)
        assert [len(call) for call in calls] == [4] * 4
        return rows

    assert found() == found(prefill_once=False, drop_finished_rows=False)


# -------------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize(
    ("bound", "k", "most"),
    [
        ({"generation_chunk_size": 4}, 2, 4),
        ({"generation_chunk_size": 4}, 16, 4),  # more completions of a prompt than a call may have
        ({"generation_chunk_size": 8}, 3, 6),  # two whole groups of three
        ({"max_tokens_per_generation_call": 60}, 16, 5),  # prompts of 4 tokens and 8 new ones: 12 a row
    ],
)
def test_an_evaluation_in_training_is_bounded_whatever_its_groups(tmp_path, bound, k, most):
    problems = plain_dataset(4).rename_column("answer", "solution")  # prompts of 4 tokens

    def run():
        trainer = trainer_of(
            tmp_path,
            GRPOTrainer,
            GRPOConfig,
            per_device_eval_batch_size=48,
            **bound,
        )
        callback = EvaluationCallback(trainer, problems, "number", k=k, top_p=1.0, every=1, save=False)
        calls = noted(trainer)
        texts = [[one.completion for one in found] for found in callback.samples().values()]
        return texts, calls

    texts, calls = run()
    assert sum(map(len, calls)) >= 4 * k
    assert max(map(len, calls)) == most
    if k <= most:
        assert whole_groups(calls, k)
    assert run()[0] == texts


# ---------------------------------------------------------------------------------------------------- two processes


def worker(folder):
    """One of two processes: its own completions, in its own bounded calls."""
    rank = int(os.environ["RANK"])
    trainer = trainer_of(
        folder,
        generation_chunk_size=CHUNK,
        per_device_train_batch_size=8,
        updates_per_rollout=2,
        max_steps=4,
        reward_funcs=parity_reward,
        ddp_backend="gloo",
        train_dataset=plain_dataset(64),
        save_strategy="steps",
        save_steps=1,
    )
    calls = noted(trainer)
    trainer.train()
    end = {name: one.tolist() for name, one in snapshot(generating_model(trainer)).items()}
    (folder / f"{rank}.json").write_text(json.dumps({"calls": calls, "end": end}))
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    resumed = {name: one.tolist() for name, one in snapshot(generating_model(trainer)).items()}
    (folder / f"{rank}-resumed.json").write_text(json.dumps({"end": resumed}))


@pytest.mark.slow
def test_two_processes_generate_in_bounded_calls_and_resume(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    subprocess.run([*command, str(tmp_path)], env=environment, check=True, timeout=300, capture_output=True, text=True)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for rank in ranks:
        assert {len(rows) for rows in rank["calls"]} == {CHUNK}
        assert whole_groups(rank["calls"])
    assert ranks[0]["calls"] != ranks[1]["calls"]
    assert ranks[0]["end"] == ranks[1]["end"]
    assert json.loads((tmp_path / "0-resumed.json").read_text())["end"] == ranks[0]["end"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    worker(Path(sys.argv[1]))
