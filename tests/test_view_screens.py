"""The screens of the live view, from hand-made states: what is drawn, at which width, and what is never acted on."""

import io
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from trl_dapo.monitor.finding import Finding
from trl_dapo.view.charts import chart
from trl_dapo.view.lines import end_line, evaluation_line, log_line
from trl_dapo.view.metrics import held_out_metrics, metrics_of
from trl_dapo.view.notebook import NotebookScreen, page
from trl_dapo.view.panel import PLAIN_SIGNS, panel
from trl_dapo.view.plain import head, middle, plain, tail, text_of
from trl_dapo.view.samples import Sample, pick
from trl_dapo.view.series import EXACT, MOST, Series, bars, binned, direction
from trl_dapo.view.state import Evaluating, Rollout, RunState
from trl_dapo.view.terminal import TerminalScreen
from trl_dapo.view.words import about, duration
from view_states import DAPOConfig, entry, going


def text(state: RunState, width: int, height: int = 40, **kwargs) -> str:
    return "\n".join(line.plain.rstrip() for line in panel(state, width, height, **kwargs))


# ---------------------------------------------------------------------------------------------------------- the panel

# 40 steps of 2 s, 64 completions each: 60 left are 2 min and 3840 completions, 32 a second. Bars are means of three
# logs, and clip ratios have no value in the log of step 40
AT_76 = """\
step 40 of 100  ━━━━━━━━━━━━━━━━━──────────────────────────  40%  2 min left
2 560 completions · about 3 800 to go · 32.0 a second · generating round 2
batch ━━━━━━━━━━━━━━────── 11 of 16 informative groups · round 1 of 10

gsm8k avg@8     0.412 ▄                 length            180 ▁▂▂▃▄▄▅▅▆▇▇█ ↑
gsm8k maj@8     0.500 ▄                 truncated       0.000 ▄▄▄▄▄▄▄▄▄▄▄▄
accuracy        0.600 ▁▂▂▃▄▄▅▅▆▇▇█ ↑    clip high           – ▁▂▂▃▄▄▅▆▆▇▇█ ↑
reward          0.500 ▁▂▂▃▄▄▅▅▆▇▇█ ↑    clip low            – ▄▄▄▄▄▄▄▄▄▄▄▄
informative     0.500 ▄▄▄▄▄▄▄▄▄▄▄▄      gradient        0.101 ▄▄▄▄▄▄▄▄▄▄▄▄
per group        16.0 ▄▄▄▄▄▄▄▄▄▄▄▄      lr            1.0e-06 ▄▄▄▄▄▄▄▄▄▄▄▄
entropy         0.200 █▇▇▆▅▅▄▄▃▂▂▁ ↓    loss           0.0100 ▁█▁█▁█▁█▁█▁█

right  reward 1.00, step 40
  Q: What is 3 + 4?
  3 + 4 is 7.⏎Answer: 7

wrong  reward 0.00, step 40
  Q: [bold]What[/bold] is 9 - 4?
  Let me think. Let me think. Let me think. Let me think. Let me think. Let
  … e think. Let me think. Let me think. Let me think. Answer: [red]14[/red]

! entropy_collapse since step 31: entropy fell from 1.0 to 0.2. Try
  epsilon_high=0.28."""

AT_156_METRICS = """\
gsm8k avg@8     0.412 ▄                 informative     0.500 ▄▄▄▄▄▄▄▄▄▄▄▄      truncated       0.000 ▄▄▄▄▄▄▄▄▄▄▄▄      lr            1.0e-06 ▄▄▄▄▄▄▄▄▄▄▄▄
gsm8k maj@8     0.500 ▄                 per group        16.0 ▄▄▄▄▄▄▄▄▄▄▄▄      clip high           – ▁▂▂▃▄▄▅▆▆▇▇█ ↑    loss           0.0100 ▁█▁█▁█▁█▁█▁█"""  # noqa: E501


def test_the_panel_at_80_columns():
    assert text(going(), 76) == AT_76


def test_the_panel_at_160_columns():
    found = text(going(), 156).splitlines()
    assert found[4:6] == AT_156_METRICS.splitlines()
    # Samples stand side by side, and a finding has one line
    assert found[9].split() == ["right", "reward", "1.00,", "step", "40", "wrong", "reward", "0.00,", "step", "40"]
    assert found[-1] == "! entropy_collapse since step 31: entropy fell from 1.0 to 0.2. Try epsilon_high=0.28."


