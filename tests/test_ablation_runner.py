"""The runner of an ablation: every run exactly once, whatever becomes of the others, and nothing left behind."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import psutil
import pytest

from processes import FINISHES, SLEEPS, is_finished, job, processes_of, runner_command, starts, wait_until
from trl_dapo.ablation.jobs import Job
from trl_dapo.ablation.launchers import LocalLauncher
from trl_dapo.ablation.log_lines import exit_words, last_line
from trl_dapo.ablation.runner import run_jobs


def run(jobs, at_once=1, grace=5.0, listener=None):
    return run_jobs(jobs, LocalLauncher(at_once, grace), is_finished, listener)


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def start_runner(*words, **settings):
    """A runner in a process group of its own, as a shell has it."""
    command = runner_command(*words, **settings)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


class Record:
    """A listener that keeps what it is told."""

    def __init__(self):
        self.events, self.most = [], 0

    def begun(self, jobs):
        self.events.append(("begun", len(jobs)))

    def started(self, job):
        self.events.append(("started", job.name))

    def ended(self, outcome):
        self.events.append((outcome.status, outcome.job.name))

    def told(self, job, note):
        self.events.append(("told", job.name, note))

    def looked(self, running):
        self.most = max(self.most, len(running))

    def stopping(self, runs, grace):
        self.events.append(("stopping", runs))


# ------------------------------------------------------------------------------------------------------- one after one


def test_thirty_quick_runs_are_each_started_once_and_two_at_a_time(tmp_path):
    jobs = [job(tmp_path / f"run-{n}", "mark('starts'); time.sleep(0.05); finish()") for n in range(30)]
    random.Random(0).shuffle(jobs)
    record = Record()
    outcomes = run(jobs, at_once=2, listener=record)
    assert statuses(outcomes) == ["finished"] * 30
    assert [outcome.job for outcome in outcomes] == jobs
    assert [len(starts(one.folder)) for one in jobs] == [1] * 30
    assert record.most == 2
    assert Counter(event[0] for event in record.events) == {"begun": 1, "started": 30, "finished": 30}


def test_finished_runs_are_not_started(tmp_path):
    jobs = [job(tmp_path / name) for name in "abc"]
    jobs[1].folder.mkdir()
    (jobs[1].folder / "result.json").write_text("{}")
    assert statuses(run(jobs)) == ["finished", "skipped", "finished"]
    assert starts(jobs[1].folder) == []
    assert [path.name for path in jobs[1].folder.iterdir()] == ["result.json"]
    assert statuses(run(jobs)) == ["skipped"] * 3
    assert [len(starts(one.folder)) for one in jobs] == [1, 0, 1]


def test_a_failing_run_is_reported_and_does_not_stop_the_rest(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    codes = {
        "raises": "print('step 1'); raise ValueError('[bold]beta[/] is -1')",
        "exits": "print('cannot go on'); sys.exit(7)",
        "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
        "crashes": "print('so far'); os.kill(os.getpid(), signal.SIGSEGV)",
        "forgets": "print('done')",
        "finishes": FINISHES,
    }
    outcomes = run([job(tmp_path / name, code) for name, code in codes.items()], at_once=2)
    assert {outcome.job.name: outcome.reason for outcome in outcomes} == {
        "raises": "ValueError: [bold]beta[/] is -1 (exit code 1)",
        "exits": "cannot go on (exit code 7)",
        "is killed": "it printed nothing (killed by SIGKILL, perhaps for want of memory)",
        "crashes": "so far (killed by SIGSEGV)",
        "forgets": "done (exit code 0, yet it is not finished: its result is missing)",
        "finishes": None,
    }
    assert statuses(outcomes) == ["failed"] * 5 + ["finished"]


def test_a_run_that_ends_badly_after_its_result_is_finished(tmp_path):
    assert statuses(run([job(tmp_path / "run", FINISHES + "; sys.exit(3)")])) == ["finished"]


def test_a_command_that_is_not_there_is_a_failure_with_its_name(tmp_path):
    jobs = [Job("a", ("/no/such/program", "x"), tmp_path / "a"), Job("b", (str(tmp_path),), tmp_path / "b")]
    first, second = run(jobs)
    assert first.reason == "/no/such/program cannot be started: No such file or directory (exit code 127)"
    assert second.reason == f"{tmp_path} cannot be started: Permission denied (exit code 126)"


def test_output_is_appended_to_the_log_below_a_line_per_start(tmp_path):
    one = job(tmp_path / "run", "print('out'); print('err', file=sys.stderr); sys.exit(1)")
    run([one])
    run([one])
    lines = (one.folder / "log.txt").read_text().splitlines()
    marks = [line for line in lines if line.startswith("--- started ")]
    assert len(marks) == 2
    assert all(f"{one.folder}" in mark and mark.startswith(f"--- started {time.strftime('%Y-')}") for mark in marks)
    assert sorted(line for line in lines if line in ("out", "err")) == ["err", "err", "out", "out"]


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Several runs have the same folder, .*run\. Give each its own"):
        run([job(tmp_path / "run", name="a"), job(tmp_path / "other" / ".." / "run", name="b")])


def test_a_folder_that_cannot_be_written_is_a_failure_of_its_run_alone(tmp_path):
    (tmp_path / "file").write_text("")
    full = job(tmp_path / "full")
    full.folder.mkdir()
    (full.folder / "log.txt").symlink_to("/dev/full")  # every write says that the disk is full
    outcomes = run([job(tmp_path / "file"), full, job(tmp_path / "good")])
    assert statuses(outcomes) == ["failed", "failed", "finished"]
    assert outcomes[0].reason == f"cannot be started: {tmp_path / 'file'}: File exists"
    assert outcomes[1].reason == "cannot be started: No space left on device"
    # Nothing holds the lock of a run that did not start
    (full.folder / "log.txt").unlink()
    assert statuses(run([full])) == ["finished"]


def test_what_a_run_leaves_running_ends_with_it(tmp_path):
    leaves = """
