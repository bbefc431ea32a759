"""What the runner of an ablation shows: how far the runs are, how long they take, and nothing a run could inject."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from trl_dapo.ablation.display import Going, Lines, Panel, duration, seconds_left, shown
from trl_dapo.ablation.jobs import Job, Outcome
from trl_dapo.ablation.progress import Progress, read_progress, write_progress


EVIL = "[red]x[/] \x1b[2J\x1b]0;title\x07\x07end"


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def make_job(folder, name=None):
    folder.mkdir(parents=True, exist_ok=True)
    return Job(name or folder.name, ("true",), folder)


def console(is_terminal):
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=160, color_system=None)


def text(one):
    return one.file.getvalue()


# ----------------------------------------------------------------------------------------------------------------- ETA


@pytest.mark.parametrize(
    ("waiting", "going", "spent", "left"),
    [
        # Two whole runs and two halves took 10 + 10 + 5 + 5 s: 10 s a run. 4 + 2 * 0.5 runs by two at a time: 25 s
        (4, [Going(0.5, 0, 5)] * 2, [Going(1, 0, 10)] * 2, 25.0),
        # A quarter of a run took 5 s, from half of it on: 20 s a run, and a quarter is left
        (0, [Going(0.75, 0.5, 5)], [], 5.0),
        # 10 s a run; the slowest has 0.9 of a run to go, more than (0.9 + 0.1) / 2
        (0, [Going(0.1, 0, 1), Going(0.9, 0, 9)], [], 9.0),
        # What waits takes a whole run, however many go: 10 s, not (1 + 4 * 0.5) / 4 = 0.75 runs
        (1, [Going(0.5, 0, 5)] * 4, [], 10.0),
        (3, [Going(0, 0, 50)], [], None),
        (0, [], [Going(1, 0, 10)], 0.0),
    ],
)
def test_the_time_that_is_left(waiting, going, spent, left):
    assert seconds_left(waiting, going, spent) == (left if left is None else pytest.approx(left, rel=1e-12))


RUNS = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 1e4)).map(
        lambda t: Going(max(t[:2]), min(t[:2]), t[2])
    ),
    max_size=5,
)


@given(st.integers(0, 50), RUNS, RUNS)
def test_more_runs_never_take_less_time(waiting, going, spent):
    fewer, more = (seconds_left(number, going, spent) for number in (waiting, waiting + 1))
    assert (fewer is None) == (more is None)
    assert fewer is None or 0 <= fewer <= more


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (60 * 89, "89 min"), (60 * 90, "1 h 30 min"), (86_400, "24 h 0 min")],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


# --------------------------------------------------------------------------------------------------------------- lines


def test_without_a_terminal_there_is_a_line_per_event_and_one_a_minute(tmp_path):
    clock, out = Clock(), console(False)
    a, b, c = (make_job(tmp_path / name) for name in "abc")
    with shown(out, clock) as listener:
        listener.begun([a, b, c])
        listener.ended(Outcome(c, "skipped"))
        listener.started(a)
        for now in range(0, 130, 10):
            clock.now = now
            write_progress(a.folder, Progress(now / 200, now, 8 * now, 0.25))
            listener.looked([a])
        listener.ended(Outcome(a, "finished", 130.0))
        listener.started(b)
        listener.told(b, "waits for something")
        listener.stopping(1, 300.0)
        listener.ended(Outcome(b, "failed", 1.0, "ValueError: no (exit code 1)"))
    assert text(out).splitlines() == [
        "started   a",
        "1 of 3 runs: 1 skipped; a 30% step 60 480 completions accuracy 0.250",
        "1 of 3 runs: 1 skipped; a 60% step 120 960 completions accuracy 0.250",
        "finished  a after 2 min  [2 of 3 runs: 1 finished, 1 skipped]",
        "started   b",
        "note      b waits for something",
        "stopping  1 runs have 5 min to end; Ctrl-C again kills them",
        "failed    b after 1 s: ValueError: no (exit code 1)  [3 of 3 runs: 1 finished, 1 skipped, 1 failed]",
    ]


def test_a_run_that_goes_on_says_from_where(tmp_path):
    out, a = console(False), make_job(tmp_path / "a")
    write_progress(a.folder, Progress(0.4, 1, 8))
    Lines(out).started(a)
    assert text(out) == "started   a, goes on from 40%\n"


# --------------------------------------------------------------------------------------------------------------- panel


def test_the_panel_shows_a_bar_counts_the_time_left_and_a_line_per_run(tmp_path):
    clock, out = Clock(), console(False)
    jobs = [make_job(tmp_path / name) for name in "abcd"]
    panel = Panel(out, None, clock)
    panel.begun(jobs)
    panel.ended(Outcome(jobs[0], "skipped"))
    panel.started(jobs[1])
    panel.started(jobs[2])
    clock.now = 30.0
    write_progress(jobs[1].folder, Progress(0.25, 5, 320, 0.5))
    out.print(panel.drawn(jobs[1:3]))
    # A quarter of a run in 30 + 30 s: 240 s a run. Left are 1 + 0.75 + 1 runs by two: 330 s
    head, first, second = [" ".join(line.replace("━", "").split()) for line in text(out).splitlines()]
    assert head == "1 of 4 runs: 1 skipped; about 6 min left"
    assert (first, second) == ("b 25% step 5 320 completions accuracy 0.500", "c starting")


def test_the_panel_names_failures_above_itself_and_many_runs_by_their_number(tmp_path):
    out = console(True)  # a terminal: the panel is live
    jobs = [make_job(tmp_path / f"run-{n}") for n in range(40)]
    with shown(out) as listener:
        assert isinstance(listener, Panel)
        listener.begun(jobs)
        for job in jobs:
            listener.started(job)
        listener.looked(jobs)
        listener.ended(Outcome(jobs[0], "failed", 2.0, "exit code 3"))
        out.print(listener.drawn(jobs[1:]))
    assert "failed    run-0 after 2 s: exit code 3" in text(out)
    assert "and 23 more" in text(out)  # 39 go, 16 are shown
    assert "started" not in text(out)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_runs_say_is_plain_text(tmp_path, is_terminal):
    out, job = console(False), make_job(tmp_path / "run", name=EVIL)
    listener = Panel(out, None) if is_terminal else Lines(out)
    listener.begun([job])
    listener.told(job, EVIL)
    listener.ended(Outcome(job, "failed", 1.0, EVIL))
    if is_terminal:
        out.print(listener.drawn([job]))
    assert "\x1b" not in text(out)
    assert "\x07" not in text(out)
    assert text(out).count("[red]x[/] end") == (5 if is_terminal else 4)


# ------------------------------------------------------------------------------------------------------------ progress


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "1",
        '{"fraction": 1}',
        '{"fraction": "x", "step": 1, "completions": 1}',
        '{"fraction": NaN, "step": 1, "completions": 1}',
        '{"fraction": 1, "step": 1.5, "completions": 1}',
        '{"fraction": 1, "step": 1, "completions": 1, "accuracy": "[b]"}',
        '{"fraction": 1, "step": 1, "completions": 1, "more": 1}',
        "\x00\xff",
    ],
)
def test_a_file_that_is_no_progress_is_none(tmp_path: Path, content):
    (tmp_path / "progress.json").write_text(content, encoding="latin-1")
    assert read_progress(tmp_path) is None


def test_fractions_outside_of_a_bar_are_cut(tmp_path):
    job = make_job(tmp_path / "run")
    write_progress(job.folder, Progress(7.0, 1, 1))
    lines = Lines(console(False))
    lines.started(job)
    assert lines.going([job])[0].fraction == 1.0