def test_a_low_terminal_leaves_samples_out_first_then_metrics():
    low = text(going(), 76, 16)
    assert "right" not in low
    assert "loss" in low
    assert "! entropy_collapse" in low
    lower = text(going(), 76, 10)
    assert "accuracy" in lower
    assert "entropy  " not in lower
    assert "! entropy_collapse" in lower


@given(width=st.integers(1, 200), height=st.integers(4, 60))
def test_no_line_is_wider_than_the_terminal_nor_the_panel_higher(width, height):
    state = going()
    state.samples = (Sample("right", "漢字" * 80, "語" * 500, 1.0, 3), *state.samples[1:])
    lines = panel(state, width, height)
    assert all(cell_len(line.plain) <= width for line in lines)
    assert len(lines) <= max(height, 3 + 4)  # progress and findings stay


def test_a_terminal_without_unicode_gets_ascii():
    found = text(going(), 76, signs=PLAIN_SIGNS)
    assert found.isascii()
    assert "#" in found


def test_the_first_moment_of_a_run_has_no_time_left_and_no_metric():
    state = RunState("DAPO", metrics_of(DAPOConfig())[1], max_steps=1)
    assert "left" not in text(state, 76)
    assert text(state, 76).splitlines()[1] == "0 completions"
    state.stepped(1, 3.0)
    assert "100%  0 s left" in text(state, 76)


def test_an_evaluation_takes_the_place_of_the_batch():
    state = going()
    state.evaluating = Evaluating("gsm8k", 30, 120)
    assert text(state, 76).splitlines()[2] == "eval  ━━━━━─────────────── 30 of 120 · gsm8k"


def test_many_findings_are_counted():
    state = going()
    state.findings = tuple(Finding(f"rule_{n}", n, n, "bad.", {}, (), "", "") for n in range(5))
    found = text(state, 76).splitlines()
    assert found[-3:] == ["! rule_3 since step 3: bad.", "! rule_4 since step 4: bad.", "  and 3 before"]


def test_the_drawn_panel_has_markup_as_it_was_written():
    stream = io.StringIO()
    console = Console(file=stream, width=80, height=40, force_terminal=True)
    console.print(TerminalScreen(console, threading.RLock(), print).drawn(going()))
    assert "[bold]What[/bold]" in stream.getvalue()
    assert "[red]14[/red]" in stream.getvalue()


# --------------------------------------------------------------------------------------------------------- plain text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\x1b[31mred\x1b[0m", "ared"),
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b", "a"),
        ("one\r\n\n two\tthree", "one⏎two three"),
        ("\u202eevil\u200b\x00\x9b31m", "evil31m"),
        ("[red]x[/red]", "[red]x[/red]"),
    ],
)
def test_plain_text_has_nothing_that_a_terminal_acts_on(raw, shown):
    assert plain(raw) == shown


@given(st.text(), st.integers(0, 40))
def test_plain_text_is_printable_and_as_short_as_asked(raw, length):
    assert plain(raw).isprintable()
    assert all(len(cut(plain(raw), length)) <= max(length, 1) for cut in (head, tail, middle))


def test_messages_are_shown_by_what_they_say():
    image = [{"type": "image"}, {"type": "text", "text": "what?"}]
    assert text_of([{"role": "user", "content": image}, {"role": "assistant", "content": "a cat"}]) == (
        "[image] what? a cat"
    )
    assert text_of([{"role": "assistant", "content": None, "tool_calls": []}]) == ""
    assert text_of(None) == "None"


# ------------------------------------------------------------------------------------------------------------ metrics


def test_a_metric_without_a_value_is_a_gap_and_never_zero():
    state = RunState("x", metrics_of(DAPOConfig())[1], max_steps=3)
    state.logged({"reward": 1.0}, 1)
    state.logged({"reward": None, "entropy": 2.0}, 2)
    state.logged({"reward": float("nan"), "kl": "0.1", "entropy": True}, 3)  # none of them is a number
    assert state.series["reward"].values == [1.0, None]
    assert state.series["reward"].last is None
    assert "clip high" not in state.series
    assert [one.label for one in state.shown] == ["reward", "entropy"]


