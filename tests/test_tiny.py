"""`tiny.py` under plain `trl.GRPOTrainer`: where one of these fails, the fixture or TRL is at fault."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer
from trl import GRPOTrainer

import tiny


@pytest.fixture(autouse=True)
def _silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


def train(
    tmp_path: Path,
    *,
    tokenizer: Any = None,
    model: Any = None,
    rewards: Any = tiny.parity_reward,
    turns: Callable[[str, int], str] | None = None,
    args: dict[str, Any] | None = None,
    **kwargs: Any,
) -> GRPOTrainer:
    """Train two steps, check that every loss is finite and that some parameter moved, and return the trainer."""
    tokenizer = tokenizer or tiny.tiny_tokenizer()
    trainer = GRPOTrainer(
        model=model or tiny.tiny_model(tokenizer),
        reward_funcs=rewards,
        args=tiny.tiny_args(tmp_path, **{"max_steps": 2, **(args or {})}),
        processing_class=tokenizer,
        **kwargs,
    )
    trainer.contexts = tiny.script_generation(trainer, turns) if turns else None
    before = tiny.snapshot(trainer.model)
    trainer.train()
    assert [math.isfinite(row["loss"]) for row in steps(trainer)] == [True] * 2
    after = tiny.snapshot(trainer.model)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(value.isfinite().all() for value in after.values())
    return trainer


def steps(trainer: GRPOTrainer) -> list[dict[str, float]]:
    return [row for row in trainer.state.log_history if "loss" in row]


# ---------------------------------------------------------------------------------------------------- without training


def test_tokenizer_inverts_itself_and_survives_a_save(tmp_path: Path) -> None:
    text = '<|im_start|>user\n{"a": [1, 2]} ~!<|im_end|>\n<tool_call>x</tool_call>'
    tokenizer = tiny.tiny_tokenizer()
    assert len(tokenizer) < 300
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (loaded.pad_token_id, loaded.eos_token_id) == (0, 3)
    assert (loaded.padding_side, loaded.chat_template) == ("left", tokenizer.chat_template)
    assert tiny.tiny_tokenizer(chat=False).chat_template is None


@pytest.mark.parametrize("tied", [False, True])
def test_model_is_a_function_of_its_seed_and_leaves_the_random_state_alone(tied: bool) -> None:
    tokenizer = tiny.tiny_tokenizer()
    state = torch.random.get_rng_state()
    first, second, other = (tiny.tiny_model(tokenizer, seed=seed, tied=tied) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert {p.dtype for p in first.parameters()} == {torch.float32}
    assert (first.lm_head.weight is first.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("text", ["0+1=", "10+11=", ""])
@pytest.mark.parametrize("max_length", [3, 8, 33])
def test_scripted_ids_have_the_parity_of_their_row_and_cut_every_third(text: str, max_length: int) -> None:
    for row in range(9):
        ids = tiny.scripted_ids(text, row, max_length, eos=3, vocab_size=108)
        assert sum(ids) % 2 == row % 2
        assert (len(ids) == max_length and ids[-1] != 3) if row % 3 == 2 else (len(ids) < max_length and ids[-1] == 3)
        assert all(12 <= i < 108 for i in ids[:-1])


# --------------------------------------------------------------------------------------------------------- datasets


def test_plain_prompts_train(tmp_path: Path) -> None:
    trainer = train(tmp_path, tokenizer=tiny.tiny_tokenizer(chat=False), train_dataset=tiny.plain_dataset())
    assert steps(trainer)[0]["frac_reward_zero_std"] < 1


def test_conversational_prompts_train(tmp_path: Path) -> None:
    recording = tiny.recording_reward()
    train(tmp_path, rewards=[tiny.parity_reward, recording], train_dataset=tiny.conversational_dataset())
    assert [call["prompts"][0][0]["role"] for call in recording.calls] == ["user"] * 2


def test_a_saved_model_trains_by_its_path_with_a_reference_model(tmp_path: Path) -> None:
    tokenizer = tiny.tiny_tokenizer()
    path = tiny.save_tiny_model(tmp_path / "model", tokenizer)
    trainer = train(tmp_path, model=path, args={"beta": 0.1}, train_dataset=tiny.plain_dataset())
    assert [row["kl"] > 0 for row in steps(trainer)] == [False, True]
    assert trainer.model.name_or_path == path


@pytest.mark.parametrize("conversational", [False, True])
def test_iterable_dataset_trains(tmp_path: Path, conversational: bool) -> None:
    train(tmp_path, train_dataset=tiny.iterable_dataset(conversational=conversational))


def test_two_equal_runs_are_equal_bit_for_bit(tmp_path: Path) -> None:
    runs = [tiny.snapshot(train(tmp_path, train_dataset=tiny.plain_dataset()).model) for _ in range(2)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_evaluation_runs(tmp_path: Path) -> None:
    trainer = train(tmp_path, train_dataset=tiny.plain_dataset(), eval_dataset=tiny.plain_dataset(4))
    assert 0 <= trainer.evaluate()["eval_rewards/parity_reward/mean"] <= 1


def test_lora_adapters_move_and_the_base_does_not(tmp_path: Path) -> None:
    base = tiny.snapshot(tiny.tiny_model(tiny.tiny_tokenizer()))
    trainer = train(tmp_path, train_dataset=tiny.plain_dataset(), peft_config=tiny.tiny_lora())
    state = tiny.snapshot(trainer.model)
    assert torch.equal(state["base_model.model.lm_head.weight"], base["lm_head.weight"])
    assert any("lora_B" in name and value.abs().max() > 0 for name, value in state.items())


# ----------------------------------------------------------------------------------------------------------- rewards


def test_two_rewards_are_weighted(tmp_path: Path) -> None:
    trainer = train(
        tmp_path,
        rewards=[tiny.share_reward, tiny.constant_reward],
        args={"reward_weights": [2.0, 0.5]},
        train_dataset=tiny.plain_dataset(),
    )
    for row in steps(trainer):
        assert row["reward"] == pytest.approx(2 * row["rewards/share_reward/mean"] + 0.5, rel=1e-5)


def test_async_reward_equals_its_synchronous_twin(tmp_path: Path) -> None:
    trainer = train(
        tmp_path, rewards=[tiny.async_share_reward, tiny.share_reward], train_dataset=tiny.conversational_dataset()
    )
    for row in steps(trainer):
        assert row["rewards/async_share_reward/mean"] == row["rewards/share_reward/mean"]


def test_rewards_may_not_apply_to_a_row(tmp_path: Path) -> None:
    train(
        tmp_path,
        rewards=[tiny.sometimes_none_reward, tiny.answer_reward, tiny.rare_reward],
        train_dataset=tiny.plain_dataset(),
    )


def test_rewards_may_log_columns_and_metrics(tmp_path: Path) -> None:
    trainer = train(tmp_path, rewards=tiny.logging_reward, train_dataset=tiny.plain_dataset())
    assert all("id_sum_mean" in row for row in steps(trainer))
    assert len(trainer._logs["extra"]["id_sum"]) == len(trainer._logs["prompt"])


# ----------------------------------------------------------------------------------------------------------- rollouts


@pytest.mark.parametrize("dataset", [tiny.plain_dataset, tiny.conversational_dataset])
@pytest.mark.parametrize("env_mask", [False, True])
def test_rollout_func_trains_and_its_fields_reach_the_rewards(tmp_path: Path, dataset: Any, env_mask: bool) -> None:
    recording = tiny.recording_reward()
    rollout = tiny.scripted_rollout(env_mask=env_mask)
    trainer = train(tmp_path, rewards=[tiny.parity_reward, recording], train_dataset=dataset(), rollout_func=rollout)
    assert len(rollout.calls) == 2
    for call in recording.calls:
        texts = [tiny.prompt_text(prompt) for prompt in call["prompts"]]
        assert call["rollout_tag"] == [f"{text}#{i % 4}" for i, text in enumerate(texts)]
    for row in steps(trainer):
        assert row["rewards/parity_reward/mean"] == 0.5
        assert row["frac_reward_zero_std"] == 0
        assert row["completions/clipped_ratio"] == 0.25


def test_rollout_func_makes_the_groups_degenerate_that_it_is_told_to(tmp_path: Path) -> None:
    # Prompts 0+1=, 2+3=, 4+5=, 6+7= of 8 vary: 2 steps of 4 groups without replacement see 4 degenerate of 8.
    rollout = tiny.scripted_rollout(rewardable=lambda text: int(text[0]) % 2 == 0)
    trainer = train(
        tmp_path,
        rewards=[tiny.share_reward],
        args={"per_device_train_batch_size": 16},
        train_dataset=tiny.plain_dataset(),
        rollout_func=rollout,
    )
    assert sum(row["frac_reward_zero_std"] for row in steps(trainer)) / 2 == 0.5


# -------------------------------------------------------------------------------------------------------------- tools


@pytest.mark.parametrize("tool", [tiny.multiply, tiny.async_multiply])
def test_tools_are_called_by_every_second_row(tmp_path: Path, tool: Callable) -> None:
    recording = tiny.recording_reward()
    trainer = train(
        tmp_path,
        tokenizer=tiny.tiny_tool_tokenizer(),
        rewards=[tiny.used_tool_reward, recording],
        turns=tiny.multiply_turns(tool.__name__),
        args={"max_completion_length": 256},
        train_dataset=tiny.conversational_dataset(),
        tools=[tool],
    )
    for row in steps(trainer):
        assert (row["tools/call_frequency"], row["tools/failure_frequency"]) == (0.5, 0)
        assert (row["rewards/used_tool_reward/mean"], row["completions/clipped_ratio"]) == (0.5, 0)
    # One call for all 8 rows and one for the 4 that called the tool, in each of the 2 steps.
    assert [len(texts) for texts in trainer.contexts] == [8, 4, 8, 4]
    for call in recording.calls:
        for i, (prompt, completion) in enumerate(zip(call["prompts"], call["completions"], strict=True)):
            number, row = int(prompt[0]["content"].split("+")[0]), i % 4
            answer = f"direct {row}" if row % 2 else f"got {number * (2 + row)}"
            assert completion[-1]["content"] == answer


def test_scripted_text_is_cut_at_the_completion_length(tmp_path: Path) -> None:
    trainer = train(
        tmp_path,
        turns=lambda text, row: "abcdefghij"[: 3 + 2 * row],
        args={"max_completion_length": 8},
        train_dataset=tiny.plain_dataset(),
    )
    # Rows of 3, 5, 7 and 9 characters and EOS: the last is cut.
    assert list(trainer._logs["completion"])[:4] == ["abc", "abcde", "abcdefg", "abcdefgh"]
    assert steps(trainer)[0]["completions/clipped_ratio"] == 0.25


# ------------------------------------------------------------------------------------------------------- environments


@pytest.mark.parametrize("observe", ["row", "resets", None])
def test_one_environment_is_reset_once_per_generated_row(tmp_path: Path, observe: str | None) -> None:
    recording = tiny.recording_reward()
    factory = tiny.environment_factory(observe=observe)
    trainer = train(
        tmp_path,
        tokenizer=tiny.tiny_tool_tokenizer(),
        rewards=[tiny.total_reward, recording],
        turns=tiny.add_turns(),
        args={"max_completion_length": 256},
        train_dataset=tiny.conversational_dataset(),
        environment_factory=factory,
    )
    assert [environment.resets for environment in factory.instances] == [2] * 8
    assert all(row["tools/call_frequency"] == 0.5 for row in steps(trainer))
    for i, (environment, prompt) in enumerate(zip(trainer.environments, recording.calls[-1]["prompts"], strict=True)):
        number = int(prompt[0]["content"].split("+")[0])
        assert environment.amounts == ([1 + number] if i % 2 == 0 else [])
        seen = {"row": f" [{2 * number + 1}]", "resets": " [reset 2]", None: ""}[observe]
        assert prompt[0]["content"] == f"{number}+{number + 1}={seen}"


def test_named_environments_train_and_own_their_reward(tmp_path: Path) -> None:
    factories = {
        "counting": tiny.environment_factory(),
        "rewarding": tiny.environment_factory(tiny.RewardingEnvironment),
    }
    trainer = train(
        tmp_path,
        tokenizer=tiny.tiny_tool_tokenizer(),
        rewards=tiny.used_tool_reward,
        turns=tiny.add_turns(),
        args={"max_completion_length": 256},
        train_dataset=tiny.environment_dataset(),
        environment_factory=factories,
    )
    assert trainer.reward_func_names == ["used_tool_reward", "RewardingEnvironment"]
    resets = [environment.resets for factory in factories.values() for environment in factory.instances]
    assert sum(resets) == 16
    rewards = trainer._logs["rewards"]["RewardingEnvironment"]
    totals = [float(sum(environment.amounts)) for environment in trainer.environments]
    for environment, total, reward in zip(trainer.environments, totals, list(rewards)[-8:], strict=True):
        assert reward == total if isinstance(environment, tiny.RewardingEnvironment) else math.isnan(reward)


@pytest.mark.parametrize("cls", [tiny.RewardingEnvironment, tiny.AsyncRewardingEnvironment])
def test_an_environment_may_be_the_only_source_of_rows_and_rewards(tmp_path: Path, cls: type) -> None:
    trainer = train(
        tmp_path,
        tokenizer=tiny.tiny_tool_tokenizer(),
        rewards=None,
        turns=tiny.add_turns(),
        args={"max_completion_length": 256},
        environment_factory=tiny.environment_factory(cls, observe="resets"),
    )
    assert trainer.reward_func_names == [cls.__name__]
    assert steps(trainer)[0]["frac_reward_zero_std"] == 0


# -------------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("counts", [None, (1, 2), (1, 0, 2)])
@pytest.mark.parametrize("kind", ["llava", "qwen"])
def test_images_train_with_different_numbers_per_row(
    tmp_path: Path, kind: str, counts: tuple[int, ...] | None
) -> None:
    seen = []

    class Recording(GRPOTrainer):
        def _compute_loss(self, model, inputs):
            # Rows of `pixel_values`: an image is one in LLaVA, and as many as it has patches in Qwen2-VL.
            grids = inputs.get("image_grid_thw")
            rows = sum(inputs["num_images"]) if grids is None else grids.prod(-1).sum().item()
            seen.append((list(inputs["num_images"]), rows == inputs["pixel_values"].shape[0]))
            return super()._compute_loss(model, inputs)

    model, processor = tiny.tiny_vlm(kind)
    trainer = Recording(
        model=model,
        reward_funcs=[tiny.parity_reward, tiny.share_reward],
        args=tiny.tiny_args(tmp_path, max_steps=4, gradient_accumulation_steps=2, steps_per_generation=2),
        processing_class=processor,
        train_dataset=tiny.image_dataset(12, counts=counts),
    )
    tower = trainer.model.model.vision_tower if kind == "llava" else trainer.model.model.visual
    before = tiny.snapshot(tower)
    trainer.train()
    assert [math.isfinite(row["loss"]) for row in steps(trainer)] == [True] * 4
    # The pictures reach the loss: their tower gets gradients, and each micro-batch has its own rows' pictures.
    after = tiny.snapshot(tower)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert len(seen) == 8
    assert all(matches for _, matches in seen)
    assert {n for images, _ in seen for n in images} == set(counts or (1,))
