"""Dynamic sampling with everything that TRL's trainer takes: kept rows keep all that belongs to them."""

import re

import pytest
import torch
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForSequenceClassification

from tiny import (
    AsyncRewardingEnvironment,
    CountingEnvironment,
    RewardingEnvironment,
    async_multiply,
    async_share_reward,
    conversational_dataset,
    environment_dataset,
    environment_factory,
    image_dataset,
    iterable_dataset,
    multiply,
    parity_reward,
    plain_dataset,
    recording_reward,
    save_tiny_model,
    script_generation,
    scripted_rollout,
    share_reward,
    sometimes_none_reward,
    tiny_lora,
    tiny_tokenizer,
    tiny_tool_tokenizer,
    tiny_vlm,
    tool_call,
    tool_turns,
    total_reward,
    used_tool_reward,
)
from training import build, dapo_args, loss_mask, record_rollouts, train
from trl_dapo import DAPOTrainer


def run(tmp_path, prepare=None, **kwargs):
    fields = kwargs.pop("fields", {})
    recorded = []

    def both(trainer):
        recorded.append(record_rollouts(trainer))
        if prepare is not None:
            prepare(trainer)

    args = dapo_args(tmp_path, **{"overlong_filtering": False, "max_steps": 4, **fields})
    result = train(DAPOTrainer, args, prepare=both, **kwargs)
    assert all(torch.isfinite(torch.tensor(loss)) for loss in result.losses)
    return result, recorded[0]


@pytest.mark.parametrize(
    "kwargs",
    [
        pytest.param({"train_dataset": conversational_dataset(32)}, id="conversational"),
        pytest.param({"train_dataset": iterable_dataset(32, conversational=True)}, id="iterable-conversational"),
        pytest.param({"reward_funcs": [async_share_reward, sometimes_none_reward]}, id="async-and-none"),
        pytest.param({"peft_config": tiny_lora()}, id="peft"),
        pytest.param({"fields": {"num_iterations": 2}}, id="iterated"),
        pytest.param({"fields": {"steps_per_generation": 3, "gradient_accumulation_steps": 2}}, id="misaligned"),
        pytest.param({"fields": {"scale_rewards": "batch"}}, id="batch-scaling"),
        pytest.param({"fields": {"num_generations": 2}}, id="pairs"),
    ],
)
def test_text(tmp_path, kwargs):
    result, rollouts = run(tmp_path, **{"reward_funcs": parity_reward, "train_dataset": plain_dataset(32), **kwargs})
    assert rollouts
    assert result.logs[0]["dapo/groups_kept"] > 0


def test_model_from_a_path_with_a_reference_model_and_kl(tmp_path):
    model = save_tiny_model(tmp_path / "model", tiny_tokenizer())
    result, _ = run(
        tmp_path / "out",
        model=model,
        reward_funcs=parity_reward,
        train_dataset=plain_dataset(32),
        fields={"beta": 0.1},
    )
    assert result.logs[-1]["kl"] > 0


def test_quantized_model_with_an_adapter(tmp_path):
    # NF4 works on blocks of 64 weights
    model = save_tiny_model(tmp_path / "model", tiny_tokenizer(), hidden=64)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    result, _ = run(
        tmp_path / "out",
        model=model,
        quantization_config=quantization,
        peft_config=tiny_lora(),
        reward_funcs=parity_reward,
        train_dataset=plain_dataset(32),
        fields={"model_init_kwargs": {"dtype": "float32"}, "max_steps": 2},
    )
    assert result.trainer.model.is_loaded_in_4bit
    # Only the adapter is trained, and it is
    assert result.gradients[0]
    assert all("lora_" in name for name in result.gradients[0])
    assert any(gradient.abs().sum() > 0 for gradient in result.gradients[0].values())


def test_reward_model_beside_a_function(tmp_path):
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForSequenceClassification(config)
    model.config._name_or_path = "tiny-judge"
    result, _ = run(
        tmp_path,
        reward_funcs=[model, parity_reward],
        reward_processing_classes=[tiny_tokenizer(), None],
        train_dataset=plain_dataset(32),
        fields={"dynamic_sampling_metric": "parity_reward"},
    )
    assert result.trainer.reward_func_names[:2] == ["tiny-judge", "parity_reward"]
    assert "rewards/tiny-judge/mean" in result.logs[0]


