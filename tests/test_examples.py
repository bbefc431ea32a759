"""Examples run as a user would run them, on a part of the model."""

import json
import statistics
from functools import cache

import gguf
import pytest
from transformers import AutoModelForCausalLM

import preferences_to_ppo
import qlora_smollm2
import replace_grpo
from trl_dapo import DAPOConfig
from trl_dapo.arena import arena_accuracy


@pytest.fixture
def first_layers(monkeypatch):
    """Lets four layers learn: they never end a sentence, so every second token does, and letters are right."""
    host = replace_grpo.load

    def load(model, layers):
        policy, tokenizer = host(model, layers)
        policy.generation_config.eos_token_id = list(range(0, len(tokenizer), 2))
        return policy, tokenizer

    def letters(completions, answer, **kwargs):
        texts = [completion[0]["content"] for completion in completions]
        return [sum(map(str.isalpha, text)) / max(len(text), 1) for text in texts]

    monkeypatch.setattr(replace_grpo, "load", load)
    monkeypatch.setattr(replace_grpo, "correct_sum", letters)
    # The file is parsed three times, and its names once per module
    for name in ("GGUFReader", "get_tensor_name_map"):
        monkeypatch.setattr(gguf, name, cache(getattr(gguf, name)))


@pytest.mark.slow
def test_grpo_script_with_one_word_replaced(tmp_path, capsys, first_layers):
    arguments = ["--cpu", "--layers", "4", "--steps", "2", "--tokens", "8", "--output_dir", str(tmp_path)]
    trainer = replace_grpo.main(arguments)
    assert trainer.state.global_step == 2
    # The script's own config is TRL's; the trainer promoted it
    assert type(trainer.args) is DAPOConfig
    assert trainer.args.dynamic_sampling
    logs = [log for log in trainer.state.log_history if "loss" in log]
    # 16 rows of 4 completions each, all of them trained on
    assert [(log["dapo/groups_kept"], log["dapo/exhausted"]) for log in logs] == [(4, 0)] * 2
    assert all(log["grad_norm"] > 0 for log in logs)
    # Zero at the start, and one step of a warm-up is over
    moved = [value.any().item() for name, value in trainer.model.named_parameters() if "lora_B" in name]
    assert len(moved) == 4 * 7
    assert all(moved)
    # The printed columns are those of the log
    first = capsys.readouterr().out.splitlines()
    header, *rows = first[next(i for i, line in enumerate(first) if "informative" in line) :]
    columns = dict(zip(header.split()[:3], rows[0].split()[:3], strict=True))
    expected = {"step": "1", "reward": f"{logs[0]['reward']:.3f}"}
    assert columns == {**expected, "informative": f"{logs[0]['dapo/frac_informative']:.3f}"}


@pytest.mark.slow
def test_qlora_from_4_bit_weights_to_a_merged_model(tmp_path, monkeypatch, capsys):
    def letters(completions, solution, **kwargs):
        # Four layers find no sum; they write more letters or fewer
        texts = [completion[0]["content"] for completion in completions]
        return [sum(map(str.isalpha, text)) / max(len(text), 1) for text in texts]

    monkeypatch.setattr(qlora_smollm2, "get_scorer", lambda name: letters)
    words = ["--layers", "4", "--steps", "3", "--tokens", "8", "--questions", "2", "--k", "2"]
    accuracies = qlora_smollm2.main([*words, "--output_dir", str(tmp_path)])
    assert set(accuracies) == {"before", "after"}
    state = json.loads((tmp_path / "run" / "checkpoint-3" / "trainer_state.json").read_text())
    # Stopped after the first step, and gone on with: three steps, no step twice
    assert [log["step"] for log in state["log_history"] if "loss" in log] == [1, 2, 3]
    assert (tmp_path / "run" / "checkpoint-1").is_dir()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.config.num_hidden_layers == 4
    out = capsys.readouterr().out
    assert "accuracy before" in out
    assert "of the update" in out


def test_reward_reads_the_last_number():
    completions = [[{"role": "assistant", "content": text}] for text in ("3 + 4 = 7.", "It is 34", "none", "7 or 8")]
    assert replace_grpo.correct_sum(completions, answer=["7", "7", "7", "8"]) == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.slow
def test_the_classical_path_runs(capsys):
    _, finals = preferences_to_ppo.main(["--seeds", "1", "--prompts", "16", "--reward_steps", "2", "--rollouts", "1"])
    assert 0 <= finals[0] <= 1
    assert "held-out preferences" in capsys.readouterr().out


def test_own_preferences_have_a_right_completion_and_a_wrong_one():
    rows = preferences_to_ppo.own_preferences(16, seed=5)
    assert len(rows) > 4
    for row in rows:
        assert arena_accuracy([row["prompt"]] * 2, [row["chosen"], row["rejected"]]) == [1.0, 0.0]


@pytest.mark.slow
def test_ppo_against_a_trained_reward_model_solves_more():
    start, finals = preferences_to_ppo.main([])
    half = preferences_to_ppo.T_95[2] * statistics.stdev(finals) / len(finals) ** 0.5
    assert len(finals) == 3
    assert statistics.mean(finals) - half > start