import subprocess
child = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600) # {folder}"
subprocess.Popen([sys.executable, "-S", "-c", child], start_new_session=True)
time.sleep(0.3)
finish()
"""
    assert statuses(run([job(tmp_path / "run", leaves)])) == ["finished"]
    assert processes_of(tmp_path) == []


# ------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize(
    ("number", "passed_on"),
    [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGTERM)],
)
def test_a_signal_lets_runs_write_a_checkpoint_and_stops(tmp_path, number, passed_on):
    saves = """
def save(number, frame):
    mark('heard', number)
    time.sleep(0.3)
    mark('checkpoint')
    sys.exit(1)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, save)
mark('starts')
time.sleep(600)
"""
    runner = start_runner(tmp_path, 3, 2, saves)
    wait_until(lambda: all(starts(tmp_path / f"run-{n}") for n in range(2)))
    os.killpg(runner.pid, number)  # as a terminal does
    assert runner.communicate(timeout=60)[0].splitlines() == [f"run-{n} stopped None" for n in range(3)]
    # Once: a second signal in the middle of a checkpoint would end it
    heard = [(tmp_path / f"run-{n}" / "heard").read_text().split()[1:] for n in range(2)]
    assert heard == [[str(int(passed_on))]] * 2
    assert all((tmp_path / f"run-{n}" / "checkpoint").exists() for n in range(2))
    assert not (tmp_path / "run-2").exists()
    assert processes_of(tmp_path / "run-0") == []


def test_a_run_that_finishes_when_told_to_end_is_finished(tmp_path):
    code = "signal.signal(signal.SIGINT, lambda *_: (finish(), sys.exit(0))); mark('starts'); time.sleep(600)"
    runner = start_runner(tmp_path, 1, 1, code)
    wait_until(lambda: starts(tmp_path / "run-0"))
    runner.send_signal(signal.SIGINT)
    assert runner.communicate(timeout=60)[0] == "run-0 finished None\n"


IGNORES = """
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
import subprocess
child = f"import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600) # {folder}"
subprocess.Popen([sys.executable, "-S", "-c", child], start_new_session=True)
time.sleep(0.2)
""" + SLEEPS  # fmt: skip


def test_a_run_that_ignores_signals_is_killed_after_its_grace(tmp_path):
    runner = start_runner(tmp_path, 1, 1, IGNORES, grace=1)
    wait_until(lambda: starts(tmp_path / "run-0"))
    runner.send_signal(signal.SIGINT)
    assert runner.communicate(timeout=60)[0] == "run-0 stopped None\n"
    assert processes_of(tmp_path / "run-0") == []


def test_a_second_signal_kills_at_once(tmp_path):
    runner = start_runner(tmp_path, 2, 2, IGNORES, grace=3600)
    wait_until(lambda: all(starts(tmp_path / f"run-{n}") for n in range(2)))
    runner.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert runner.poll() is None
    runner.send_signal(signal.SIGINT)
    assert runner.communicate(timeout=60)[0] == "run-0 stopped None\nrun-1 stopped None\n"
    assert processes_of(tmp_path / "run-0") + processes_of(tmp_path / "run-1") == []


def test_a_hangup_beside_another_signal_is_no_second_wish(tmp_path):
    code = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), mark('checkpoint'), sys.exit(1)))\n" + SLEEPS
    runner = start_runner(tmp_path, 1, 1, code)
    wait_until(lambda: starts(tmp_path / "run-0"))
    runner.send_signal(signal.SIGTERM)
    runner.send_signal(signal.SIGHUP)
    assert runner.communicate(timeout=60)[0] == "run-0 stopped None\n"
    assert (tmp_path / "run-0" / "checkpoint").exists()


def test_handlers_are_as_before_and_other_threads_may_run_runs(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run([job(tmp_path / "a")])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    thread = threading.Thread(target=run, args=([job(tmp_path / "b")],))
    thread.start()
    thread.join(60)
    assert is_finished(job(tmp_path / "b"))


def test_a_defect_of_a_listener_leaves_no_run_behind(tmp_path):
    class Bad(Record):
        def looked(self, running):
            if starts(tmp_path / "run"):
                raise RuntimeError("defect")

    with pytest.raises(RuntimeError, match="defect"):
        run([job(tmp_path / "run", SLEEPS)], listener=Bad())
    wait_until(lambda: processes_of(tmp_path / "run") == [])


# --------------------------------------------------------------------------------------------------------- two runners


def test_two_runners_on_the_same_runs_start_each_once(tmp_path):
    code = "mark('starts'); time.sleep(0.05); finish()"
    runners = [start_runner(tmp_path, 20, 2, code) for _ in range(2)]
    texts = [runner.communicate(timeout=120)[0] for runner in runners]
    assert [len(starts(tmp_path / f"run-{n}")) for n in range(20)] == [1] * 20
    finished = Counter(line.split()[0] for text in texts for line in text.splitlines() if " finished" in line)
    assert finished == {f"run-{n}": 1 for n in range(20)}


def test_a_run_that_another_runner_has_is_named_and_the_others_go_on(tmp_path):
    other = start_runner(tmp_path, 1, 1, SLEEPS)
    wait_until(lambda: starts(tmp_path / "run-0"))
    record = Record()
    jobs = [job(tmp_path / f"run-{n}") for n in range(3)]
    outcomes = run(jobs, listener=record)
    assert statuses(outcomes) == ["failed", "finished", "finished"]
    assert outcomes[0].reason == f"another runner (process {other.pid} on {os.uname().nodename}) is at work on it"
    assert ("told", "run-0", outcomes[0].reason) in record.events
    assert len(starts(tmp_path / "run-0")) == 1
    other.terminate()
    assert other.communicate(timeout=60)[0] == "run-0 stopped None\n"
    assert statuses(run(jobs)) == ["finished", "skipped", "skipped"]


def test_a_run_that_another_runner_finishes_meanwhile_is_skipped(tmp_path):
    other = start_runner(tmp_path, 1, 1, "mark('starts'); time.sleep(0.5); finish()")
    wait_until(lambda: starts(tmp_path / "run-0"))
    jobs = [job(tmp_path / "run-0"), job(tmp_path / "run-1", "time.sleep(3); finish()")]
    assert statuses(run(jobs)) == ["skipped", "finished"]
    assert other.communicate(timeout=60)[0] == "run-0 finished None\n"


def test_a_run_that_is_finished_by_the_time_its_folder_is_locked_is_not_started(tmp_path):
    answers = iter([False, True, True])
    (outcome,) = run_jobs([job(tmp_path / "run")], LocalLauncher(), lambda _: next(answers))
    assert outcome.status == "skipped"
    assert starts(tmp_path / "run") == []


# ---------------------------------------------------------------------------------------------------------------- kill


def test_runs_notice_that_their_runner_was_killed(tmp_path):
    runner = start_runner(tmp_path, 2, 2, IGNORES, grace=1)
    wait_until(lambda: all(starts(tmp_path / f"run-{n}") for n in range(2)))
    runner.kill()
    runner.communicate(timeout=60)
    wait_until(lambda: not processes_of(tmp_path / "run-0") and not processes_of(tmp_path / "run-1"))


def test_a_rerun_waits_for_what_a_killed_runner_left(tmp_path):
    # It takes a second for its checkpoint, in which no second copy may start
    slow = """