def test_what_is_measured_once_per_rollout_stays_between_two_rollouts():
    # Two logs per rollout: one without a value is no gap, the second is
    state = RunState("x", metrics_of(DAPOConfig())[1], max_steps=9, patience=2)
    for step, reward in enumerate((1.0, None, 2.0, None, None)):
        state.logged({"reward": reward, "loss": 0.0}, step)
    assert state.series["reward"].values == [1.0, 2.0, None]
    assert state.series["loss"].values == [0.0] * 5


def test_the_loss_is_shown_last_and_never_first():
    for name in ("DAPOConfig", "GRPOConfig", "PPOConfig", "DPOConfig", "RewardConfig", "SFTConfig"):
        metrics = metrics_of(type(name, (), {})())[1]
        assert metrics[-1].label == "loss"
        assert len({one.label for one in metrics}) == len(metrics)


def test_of_an_evaluation_averages_and_majorities_are_shown():
    found = held_out_metrics({"eval_gsm8k_avg@8": 0.1, "eval_avg@8": 0.2, "eval_gsm8k_pass@8": 1.0, "eval_loss": 1.0})
    assert [one.label for one in found] == ["gsm8k avg@8", "avg@8"]
    assert [one.label for one in held_out_metrics({"eval_loss": 1.0})] == ["loss, held out"]
    assert held_out_metrics({"reward": 1.0}) == []


def test_bars_and_directions():
    assert bars([0.0, None, 1.0], 3) == "▁ █"
    assert bars([0.1 + 0.2, 0.3], 2) == "▄▄"
    assert bars([-1e308, 1e308], 2) == "▁█"
    assert binned([1.0, None, None, None, 3.0], 1, most=2) == [3.0]
    assert direction([1, 2, 3, 4, 5, 6]) == 1
    assert direction([6, 5, 4, 3, 2, 1]) == -1
    assert direction([1, 2, 1, 2, 1, 2]) == direction([1, 2, 3]) == direction([5] * 9) == 0
    # What overflows on the way has no direction
    assert direction([1e300, -1e300] * 3) == direction([-1.7e308] * 3 + [1.7e308] * 3) == 0
    # Both means are infinite, and their difference is no number
    assert direction([-1.7e308] * 6) == 0


def test_a_long_series_is_thinned_but_its_end_is_not():
    series = Series()
    for step in range(10_000):
        series.add(step, float(step))
    assert len(series.steps) <= MOST
    assert series.steps[-EXACT:] == list(range(10_000 - EXACT, 10_000))
    assert series.steps[0] == 0


def test_a_step_that_is_logged_again_has_one_value():
    series = Series()
    series.add(1, 1.0)
    series.add(1, 2.0)
    # One without a value, such as that of an evaluation at the same step, takes none away
    series.add(1, None)
    assert (series.steps, series.values) == ([1], [2.0])


# ------------------------------------------------------------------------------------------------------------ samples


def test_a_right_and_a_wrong_completion_are_chosen_without_the_length_penalty():
    table = {
        "prompt": ["p", "p", "q"],
        "completion": ["a", "b", "c"],
        "rewards": {"accuracy": [0.0, 1.0, float("nan")], "soft_overlong_punishment_reward": [0.0, -1.0, -1.0]},
    }
    right, wrong = pick(table, 7)
    assert (right.kind, right.completion, right.reward, right.step) == ("right", "b", 1.0, 7)
    assert (wrong.kind, wrong.completion) == ("wrong", "a")
    signed = pick({**table, "rewards": {"accuracy": [-1.0, 1.0, -1.0]}}, 7)
    assert [one.kind for one in signed] == ["right", "wrong"]
    only = pick({**table, "rewards": {"accuracy": [0.0, 0.0, 0.0]}}, 7)
    assert [one.kind for one in only] == ["wrong"]
    assert [one.kind for one in pick({**table, "rewards": {"model": [0.3, 0.7, 0.1]}}, 7)] == ["best", "worst"]
    assert pick({"prompt": [], "completion": [], "rewards": {}}, 7) == ()


# --------------------------------------------------------------------------------------------------------------- pace


def test_time_left_is_that_of_the_last_twenty_steps_less_what_has_passed():
    state = RunState("x", (), max_steps=100)
    for step in range(1, 61):
        state.units += 10 if step <= 40 else 30
        # 9 s a step at first, 3 s in the last twenty
        state.stepped(step, now=9.0 * min(step, 40) + 3.0 * max(step - 40, 0))
    assert state.seconds_left == 40 * 3.0
    assert state.units_left == 40 * 30
    assert state.units_per_second == 10.0
    state.now += 5.0
    assert state.seconds_left == 115.0


