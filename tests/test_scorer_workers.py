"""Scorers of libraries: a hard limit for each answer, no process left behind, nothing of an answer is run."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from trl_dapo.evaluation.scorers import get_scorer, math_verify, workers
from trl_dapo.evaluation.scorers.verdicts import Verdict
from trl_dapo.evaluation.scorers.workers import POOLS, Pool, end_workers


ROOT = Path(__file__).parent.parent
pytest.importorskip("math_verify", reason="the extra math is not installed")

# Stops sympy, whatever the limit
SLOW = "\\boxed{9^{9^{9^{9}}}}"
GOOD = "\\boxed{1}"


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "worker_process" in " ".join(child.cmdline())]


@pytest.fixture(scope="module", autouse=True)
def _no_worker_is_left():
    yield
    end_workers()
    assert children() == []


# --------------------------------------------------------------------------------------------------------- math_verify


@pytest.mark.parametrize(
    ("completion", "solution", "outcome"),
    [
        ("\\boxed{\\frac{68}{2}}", "34", "right"),
        ("\\boxed{\\sqrt{242}}", "11\\sqrt{2}", "right"),
        ("\\boxed{11}", "11\\sqrt{2}", "wrong"),
        ("\\boxed{\\frac12}", "0.5", "right"),
        ("\\boxed{(x+1)^2}", "x^2+2x+1", "right"),
        ("\\boxed{q - p}", "p - q", "wrong"),
        ("The final answer is $5$.", "$5$", "right"),
        ("\\boxed{\\{3,1,2\\}}", "\\{1,2,3\\}", "right"),
        ("\\boxed{100000}", "1e5", "right"),
        ("Answer: 34", "34", "unparseable"),
        ("", "34", "unparseable"),
    ],
)
def test_math_verify_compares_values(completion, solution, outcome):
    assert math_verify.judge([completion], [solution])[0].outcome == outcome


def test_equal_answers_have_one_form_and_so_one_vote():
    # Half, written in four ways, then 34 twice and 17, which are wrong
    written = ["1/2", "0.5", "\\frac{2}{4}", "50\\%", "34", "34.0", "17"]
    judged = math_verify.judge([f"\\boxed{{{one}}}" for one in written], ["1/2"] * len(written))
    assert [one.answer for one in judged] == ["1/2", "1/2", "1/2", "1/2", "34", "34", "17"]
    assert [one.outcome for one in judged] == ["right"] * 4 + ["wrong"] * 3


def test_a_solution_that_math_verify_cannot_read_gives_no_reward():
    (judgement,) = math_verify.judge([GOOD], ["$$"])
    assert (judgement.outcome, judgement.reward, judgement.readable_solution) == ("unparseable", None, False)


@pytest.mark.parametrize("text", ["{" * 100_000, "\\frac{1}{" * 1_000, "\0" * 100_000, "\ud800", "٣٤", "1e400"])
def test_no_text_makes_math_verify_fail(text):
    assert math_verify.judge([f"\\boxed{{{text}}}"], ["34"])[0].outcome in ("wrong", "unparseable")


# ----------------------------------------------------------------------------------------------------- the time limit


def test_a_slow_answer_costs_its_neighbours_nothing():
    metrics = {}
    scorer = get_scorer("math_verify", time_limit=0.5, unparseable_reward=-0.5, workers=1)
    start = time.monotonic()
    rewards = scorer(
        completions=[GOOD, SLOW, GOOD, "none", "\\boxed{99999999!}", GOOD],
        solution=["1"] * 6,
        log_metric=metrics.__setitem__,
    )
    assert rewards == [1.0, -0.5, 1.0, -0.5, -0.5, 1.0]
    # Two of six are late, one has no answer
    assert metrics["math_verify/timed_out"] == pytest.approx(2 / 6)
    assert metrics["math_verify/unparseable"] == pytest.approx(1 / 6)
    assert time.monotonic() - start < 20


def test_the_limit_works_off_the_main_thread():
    found = []
    scorer = get_scorer("math_verify", time_limit=0.3)
    thread = threading.Thread(target=lambda: found.extend(scorer.judge([SLOW, GOOD], ["1", "1"])))
    thread.start()
    thread.join()
    assert [(judgement.outcome, judgement.timed_out) for judgement in found] == [
        ("unparseable", True),
        ("right", False),
    ]


def test_threads_share_the_workers():
    found = {}

    def judge(number: int) -> None:
        completions = [f"\\boxed{{{number}}}"] * 40
        found[number] = [one.answer for one in math_verify.judge(completions, [str(number)] * 40)]

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [str(number)] * 40 for number in range(4)}


def test_a_worker_that_cannot_end_itself_is_ended(monkeypatch):
    # The parent's own deadline: this worker never replies, and its timer is not set
    monkeypatch.setattr(workers, "GRACE", 0.2)
    stuck = "import time; print('{\"ready\": true}', flush=True); time.sleep(60)"
    monkeypatch.setattr(workers, "PROGRAM", stuck)
    pool = Pool("math_verify")
    start = time.monotonic()
    assert pool.judge([(GOOD, "1", None)], 0.2, 1) == [Verdict(timed_out=True)]
    assert time.monotonic() - start < 10
    assert pool.workers == []


def test_a_worker_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(workers, "PROGRAM", "raise SystemExit(3)")
    with pytest.raises(RuntimeError, match=r"before it was ready \(exit code 3\)"):
        Pool("math_verify").judge([(GOOD, "1", None)], 1.0, 1)


def test_an_answer_on_which_the_worker_crashes_is_unparseable(monkeypatch):
    crash = (
        "import sys, os, json; print('{}', flush=True)\n"
        "for text, *_ in json.loads(sys.stdin.readline())['rows']:\n"
        '    os.abort() if text == \'crash\' else print(\'{"answer": "1", "score": 1.0}\', flush=True)\n'
        "sys.stdin.readline()"
    )
    monkeypatch.setattr(workers, "PROGRAM", crash)
    pool = Pool("math_verify")
    verdicts = pool.judge([(text, "1", None) for text in ("a", "crash", "b")], 5.0, 1)
    pool.end()
    assert verdicts == [Verdict("1", 1.0), Verdict(), Verdict("1", 1.0)]


# ----------------------------------------------------------------------------------------------------------- processes


def test_workers_are_used_again_and_end_when_asked():
    math_verify.judge([GOOD], ["1"])
    (before,) = {worker.process.pid for worker in POOLS["math_verify"].workers[:1]}
    math_verify.judge([GOOD], ["1"])
    assert POOLS["math_verify"].workers[0].process.pid == before
    end_workers()
    assert not psutil.pid_exists(before)


def test_a_worker_that_was_killed_between_calls_costs_no_answer():
    math_verify.judge([GOOD], ["1"])
    for worker in POOLS["math_verify"].workers:
        worker.process.kill()
        worker.process.wait()
    assert math_verify.judge([GOOD], ["1"])[0].outcome == "right"


def test_two_workers_give_the_verdicts_in_order():
    completions = [f"\\boxed{{{number}}}" for number in range(70)]
    judgements = get_scorer("math_verify", workers=2).judge(completions, ["7"] * 70)
    assert [judgement.answer for judgement in judgements] == [str(number) for number in range(70)]
    assert [judgement.outcome for judgement in judgements].index("right") == 7
    assert len(POOLS["math_verify"].workers) == 2


def test_an_interruption_ends_the_workers(monkeypatch):
    monkeypatch.setattr(workers.Round, "_read", lambda self, worker: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        math_verify.judge([GOOD], ["1"])
    assert children() == []


def _script(tmp_path: Path, text: str) -> subprocess.Popen[str]:
    path = tmp_path / "script.py"
    path.write_text(
        "from trl_dapo.evaluation.scorers import get_scorer\n"
        "from trl_dapo.evaluation.scorers.workers import POOLS\n"
        # No guard around the script's work, and a sign of life whenever it is run
        f"open({str(tmp_path / 'runs')!r}, 'a').write('x')\n"
        "scorer = get_scorer('math_verify', time_limit=0.5, workers=1)\n"
        f"scorer.judge([{GOOD!r}], ['1'])\n"
        "print(POOLS['math_verify'].workers[0].process.pid, flush=True)\n"
        f"{text}\n"
    )
    return subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def _ends(pid: int, seconds: float = 10.0) -> bool:
    for _ in range(int(seconds / 0.05)):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("doing", ["import time; time.sleep(60)", f"scorer.judge([{SLOW!r}] * 99, ['1'] * 99)"])
def test_workers_end_with_the_process_however_it_ends(tmp_path, signal_number, doing):
    script = _script(tmp_path, doing)
    pid = int(script.stdout.readline())
    script.send_signal(signal_number)
    script.communicate(timeout=20)
    assert _ends(pid)


def test_a_users_script_is_not_run_again_by_a_worker(tmp_path):
    script = _script(tmp_path, "")
    pid = int(script.communicate(timeout=30)[0])
    assert script.returncode == 0
    assert (tmp_path / "runs").read_text() == "x"
    assert _ends(pid)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_workers_of_its_own(tmp_path):
    # As in a DataLoader that forks: the child scores, and the parent's workers stay its own
    script = _script(
        tmp_path,
        "import os\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    parents = len(POOLS)\n"
        f"    right = scorer.judge([{GOOD!r}], ['1'])[0].outcome == 'right'\n"
        "    os._exit(0 if right and not parents else 1)\n"
        "status = os.waitpid(child, 0)[1]\n"
        f"assert status == 0 and scorer.judge([{GOOD!r}], ['1'])[0].outcome == 'right'\n",
    )
    script.communicate(timeout=30)
    assert script.returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_worker_ends_with_its_parent_though_a_forked_child_goes_on(tmp_path):
    # The child would hold the worker's input open
    script = _script(tmp_path, "import os, time\nif child := os.fork(): print(child, flush=True)\ntime.sleep(60)")
    worker, child = (int(script.stdout.readline()) for _ in range(2))
    script.kill()
    script.wait()
    ended, goes_on = _ends(worker), psutil.pid_exists(child)
    os.kill(child, signal.SIGKILL)
    script.stdout.close()
    assert (ended, goes_on) == (True, True)


@pytest.mark.parametrize("rule", ["math_verify", "reasoning_gym"])
def test_workers_import_none_of_the_large_libraries(rule):
    pytest.importorskip(rule, reason="its extra is not installed")
    program = (
        "import sys; from trl_dapo.evaluation.scorers.worker_rules import load; "
        "import trl_dapo.evaluation.scorers.worker_process; "
        f"load({rule!r}); print([name for name in ('torch', 'transformers', 'trl') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------------------- nothing is run


def attacks(path: Path) -> list[str]:
    run = f"__import__('os').system('touch {path}')"
    return [
        run,
        f"[{run}]",
        f"open('{path}', 'w')",
        f'eval("{run}")',
        f'exec("{run}")',
        f'sympify("{run}")',
        f'Symbol("x").subs("{run}", 1)',
        f"(lambda: {run})()",
        f"[{run} for x in [1]]",
        "().__class__.__base__.__subclasses__()",
    ]


def test_sympy_runs_nothing_for_math_verify(tmp_path):
    path = tmp_path / "run"
    texts = [form.format(text) for text in attacks(path) for form in ("\\boxed{{{}}}", "${}$", "The answer is {}")]
    math_verify.judge(texts, ["1"] * len(texts))
    math_verify.judge([GOOD] * len(texts), texts)
    assert not path.exists()


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("abs(-3) + max(1, 2) + Symbol(1)", ""),
        ("[[1, 2], ['Q', '_']]", ""),
        ("__import__('os')", "__import__"),
        ("open('/etc/hostname').read()", "open"),
        ("getattr(1, 'real')", "getattr"),
        ("().__class__", "__class__"),
        ("(lambda: eval('1'))()", "eval"),
        ("Symbol(compile('1', '<frozen x>', 'eval'))", "compile"),
    ],
)
def test_code_that_is_made_from_an_answer_names_nothing_but_formulas(code, refused):
    program = (
        "import sys\nfrom trl_dapo.evaluation.scorers.guard import Refused, close_doors\nclose_doors()\n"
        "try: eval(sys.argv[1], {'Symbol': int})\n"
        "except Refused as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program, code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == refused


@pytest.mark.parametrize(
    "act",
    [
        "open(sys.argv[1], 'w')",
        "os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)",
        "os.system('touch ' + sys.argv[1])",
        "subprocess.run(['touch', sys.argv[1]])",
        "os.remove(__file__)",
        "os.kill(os.getppid(), 0)",
        "os.fork()",
        "socket.create_connection(('127.0.0.1', 9))",
    ],
)
def test_acts_that_leave_a_trace_are_refused(act, tmp_path):
    path, script = tmp_path / "trace", tmp_path / "script.py"
    script.write_text(
        "import os, socket, subprocess, sys\nfrom trl_dapo.evaluation.scorers.guard import Refused, close_doors\n"
        f"close_doors()\ntry: {act}\nexcept Refused: print('refused')\n"
    )
    done = subprocess.run([sys.executable, str(script), str(path)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "refused", done.stderr
    assert script.exists()
    assert not path.exists()


# Of the tasks: five call `eval`, the others sympy's parser, which does
EVALUATING_TASKS = ("string_insertion", "spiral_matrix", "binary_matrix", "n_queens", "number_sorting", "countdown")
PARSING_TASKS = ("puzzle24", "simple_integration", "intermediate_integration", "polynomial_multiplication")


def entries(task: str, size: int = 1) -> list[dict]:
    return list(pytest.importorskip("reasoning_gym").create_dataset(task, size=size, seed=3))


@pytest.mark.parametrize("task", [*EVALUATING_TASKS, *PARSING_TASKS])
def test_reasoning_gym_runs_nothing(task, tmp_path):
    path = tmp_path / "run"
    texts = [f"<answer>{text}</answer>" for text in attacks(path)]
    (entry,) = entries(task)
    judgements = get_scorer("reasoning_gym").judge(texts, [None] * len(texts), entry=[json.dumps(entry)] * len(texts))
    assert not path.exists()
    assert all(judgement.outcome != "right" for judgement in judgements)


def test_without_the_guard_the_answer_would_be_run(tmp_path):
    # What the tests above are worth: this is what the library does with such an answer
    (entry,) = entries("countdown")
    path = tmp_path / "run"
    program = (
        "import sys, json, reasoning_gym; entry = json.loads(sys.argv[1]); "
        "reasoning_gym.get_score_answer_fn('countdown')(sys.argv[2], entry)"
    )
    subprocess.run([sys.executable, "-c", program, json.dumps(entry), attacks(path)[0]], check=True)
    assert path.exists()


# ------------------------------------------------------------------------------------------------------- reasoning_gym


TASKS = (*EVALUATING_TASKS, *PARSING_TASKS, "chain_sum", "arc_agi", "rearc", "sokoban", "prime_factorization")


def test_reasoning_gyms_own_answers_are_right():
    rows = [entry for task in TASKS for entry in entries(task, 2)]
    completions = [f"I think.\n<answer>{entry['answer']}</answer>" for entry in rows]
    columns = {"entry": [json.dumps(entry) for entry in rows], "solution": [entry["answer"] for entry in rows]}
    judgements = get_scorer("reasoning_gym").judge(completions, columns["solution"], entry=columns["entry"])
    assert [judgement.outcome for judgement in judgements] == ["right"] * len(rows)


def test_reasoning_gym_keeps_its_own_fractions():
    (entry,) = entries("chain_sum")
    columns = {"entry": [json.dumps(entry)] * 4}
    answer = entry["answer"]
    # Its base scorer gives the share of the answer that the solution makes up: 1 / 2 for the solution and as much text
    texts = [f"<answer>{answer}</answer>", f"<answer>{'x' * len(answer)}{answer}</answer>", answer, "<answer>"]
    first, second, third, fourth = get_scorer("reasoning_gym", unparseable_reward=None)(completions=texts, **columns)
    assert (first, second, third, fourth) == (1.0, 0.5, None, None)


def test_a_task_whose_scorer_raises_has_no_answer():
    (entry,) = entries("prime_factorization")
    (judgement,) = get_scorer("reasoning_gym").judge(["<answer>junk</answer>"], [None], entry=[json.dumps(entry)])
    assert (judgement.outcome, judgement.timed_out) == ("unparseable", False)


def test_entries_that_cannot_be_read_are_told():
    pytest.importorskip("reasoning_gym")
    scorer = get_scorer("reasoning_gym")
    for entry in ("", "{}", "[1]", '{"metadata": 1}', None, 3):
        with pytest.raises(ValueError, match="entry: row 0"):
            scorer.judge(["<answer>1</answer>"], ["1"], entry=[entry])
    (judgement,) = scorer.judge(["<answer>1</answer>"], ["1"], entry=['{"metadata": {"source_dataset": "no_task"}}'])
    assert (judgement.reward, judgement.readable_solution) == (None, False)
