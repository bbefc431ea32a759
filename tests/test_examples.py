"""Examples run as a user would run them, on a part of the model."""

import math
import statistics

import pytest

import preferences_to_ppo
import replace_grpo
from trl_dapo.arena import arena_accuracy


def test_grpo_script_with_one_word_replaced(tmp_path, capsys):
    arguments = ["--cpu", "--layers", "4", "--steps", "2", "--tokens", "8", "--output_dir", str(tmp_path)]
    trainer = replace_grpo.main(arguments)
    assert trainer.state.global_step == 2
    # The script's own config is TRL's; the trainer promoted it
    assert trainer.args.dynamic_sampling
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    assert "informative" in capsys.readouterr().out


def test_reward_reads_the_last_number():
    completions = [[{"role": "assistant", "content": text}] for text in ("3 + 4 = 7.", "It is 34", "none", "7 or 8")]
    assert replace_grpo.correct_sum(completions, answer=["7", "7", "7", "8"]) == [1.0, 0.0, 0.0, 1.0]


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
