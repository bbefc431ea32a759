"""`trl-dapo diagnose`, and what all training commands take of the diagnosis."""

import json
import re

import pytest

from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.errors import UsageError
from trl_dapo.cli.main import main
from trl_dapo.cli.script import parse_words


WRONG = [{"step": i + 1, "reward": 0.0, "dapo/frac_all_wrong": 0.9, "entropy": 0.4} for i in range(6)]
FINE = [{**row, "dapo/frac_all_wrong": 0.2} for row in WRONG]


def run(folder, rows, step=6):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": rows}))
    return str(folder)


def test_findings_are_lines_with_what_to_change_and_the_exit_code_is_1(tmp_path, capsys):
    assert main(["diagnose", run(tmp_path, WRONG)]) == 1
    first, summary, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "step 4, since 1: groups_all_wrong: 90% of the groups are all wrong. Change easier prompts"
    )
    assert summary == f"1 finding in {tmp_path}/checkpoint-6/trainer_state.json, up to step 6"
    assert all(line.startswith("not decided: ") for line in rest)
    assert "not decided: entropy_collapse: the log lacks `entropy` and rewards" in rest


def test_a_healthy_log_has_no_findings_and_the_exit_code_is_0(tmp_path, capsys):
    assert main(["diagnose", run(tmp_path, FINE)]) == 0
    assert capsys.readouterr().out.startswith("no findings in ")


def test_json_has_findings_and_what_is_not_decided(tmp_path, capsys):
    assert main(["diagnose", run(tmp_path, WRONG), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["last_step"] == 6
    (finding,) = found["findings"]
    assert (finding["rule"], finding["onset"], finding["step"]) == ("groups_all_wrong", 1, 4)
    assert finding["numbers"] == {"all_wrong": 0.9}
    assert "critic_explains_nothing" in found["not_decided"]


def test_a_terminal_gets_a_table_in_which_names_of_a_log_are_only_text(tmp_path, capsys, monkeypatch):
    rows = [{"step": i + 1, "[red]x\x1b[2J/unparseable": 0.9} for i in range(8)]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["diagnose", run(tmp_path, rows)]) == 1
    out = capsys.readouterr().out
    assert "unparseable_answers" in out
    assert "[red]x" in out
    assert "\x1b[2J" not in out
    table = re.sub(r"\x1b\[[\d;]*m", "", out.split("1 finding")[0])
    assert max(map(len, table.splitlines())) == 80


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ('{"log_history": [{"st', "is cut short or no JSON"),
        ('{"log_history": []}', "the log is empty"),
        ('{"log_history": [{"loss": 1}]}', "step=None"),
        ('{"trial": 1}', "has no `log_history`"),
    ],
)
def test_what_is_no_log_is_one_line_and_exit_code_2(tmp_path, capsys, state, said):
    run(tmp_path, [])
    (tmp_path / "checkpoint-6" / "trainer_state.json").write_text(state)
    assert main(["diagnose", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("trl-dapo: error: ")
    assert error.count("\n") == 1


def test_other_words_are_refused(tmp_path, capsys):
    assert main(["diagnose", str(tmp_path / "nothing")]) == 2
    assert "There is no run" in capsys.readouterr().err
    assert main(["diagnose", str(tmp_path), "--jsn"]) == 2
    assert main(["diagnose"]) == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_training_command_takes_the_options_of_the_diagnosis(name, tmp_path):
    words = [f"--output_dir={tmp_path}", "--stop_on", "not_finite", "zero_gradient", "--save_on_finding"]
    script_args = parse_words(COMMANDS[name], words)[0]
    assert (script_args.diagnose, script_args.save_on_finding) == (True, True)
    assert script_args.stop_on == ["not_finite", "zero_gradient"]
    assert not parse_words(COMMANDS[name], [f"--output_dir={tmp_path}", "--diagnose", "false"])[0].diagnose


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stop_on", "not_finit"], "stop_on='not_finit' is no rule. Did you mean 'not_finite'?"),
        (["--stop_on", "any", "--diagnose", "false"], "needs diagnose=True"),
        (["--save_on_finding", "--diagnose", "false"], "save_on_finding=True needs diagnose=True"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_a_model_is_loaded(words, said, tmp_path):
    with pytest.raises(UsageError, match=said.replace("?", r"\?")):
        parse_words(COMMANDS["dapo"], [f"--output_dir={tmp_path}", *words])