def test_a_resumed_run_takes_its_pace_from_its_own_steps():
    state = RunState("x", (), max_steps=100, began=50.0, step=90, units=900)
    assert state.seconds_left is None
    state.units += 10
    state.stepped(91, 52.0)
    assert (state.seconds_left, state.units_left) == (18.0, 90)


@pytest.mark.parametrize(("number", "said"), [(7, "7"), (3840, "3 800"), (123_456, "120 000"), (99, "99")])
def test_estimates_are_rounded(number, said):
    assert about(number) == said


def test_a_duration_is_said_as_people_do():
    assert [duration(one) for one in (0, 89, 91, 5400, 360_000)] == ["0 s", "89 s", "2 min", "1 h 30 min", "4 d 4 h"]


# -------------------------------------------------------------------------------------------------------------- lines


def test_a_log_is_one_line_at_the_same_places():
    state = going()
    without = log_line(state)
    state.logged(entry(41), 41)
    following = log_line(state)
    assert without.startswith(
        "step  40/100   40%  left 2 min       completions     2 560  accuracy 0.600     reward 0.500"
    )
    assert "clip high -         clip low -  " in without
    assert "\n" not in without
    assert [following.index(name) for name in ("reward", "entropy", "loss")] == [
        without.index(name) for name in ("reward", "entropy", "loss")
    ]
    assert "mean_terminated_length" not in without


def test_an_evaluation_and_the_end_have_lines_of_their_own():
    assert evaluation_line({"eval_gsm8k_avg@8": 0.4125, "eval_runtime": 3.0}, 40) == (
        "evaluation at step 40  gsm8k avg@8 0.412"
    )
    state = going()
    state.ended = "stopped by KeyboardInterrupt"
    told = "stopped by KeyboardInterrupt: step 40 of 100, 2 560 completions, 80 s; found: entropy_collapse"
    assert end_line(state) == told
    state.findings = ()
    assert end_line(state) == told.partition(";")[0]


# ----------------------------------------------------------------------------------------------------------- notebook


def test_a_page_escapes_what_it_is_given():
    state = going()
    state.title = "<script>alert(1)</script>"
    state.samples = (Sample("right", "<img src=x onerror=alert(1)>", "</div><b>bold</b>", 1.0, 1),)
    state.findings = (Finding("rule", 1, 1, "<i>bad</i>", {}, (), "", ""),)
    found = page(state)
    assert "<script>" not in found
    assert "<img" not in found
    assert "<i>bad" not in found
    assert "&lt;/div&gt;&lt;b&gt;bold" in found
    assert found.count("<svg") == 2


def test_a_chart_breaks_its_line_at_a_gap():
    series = Series([1, 2, 3, 4, 5], [1.0, 2.0, None, 4.0, 5.0])
    assert chart([("clip", series)]).count('stroke="#3b82f6"') == 2
    assert chart([("clip", Series([1], [None]))]) == ""
    assert "<circle" in chart([("clip", Series([1], [2.0]))])


def test_a_notebook_changes_one_output_in_place():
    pytest.importorskip("IPython", reason="IPython is not installed: pip install ipython")
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    kept, shell.display_pub = shell.display_pub, CapturingDisplayPublisher(parent=shell)
    try:
        now = [0.0]
        screen = NotebookScreen(clock=lambda: now[0])
        state = going()
        screen.begin(state)
        screen.changed(state)  # too early
        now[0] += 60
        screen.changed(state)
        state.ended = "done"
        screen.end(state)
        sent = shell.display_pub.outputs
    finally:
        shell.display_pub = kept
        InteractiveShell.clear_instance()
    assert len(sent) == 3
    assert len({one["transient"]["display_id"] for one in sent}) == 1
    assert [one.get("update", False) for one in sent] == [False, True, True]
    assert "done" in sent[-1]["data"]["text/html"]


def test_rollouts_have_a_bar_that_never_overflows():
    state = going()
    state.rollout = Rollout(kept=0, wanted=0, finished=0, most=1)
    assert "0 of 0 informative groups" in text(state, 76)