def save(number, frame):
    time.sleep(1)
    mark('checkpoint')
    sys.exit(1)
signal.signal(signal.SIGTERM, save)
mark('starts')
if (folder / 'checkpoint').exists():
    finish()
else:
    time.sleep(600)
"""
    runner = start_runner(tmp_path, 1, 1, slow)
    wait_until(lambda: starts(tmp_path / "run-0"))
    runner.kill()
    runner.communicate(timeout=60)
    record = Record()
    assert statuses(run([job(tmp_path / "run-0", slow)], listener=record)) == ["finished"]
    note = f"waits for what process {runner.pid}, which is gone, has left running"
    assert [event for event in record.events if event[0] in ("told", "started")] == [
        ("told", "run-0", note),
        ("started", "run-0"),
    ]
    assert len(starts(tmp_path / "run-0")) == 2


@pytest.mark.slow
def test_waiting_for_what_a_killed_runner_left_can_be_stopped(tmp_path):
    runner = start_runner(tmp_path, 1, 1, IGNORES)
    wait_until(lambda: starts(tmp_path / "run-0"))
    runner.kill()
    runner.communicate(timeout=60)
    rerun = start_runner(tmp_path, 1, 1, FINISHES)
    wait_until(lambda: psutil.Process(rerun.pid).cpu_times().user > 0.05)
    time.sleep(1)
    rerun.send_signal(signal.SIGINT)
    assert rerun.communicate(timeout=60)[0] == "run-0 stopped None\n"
    assert len(starts(tmp_path / "run-0")) == 1
    for process in processes_of(tmp_path / "run-0"):
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_a_run_whose_watcher_was_killed_ends_too(tmp_path):
    runner = start_runner(tmp_path, 1, 1, SLEEPS)
    wait_until(lambda: starts(tmp_path / "run-0"))
    (watcher,) = psutil.Process(runner.pid).children()
    watcher.kill()
    text = runner.communicate(timeout=60)[0]
    assert text == "run-0 failed it printed nothing (killed by SIGKILL, perhaps for want of memory)\n"
    wait_until(lambda: processes_of(tmp_path / "run-0") == [])


@pytest.mark.slow
def test_the_lock_lasts_as_long_as_the_run_even_without_its_watcher(tmp_path):
    runner = start_runner(tmp_path, 1, 1, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPS)
    wait_until(lambda: starts(tmp_path / "run-0"))
    (watcher,) = psutil.Process(runner.pid).children()
    watcher.kill()
    runner.communicate(timeout=60)
    rerun = start_runner(tmp_path, 1, 1, FINISHES)
    time.sleep(2)
    assert len(starts(tmp_path / "run-0")) == 1
    psutil.Process(starts(tmp_path / "run-0")[0]).kill()
    assert rerun.communicate(timeout=60)[0] == "run-0 finished None\n"
    assert len(starts(tmp_path / "run-0")) == 2


# Counts to five in a file, and says if it sees another copy of itself at work
COUNTS = """
import fcntl
mark('starts')
own = open(folder / 'own.lock', 'w')
try:
    fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    mark('doubles')
