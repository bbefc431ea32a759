"""The comparison that `make demo` runs: equal completions, what is shown, what is written."""

import json
from dataclasses import replace
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from trl_dapo.arena import ArenaScore
from trl_dapo.cli.demo import eval_every
from trl_dapo.cli.main import main
from trl_dapo.demo import Point, RunResult, run_method
from trl_dapo.demo.curves import Curve, generated_curve, held_out_curve, mean_curve
from trl_dapo.demo.display import binned, examples, line, numbers, shown, sparkline, trend
from trl_dapo.demo.report import mean_with_interval, panels, result_table, verdict, write_curves
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
    assert "accuracy 1.000 (+0.500 in 5 rollouts)" in line("DAPO", 3, 1024, points)


@pytest.mark.parametrize("rollouts", [1, 5, 9])
def test_no_trend_is_shown_where_there_is_none(rollouts):
    points = [replace(POINT, accuracy=0.1 * n) for n in range(rollouts)]
    assert trend(points) is None
    assert "(" not in line("DAPO", 3, 1024, points)
    console = Console(file=StringIO(), width=100)
    console.print(numbers(points))
    assert "+0.000" not in console.file.getvalue()


def test_a_long_run_is_shown_from_its_beginning():
    # 100 values in 4 parts of 25: means of 0..24, 25..49, 50..74, 75..99
    assert binned([float(n) for n in range(100)], 4) == [12.0, 37.0, 62.0, 87.0]
    assert binned([0.1, 0.2], 4) == [0.1, 0.2]
    assert len(binned([1.0] * 7, 3)) == 3


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("rollouts", [1, 12, 130])
def test_the_panel_fits_its_terminal(width, rollouts):
    console = Console(file=StringIO(), force_terminal=True, width=width, color_system=None)
    points = [replace(POINT, rollout=n, completions=128 * n) for n in range(1, rollouts + 1)]
    with shown(console, "DAPO", seed=0, budget=16384) as listener:
        for point in points:
            listener(point)
    # The last frame: a title, a bar, five numbers, two examples and the frame's end. Nothing is wrapped
    text = console.file.getvalue()
    frame = text[text.rindex("training DAPO") :].splitlines()
    assert len([one for one in frame if "│" in one]) == 8
    assert "accuracy" in frame[2]
    assert len(frame[2]) == width


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


def run_of(name: str, seed: int, curve: list[tuple[int, float, float | None]], end: float) -> RunResult:
    """A run of rollouts (completions at the end, accuracy, held-out accuracy)."""
    points = [replace(POINT, completions=at, accuracy=accuracy, held_out=held) for at, accuracy, held in curve]
    return replace(result(name, seed, end), completions=curve[-1][0], curve=points)


def test_curves_begin_with_the_warm_start():
    run = run_of("DAPO", 0, [(100, 0.2, 0.3), (250, 0.4, None), (400, 0.6, 0.7)], end=0.8)
    # The completions of a rollout are of the policy before it: the first of them are the warm start's, at 0
    generated = generated_curve(run, lambda point: point.accuracy)
    assert (generated.completions, generated.values) == ((0.0, 100.0, 250.0), (0.2, 0.4, 0.6))
    # The last measurement on the way is at the end, where the final score is of more prompts
    held_out = held_out_curve(run, start=0.25)
    assert (held_out.completions, held_out.values) == ((0.0, 100.0, 400.0), (0.25, 0.3, 0.8))


def test_a_run_of_one_rollout_has_a_point_in_each_panel():
    run = run_of("DAPO", 0, [(128, 0.2, None)], end=0.3)
    for title, curve_of in panels(SCORE).items():
        curve = curve_of(run)
        assert len(curve.values) >= 1, title
        assert curve.is_short
    assert held_out_curve(run, 0.25).values == (0.25, 0.3)


def test_seeds_are_a_mean_with_their_range():
    one, other = Curve((0.0, 100.0, 200.0), (0.0, 1.0, 0.0)), Curve((0.0, 50.0, 150.0), (0.2, 0.4, 0.8))
    mean = mean_curve([one, other])
    # It ends at 150, with the shorter one. The first is 0.5 at 50 and at 150, the second 0.6 at 100
    assert mean.completions == (0.0, 50.0, 100.0, 150.0)
    assert mean.values == pytest.approx((0.1, 0.45, 0.8, 0.65))
    assert mean.low == pytest.approx((0.0, 0.4, 0.6, 0.5))
    assert mean.high == pytest.approx((0.2, 0.5, 1.0, 0.8))
    assert mean_curve([one]) is one


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=6), min_size=2, max_size=4)
)
def test_the_mean_lies_within_the_range(runs):
    curves = []
    for steps in runs:
        places = [0.0]
        for step, _ in steps[1:]:
            places.append(places[-1] + step)
        curves.append(Curve(tuple(places), tuple(value for _, value in steps)))
    mean = mean_curve(curves)
    assert mean.completions[0] == 0.0
    for low, value, high in zip(mean.low, mean.values, mean.high, strict=True):
        assert low - 1e-12 <= value <= high + 1e-12


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_panel_of_the_picture_has_lines(tmp_path, monkeypatch, seeds):
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig

    def noted(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", noted)
    runs = [run_of(name, seed, [(128, 0.2, None)], end=0.3) for name in ("GRPO", "DAPO") for seed in range(seeds)]
    write_curves(tmp_path / "curves.png", SCORE, runs)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    for axes in figures[0].axes:
        methods = [one for one in axes.lines if str(one.get_label()).startswith(("GRPO", "DAPO"))]
        assert len(methods) == 2  # a mean, not a line per seed
        assert all(len(one.get_xdata()) >= 1 and one.get_marker() == "o" for one in methods)
        assert len(axes.collections) == (2 if seeds > 1 else 0)
        assert axes.get_xlim()[1] >= 128
    labels = figures[0].axes[1].get_legend_handles_labels()[1]
    assert "warm start, held-out: 0.500" in labels
    assert ("DAPO" if seeds == 1 else "DAPO, mean and range of 3 seeds") in labels


def test_unequal_completions_are_told():
    grpo, dapo = result("GRPO", 0, 0.5), result("DAPO", 0, 0.6)
    assert "at equal completions" in verdict([grpo, replace(dapo, completions=1034)])
    told = verdict([replace(grpo, completions=256), replace(dapo, completions=176)])
    assert "at 176 and 256 completions, since a run ends with a whole rollout" in told


def test_short_runs_are_measured_on_the_way_too():
    # 16384 completions are 128 rollouts, measured every 8th; 1024 are 8, measured each
    assert [eval_every(n) for n in (128, 1024, 2048, 8192, 16384, 10**6)] == [1, 1, 2, 8, 8, 8]


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
