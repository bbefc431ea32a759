"""The comparison that `make demo` runs: equal completions, what is shown, what is written."""

import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from trl_dapo.arena import ArenaScore
from trl_dapo.cli.main import main
from trl_dapo.demo import Point, RunResult, run_method
from trl_dapo.demo.display import examples, line, numbers, shown, sparkline, trend
from trl_dapo.demo.report import mean_with_interval, result_table, verdict, write_curves
from trl_dapo.demo.run import DAPO, GRPO, Example


POINT = Point(
    rollout=1,
    completions=128,
    accuracy=0.25,
    informative=0.5,
    entropy=0.6,
    length=15.5,
    truncated=0.1,
    refill_rounds=1.0,
    right=Example("7a+b-c*=", "a+8b-7c*2#2"),
    wrong=Example("3a+b+=", "[bold]#9[/bold]\x1b[2J"),
)
SCORE = ArenaScore(
    accuracy=0.5,
    accuracy_by_length={2: 0.5},
    style_shares={"direct": 1.0, "step": 0.0, "verbose": 0.0},
    truncated=0.1,
    truncated_sound=0.0,
    mean_length=10.0,
    right=None,
    wrong=None,
)


def result(name: str, seed: int, accuracy: float) -> RunResult:
    return RunResult(name, seed, 1024, 64, 10.0, replace(SCORE, accuracy=accuracy), [POINT, replace(POINT, rollout=2)])


def test_a_run_is_a_function_of_its_seed_and_ends_with_the_rollout_that_reaches_the_budget():
    points: list[Point] = []
    first = run_method(GRPO, seed=1, budget=200, listener=points.append)
    # 128 completions per rollout: the second reaches 200
    assert first.completions == 256
    assert first.updates == 16
    assert [point.completions for point in points] == [128, 256]
    again = run_method(GRPO, seed=1, budget=200, listener=lambda point: None)
    assert again.score == first.score
    assert again.curve == first.curve


def test_all_of_dapo_counts_its_refills():
    run = run_method(DAPO, seed=0, budget=384, listener=lambda point: None, eval_every=1)
    assert run.completions >= 384
    assert run.completions == run.curve[-1].completions
    assert run.completions % 8 == 0
    assert any(point.refill_rounds > 0 for point in run.curve)
    assert all(point.held_out is not None for point in run.curve)
    # 16 groups trained on per rollout, 8 updates each
    assert run.updates == 8 * len(run.curve)


def test_a_file_gets_one_compact_line_per_rollout():
    console = Console(file=StringIO(), width=80)
    with shown(console, "DAPO", seed=0, budget=1024) as listener:
        listener(POINT)
        listener(replace(POINT, rollout=2, held_out=0.5))
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2
    assert "accuracy 0.250" in lines[0]
    assert lines[1].endswith("held-out 0.500")


def test_a_terminal_gets_a_live_panel():
    console = Console(file=StringIO(), force_terminal=True, width=100)
    with shown(console, "DAPO", seed=0, budget=1024) as listener:
        listener(POINT)
    output = console.file.getvalue()
    for shown_text in ("training DAPO", "informative groups", "refill rounds", "a+8b-7c*2#2"):
        assert shown_text in output


def test_completions_are_shown_as_plain_text():
    console = Console(file=StringIO(), width=100)
    console.print(examples(POINT))
    output = console.file.getvalue()
    # Markup is not interpreted, and no control character of a completion reaches the terminal
    assert "[bold]#9[/bold]" in output
    assert "\x1b" not in output


def test_no_example_is_told():
    console = Console(file=StringIO(), width=100)
    console.print(examples(replace(POINT, right=None)))
    console.print(numbers([POINT]))
    assert "none in this rollout" in console.file.getvalue()


def test_trend_compares_the_last_five_rollouts_with_those_before():
    # before: 0.1 .. 0.5 (mean 0.3), last five: 0.6 .. 1.0 (mean 0.8)
    points = [replace(POINT, accuracy=value / 10) for value in range(1, 11)]
    assert trend(points) == pytest.approx(0.5)
    assert trend(points[:5]) == 0.0


def test_sparkline_spans_its_range():
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"


def test_line_names_the_run():
    assert line("DAPO", 3, 1024, [POINT]).startswith("DAPO seed 3  rollout   1  completions   128/1024")


def test_interval_is_students():
    # mean 0.5; deviations -0.1, 0, 0.1: s = 0.1; t(0.975, 2) = 4.303; 4.303 * 0.1 / sqrt(3) = 0.248
    assert mean_with_interval([0.4, 0.5, 0.6]) == "0.500 ± 0.248"
    assert mean_with_interval([0.4]) == "0.400"


def test_verdict_is_paired_and_modest():
    one = [result("GRPO", 0, 0.5), result("DAPO", 0, 0.6)]
    assert verdict(one).startswith("DAPO - GRPO = +0.100 at equal completions, from one seed")
    # paired differences 0.1, 0.3, 0.2: mean 0.2, s 0.1, half width 0.248 as above
    three = [
        result(n, s, a)
        for s, (g, d) in enumerate([(0.5, 0.6), (0.4, 0.7), (0.5, 0.7)])
        for n, a in (("GRPO", g), ("DAPO", d))
    ]
    assert "0.200 ± 0.248" in verdict(three)


def test_table_has_start_and_both_methods():
    console = Console(file=StringIO(), width=120)
    console.print(result_table(SCORE, [result("GRPO", 0, 0.61), result("DAPO", 0, 0.72)]))
    output = console.file.getvalue()
    for cell in ("start", "0.500", "GRPO", "0.610", "DAPO", "0.720", "1024"):
        assert cell in output


def test_curves_are_a_picture(tmp_path):
    write_curves(tmp_path / "curves.png", [result("GRPO", 0, 0.5), result("DAPO", 0, 0.6)])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_command_writes_table_curves_and_numbers(tmp_path, capsys):
    assert main(["demo", "--completions", "128", "--output_dir", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert "DAPO - GRPO =" in output
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    runs = {run["name"]: run for run in content["runs"]}
    # GRPO was given what DAPO generated, rounded up to whole rollouts of 128
    assert 0 <= runs["GRPO"]["completions"] - runs["DAPO"]["completions"] < 128
    assert (tmp_path / "out" / "curves.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--seeds", "many"], "--seeds"),
        (["--completions", "5"], "--completions must be at least 128"),
        (["--learning_rate", "0"], "--learning_rate must be above 0, got 0"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_mistakes_are_one_line_and_code_2(tmp_path, capsys, arguments, message):
    assert main(["demo", "--output_dir", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert main(["demo", "--output_dir", str(tmp_path / "out")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"