@pytest.mark.parametrize("env_mask", [False, True])
def test_rollout_func_fields_stay_with_their_rows(tmp_path, env_mask):
    recorder = recording_reward()
    script = scripted_rollout(lambda text: int(text.split("+")[0]) % 2 == 0, env_mask=env_mask)
    result, rollouts = run(
        tmp_path,
        reward_funcs=[parity_reward, recorder],
        rollout_func=script,
        train_dataset=plain_dataset(32),
    )
    # What a reward function saw: `rollout_tag` is the prompt and the row's number in its group
    for call in recorder.calls:
        assert [tag.split("#")[0] for tag in call["rollout_tag"]] == call["prompts"]
    for rollout in rollouts:
        mask = loss_mask(rollout)
        assert mask.sum() == rollout["num_items_in_batch"]
        # The environment's token is the second of each completion
        second = mask[:, 1]
        assert torch.equal(second, torch.zeros_like(second) if env_mask else torch.ones_like(second))
        assert rollout["sampling_per_token_logps"].shape == rollout["completion_ids"].shape
        valid = rollout["completion_mask"].bool()
        expected = -1.0 - 0.01 * (rollout["completion_ids"] % 10)
        torch.testing.assert_close(rollout["sampling_per_token_logps"][valid], expected[valid])
    assert result.logs[0]["dapo/groups_generated"] > 4


def multiplies_even_questions(tool="multiply"):
    """Even questions: row 0 uses the tool, the others answer, so that the group varies; odd ones: nobody does."""
    return tool_turns(lambda number, row: tool_call(tool, a=number, b=2) if number % 2 == 0 and row == 0 else None)


@pytest.mark.parametrize(("tool", "name"), [(multiply, "multiply"), (async_multiply, "async_multiply")])
def test_tools_keep_their_rows(tmp_path, tool, name):
    result, rollouts = run(
        tmp_path,
        prepare=lambda trainer: script_generation(trainer, multiplies_even_questions(name)),
        processing_class=tiny_tool_tokenizer(),
        train_dataset=conversational_dataset(16),
        tools=[tool],
        reward_funcs=used_tool_reward,
        fields={"max_completion_length": 256, "max_steps": 2},
    )
    (rollout,) = rollouts
    assert result.logs[0]["dapo/groups_generated"] > 4
    assert result.logs[0]["dapo/groups_kept"] == 4
    decode = result.trainer.processing_class.decode
    for ids, mask, tool_mask in zip(
        rollout["completion_ids"], rollout["completion_mask"], rollout["tool_mask"], strict=True
    ):
        ids, tool_mask = ids[mask.bool()], tool_mask[mask.bool()]
        used = "<tool_response>" in decode(ids)
        # Exactly the tool's answer is left out of the loss
        assert ("<tool_response>" in decode(ids[tool_mask == 0])) == used
        assert "<tool_response>" not in decode(ids[tool_mask == 1])
    assert result.logs[0]["rewards/used_tool_reward/mean"] == 0.25
    assert "tools/call_frequency" in result.logs[0]


def adds_for_even_questions():
    return tool_turns(
        lambda number, row: tool_call("add", amount=1 + number) if number % 2 == 0 and row == 0 else None
    )


@pytest.mark.parametrize("cls", [CountingEnvironment, RewardingEnvironment, AsyncRewardingEnvironment])
def test_environments_are_reset_once_per_generated_row(tmp_path, cls):
    factory = environment_factory(cls)
    rewards = {"reward_funcs": total_reward} if cls is CountingEnvironment else {}
    result, rollouts = run(
        tmp_path,
        prepare=lambda trainer: script_generation(trainer, adds_for_even_questions()),
        processing_class=tiny_tool_tokenizer(),
        train_dataset=conversational_dataset(16),
        environment_factory=factory,
        fields={"max_completion_length": 256, "max_steps": 2},
        **rewards,
    )
    log, trainer = result.logs[0], result.trainer
    assert log["dapo/groups_generated"] > 4
    assert log["dapo/groups_kept"] == 4
    assert sum(one.resets for one in factory.instances) == 4 * log["dapo/groups_generated"]
    # The trained rows' own instances, in the state in which their episode ended
    assert len({id(one) for one in trainer.environments}) == 16
    assert all(type(one) is cls for one in trainer.environments)
    name = "total_reward" if cls is CountingEnvironment else cls.__name__
    assert [float(sum(one.amounts)) for one in trainer.environments] == list(trainer._logs["rewards"][name])
    # The observation of the reset is in the prompt once
    for environment, prompt in zip(trainer.environments, rollouts[0]["prompts"], strict=True):
        assert prompt.count(f"[{environment.rows[-1]['answer']}]") == 1
    # All instances are back in the pool
    assert {id(one) for one in trainer._environment_pool[None]} == {id(one) for one in factory.instances}


