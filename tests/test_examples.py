"""Examples run as a user would run them, on a part of the model."""

import math

import replace_grpo


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