count = folder / 'count'
while (done := int(count.read_text()) if count.exists() else 0) < 5:
    time.sleep(0.05)
    (folder / 'part').write_text(str(done + 1))
    (folder / 'part').replace(count)
finish()
"""


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_kills_at_random_moments_cost_no_run_and_double_none(tmp_path, seed):
    draw = random.Random(seed)
    number = 4
    for _ in range(4):
        runner = start_runner(tmp_path, number, 2, COUNTS, grace=1)
        wait_until(lambda runner=runner: psutil.Process(runner.pid).children() or runner.poll() is not None)
        time.sleep(draw.uniform(0, 0.5))
        below = psutil.Process(runner.pid).children(recursive=True) if runner.poll() is None else []
        if below and draw.random() < 0.5:
            with_luck = draw.choice(below)
            if with_luck.is_running():
                os.kill(with_luck.pid, signal.SIGKILL)
            time.sleep(draw.uniform(0, 0.2))
        runner.kill()
        runner.communicate(timeout=60)
    last = start_runner(tmp_path, number, 2, COUNTS, grace=1)
    text = last.communicate(timeout=120)[0]
    assert [line.split()[1] in ("finished", "skipped") for line in text.splitlines()] == [True] * number, text
    assert [(tmp_path / f"run-{n}" / "count").read_text() for n in range(number)] == ["5"] * number
    assert list(tmp_path.glob("*/doubles")) == []


# ------------------------------------------------------------------------------------------------------------- reasons


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("", None),
        ("--- started x\n\n  \n----\n", None),
        ("first\nlast words\n", "last words"),
        ("old\n--- started x: y\n", None),  # what an earlier start said is not about this one
        ("Traceback\n  File\nValueError: a\nfinal upload done\n", "ValueError: a"),
        ("[rank0]: a.BError: C\nsubprocess.CalledProcessError: Command", "[rank0]: a.BError: C"),
        ("subprocess.CalledProcessError: Command\n", "subprocess.CalledProcessError: Command"),
        ("KeyboardInterrupt\n", "KeyboardInterrupt"),
        ("10%|#\r20%|## it\r\n", "20%|## it"),
        ("\x1b[31mred\x1b[0m \x07\x1b]0;title\x07bell\n", "red bell"),
        ("x" * 1000, "x" * 300),
        (b"\xff\xfe broken", "\ufffd\ufffd broken"),
    ],
)
def test_the_last_line_that_says_something(tmp_path, log, line):
    (tmp_path / "log.txt").write_bytes(log if isinstance(log, bytes) else log.encode())
    assert last_line(tmp_path) == line


def test_a_long_log_is_read_from_its_end(tmp_path):
    (tmp_path / "log.txt").write_text("ValueError: long ago\n" + "noise\n" * 100_000 + "the end\n")
    assert last_line(tmp_path) == "the end"
    assert last_line(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "exit code 1"),
        (128, "exit code 128"),
        (137, "killed by SIGKILL, perhaps for want of memory"),
        (143, "killed by SIGTERM"),
        (255, "exit code 255"),
    ],
)
def test_exit_codes_in_words(code, words):
    assert exit_words(code) == words