def test_environments_chosen_by_name(tmp_path):
    factories = {
        "counting": environment_factory(CountingEnvironment),
        "rewarding": environment_factory(RewardingEnvironment),
    }
    result, _ = run(
        tmp_path,
        prepare=lambda trainer: script_generation(trainer, adds_for_even_questions()),
        processing_class=tiny_tool_tokenizer(),
        # Odd questions, which nobody adds for, are "counting" in a round of three names
        train_dataset=environment_dataset(24, names=("counting", "rewarding", "rewarding")),
        environment_factory=factories,
        reward_funcs=total_reward,
        fields={"max_completion_length": 256, "max_steps": 2},
    )
    log, trainer = result.logs[0], result.trainer
    assert log["dapo/groups_kept"] == 4
    made = [one for factory in factories.values() for one in factory.instances]
    assert sum(one.resets for one in made) == 4 * log["dapo/groups_generated"]
    names = {CountingEnvironment: "counting", RewardingEnvironment: "rewarding"}
    for environment in trainer.environments:
        assert names[type(environment)] == trainer_name(environment)
    assert [float(sum(one.amounts)) for one in trainer.environments] == list(trainer._logs["rewards"]["total_reward"])


def trainer_name(environment):
    # `environment` itself is not handed to `reset`; the dataset's order of names tells it from the answer, 2i + 1
    return ("counting", "rewarding", "rewarding")[(int(environment.rows[-1]["answer"]) // 2) % 3]


def test_environments_that_make_up_their_prompts(tmp_path):
    factory = environment_factory(CountingEnvironment, observe="resets")
    script = tool_turns(lambda number, row: tool_call("add", amount=5) if row == 0 and number % 2 == 1 else None)
    result, _ = run(
        tmp_path,
        prepare=lambda trainer: script_generation(trainer, script),
        processing_class=tiny_tool_tokenizer(),
        train_dataset=None,
        environment_factory=factory,
        reward_funcs=total_reward,
        fields={"max_completion_length": 256, "max_steps": 4},
    )
    # Placeholder rows are all alike, and a refill may use them again
    assert all(log["dapo/exhausted"] == 0 for log in result.logs)


@pytest.mark.parametrize("kind", ["llava", "qwen"])
@pytest.mark.parametrize("counts", [None, (1, 2)])
def test_images_stay_with_their_rows(tmp_path, kind, counts):
    model, processor = tiny_vlm(kind)
    dataset = image_dataset(16, counts)
    result, rollouts = run(
        tmp_path,
        model=model,
        processing_class=processor,
        train_dataset=dataset,
        reward_funcs=parity_reward,
        fields={"num_generations": 2, "max_steps": 2},
    )
    (rollout,) = rollouts
    assert result.logs[0]["dapo/groups_generated"] > 8
    per_row = torch.tensor(rollout["num_images"])
    if kind == "qwen":
        patches = rollout["image_grid_thw"].prod(dim=1).split(per_row.tolist())
        per_row = torch.stack([grid.sum() for grid in patches])
    pixels = rollout["pixel_values"].split(per_row.tolist())
    for prompt, values in zip(rollout["prompts"], pixels, strict=True):
        row = dataset[int(re.search(r"(\d+)\+", prompt).group(1))]
        pictures = [row["image"]] if counts is None else row["images"]
        expected = processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(values, expected)


def test_images_through_a_rollout_func(tmp_path):
    model, processor = tiny_vlm("llava")
    seen = []

    def rollout_func(prompts, trainer):
        seen.append(prompts)
        tokenizer = trainer.processing_class
        prompt_ids = tokenizer.apply_chat_template(
            prompts, tokenize=True, return_dict=True, add_generation_prompt=True
        )["input_ids"]
        completion_ids = [[20 + i % 5, 30 + i % 2, 3] for i in range(len(prompts))]
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}

    _, rollouts = run(
        tmp_path,
        model=model,
        processing_class=processor,
        train_dataset=image_dataset(16, (1, 2)),
        rollout_func=rollout_func,
        reward_funcs=share_reward_of_varied_groups,
        fields={"num_generations": 2, "max_steps": 2},
    )
    # A `rollout_func` returns no images, and the rows' own are used
    assert sum(rollouts[0]["num_images"]) == len(rollouts[0]["pixel_values"])


def share_reward_of_varied_groups(completion_ids, **kwargs):
    return [float(ids[1] % 2) for ids in completion_ids]


def test_completions_table_with_environments_has_the_trained_rows(tmp_path):
    trainer = build(
        DAPOTrainer,
        dapo_args(tmp_path, max_completion_length=256, max_steps=1, log_completions=True, overlong_filtering=False),
        processing_class=tiny_tool_tokenizer(),
        train_dataset=conversational_dataset(16),
        environment_factory=environment_factory(RewardingEnvironment),
        reward_funcs=share_reward,
    )
    script_generation(trainer, adds_for_even_questions())
    trainer.train()
    # Columns by name: the environment's, the user's, the length penalty's
    assert trainer.reward_func_names == ["share_reward", "RewardingEnvironment", "soft_overlong_punishment_reward"]
    assert {len(column) for column in trainer._logs["rewards"].values()} == {16}
