"""Launchers of an ablation: who gets which GPU and thread here, and runs through submitit and Ray."""

import builtins
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processes import SLEEPS, is_finished, job, processes_of, starts, wait_until
from trl_dapo.ablation.launchers import LauncherError, LocalLauncher, RayLauncher, SlurmLauncher, slots, slurm
from trl_dapo.ablation.launchers.process import LOCK, Owner, read_owner
from trl_dapo.ablation.launchers.slots import Gpus, threads_per_run, visible_gpus
from trl_dapo.ablation.runner import run_jobs


HERE = Path(__file__).parent
SAYS = "mark('said', os.environ.get('CUDA_VISIBLE_DEVICES', '-') + ' ' + os.environ.get('OMP_NUM_THREADS', '-'))\n"
FINISHES = SAYS + "mark('starts'); time.sleep(0.3); finish()"
STOPS = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), mark('checkpoint'), sys.exit(1)))\n" + SLEEPS


def run(jobs, launcher):
    launcher.pause = min(launcher.pause, 0.1)
    return run_jobs(jobs, launcher, is_finished)


def said(one):
    return (one.folder / "said").read_text().split()[1:]


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def interrupt_when(condition):
    """Sends this process Ctrl-C as soon as a condition holds."""

    def wait():
        wait_until(condition)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


# ------------------------------------------------------------------------------------------------------ GPUs and cores


def test_runs_at_once_see_gpus_of_their_own(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    jobs = [job(tmp_path / name, FINISHES) for name in "abcd"]
    assert statuses(run(jobs, LocalLauncher(2, gpus=["0", "GPU-x"]))) == ["finished"] * 4
    assert sorted(said(one)[0] for one in jobs[:2]) == ["0", "GPU-x"]
    assert sorted(said(one)[0] for one in jobs[2:]) == ["0", "GPU-x"]
    assert [said(one)[1] for one in jobs] == [str(threads_per_run(2))] * 4


@pytest.mark.parametrize(("jobs_at_once", "gpus"), [(1, ["0", "1"]), (2, ["0"]), (2, [])])
def test_nothing_is_set_where_there_is_nothing_to_share(tmp_path, monkeypatch, jobs_at_once, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    one = job(tmp_path / "a", FINISHES)
    run([one], LocalLauncher(jobs_at_once, gpus=gpus))
    assert said(one)[0] == "-"


def test_what_the_user_sets_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    own = job(tmp_path / "own", FINISHES, environment={"CUDA_VISIBLE_DEVICES": "5", "OMP_NUM_THREADS": "3"})
    plain = job(tmp_path / "plain", FINISHES)
    run([own, plain], LocalLauncher(2, gpus=["0", "1"]))
    assert (said(own), said(plain)[1]) == (["5", "3"], "7")


def test_a_run_of_several_gpus_has_them_alone(tmp_path):
    pairs = [job(tmp_path / name, FINISHES, gpus=2) for name in "ab"]
    big = job(tmp_path / "big", FINISHES, gpus=4)
    outcomes = run([*pairs, big], LocalLauncher(3, gpus=["0", "1", "2"]))
    assert statuses(outcomes) == ["finished", "finished", "failed"]
    assert outcomes[2].reason == "it needs 4 GPUs, and this machine lends it 3"
    assert [said(one)[0] for one in pairs] == ["0,1", "0,1"]  # one after the other: 2 + 2 > 3


@given(st.integers(1, 4), st.lists(st.integers(0, 4), max_size=12), st.data())
def test_gpus_are_never_lent_twice_to_runs_that_need_them_alone(number, asked, data):
    gpus = Gpus([str(n) for n in range(number)])
    lent = []
    for wish in asked:
        if lent and data.draw(st.booleans()):
            gpus.give_back(lent.pop(data.draw(st.integers(0, len(lent) - 1)))[1])
        if wish <= number and gpus.has_room(wish):
            lent.append((wish, gpus.take(wish)))
        alone = [name for wanted, names in lent if wanted for name in names]
        assert len(alone) == len(set(alone))
        assert all(len(names) == max(wanted, 1) for wanted, names in lent)


@pytest.mark.parametrize(
    ("value", "names"), [("2,3", ["2", "3"]), ("", []), ("-1", []), (" GPU-a , 1", ["GPU-a", "1"])]
)
def test_the_gpus_that_are_visible(monkeypatch, value, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == names


def test_gpus_are_counted_by_the_driver(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA (UUID: a)'\necho '  MIG 1g'\necho 'GPU 1: NVIDIA (UUID: b)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_gpus() == ["0", "1"]
    tool.write_text("#!/bin/sh\necho 'GPU access failed'\nexit 9\n")
    assert visible_gpus() == []


def test_cores_are_divided_among_runs(monkeypatch):
    monkeypatch.setattr(slots.os, "sched_getaffinity", lambda _: set(range(10)), raising=False)
    assert [threads_per_run(runs) for runs in (1, 3, 4, 20)] == [10, 3, 2, 1]


def test_no_run_at_once_is_refused():
    with pytest.raises(ValueError, match=r"jobs_at_once=0 starts nothing\. Give 1 or more"):
        LocalLauncher(0)


def test_an_owner_is_gone_when_its_process_is_or_another_has_its_number(tmp_path):
    this = psutil.Process()
    here = os.uname().nodename
    assert not Owner(here, this.pid, this.create_time()).is_gone
    assert Owner(here, this.pid, this.create_time() - 60).is_gone
    assert Owner(here, 2**22 + 1, 0.0).is_gone
    assert not Owner("another-host", 2**22 + 1, 0.0).is_gone
    for broken in ("", "[]", '{"host": 1}', "\x00"):
        (tmp_path / LOCK).write_text(broken)
        assert read_owner(tmp_path) is None


@pytest.mark.parametrize(("launcher", "package"), [(SlurmLauncher, "submitit"), (RayLauncher, "ray")])
def test_a_launcher_without_its_package_says_what_to_install(monkeypatch, tmp_path, launcher, package):
    real = builtins.__import__

    def without(name, *others, **more):
        if name == package:
            raise ImportError(f"No module named {name!r}")
        return real(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    extra = {"submitit": "slurm", "ray": "ray"}[package]
    with pytest.raises(LauncherError) as caught:
        launcher(tmp_path) if extra == "slurm" else launcher()
    expected = f"The {extra} launcher needs {package} (No module named '{package}'): pip install 'trl-dapo[{extra}]'"
    assert str(caught.value) == expected


# --------------------------------------------------------------------------------------------------------------- Slurm


@pytest.fixture
def worker_path(monkeypatch):
    """Workers import what the jobs' `is_finished` is from."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def submitit(worker_path):
    return pytest.importorskip("submitit", reason="needs submitit, the extra `slurm`")


@pytest.fixture
def fake_slurm(submitit, tmp_path, monkeypatch):
    """Slurm's commands, see `fake_slurm.py`; returns the folder with its jobs."""
    commands, folder = tmp_path / "commands", tmp_path / "queue"
    commands.mkdir()
    folder.mkdir()
    for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "fake_slurm.py"} {name} "$@"\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    submitit.SlurmJob.watcher.clear()
    return folder


MIXED = ["finished", "failed", "failed", "skipped"]


def mixed(folder):
    """Runs that end in different ways, see [`MIXED`] and `check_mixed`."""
    done = job(folder / "done")
    done.folder.mkdir()
    (done.folder / "result.json").write_text("{}")
    raises = job(folder / "raises", "mark('starts'); raise ValueError('no')")
    return [job(folder / "good", FINISHES), raises, job(folder / "forgets", "print('done')"), done]


def check_mixed(outcomes):
    assert statuses(outcomes) == MIXED
    assert [outcome.reason for outcome in outcomes[1:3]] == [
        "ValueError: no (exit code 1)",
        "done (exit code 0, yet it is not finished: its result is missing)",
    ]
    assert outcomes[0].seconds > 0
    assert [len(starts(outcome.job.folder)) for outcome in outcomes] == [1, 1, 0, 0]


def test_runs_through_submitit_on_this_machine(submitit, tmp_path):
    check_mixed(run(mixed(tmp_path), SlurmLauncher(tmp_path / "submitit", {"timeout_min": 5}, cluster="local")))


def test_runs_through_submitit_in_this_process(submitit, tmp_path):
    check_mixed(run(mixed(tmp_path), SlurmLauncher(tmp_path / "submitit", cluster="debug")))


def test_ctrl_c_ends_runs_of_submitit(submitit, tmp_path):
    jobs = [job(tmp_path / "run", STOPS)]
    interrupt_when(lambda: starts(tmp_path / "run"))
    assert statuses(run(jobs, SlurmLauncher(tmp_path / "submitit", cluster="local", grace=10))) == ["stopped"]
    assert (tmp_path / "run" / "checkpoint").exists()
    assert processes_of(tmp_path / "run") == []


def test_runs_through_slurm(fake_slurm, tmp_path):
    parameters = {"timeout_min": 60, "gpus_per_node": 1, "slurm_partition": "gpu"}
    check_mixed(run(mixed(tmp_path), SlurmLauncher(tmp_path / "submitit", parameters)))
    script = (fake_slurm / "100" / "script").read_text()
    assert "#SBATCH --partition=gpu\n" in script
    assert "#SBATCH --gpus-per-node=1\n" in script
    assert "#SBATCH --time=60\n" in script
    assert json.loads((tmp_path / "good" / "slurm_job.json").read_text())["id"] == "100"


def test_ctrl_c_cancels_jobs_of_slurm(fake_slurm, tmp_path):
    interrupt_when(lambda: starts(tmp_path / "run"))
    assert statuses(run([job(tmp_path / "run", STOPS)], SlurmLauncher(tmp_path / "submitit", grace=10))) == ["stopped"]
    assert (fake_slurm / "100" / "state").read_text() == "CANCELLED by 0"
    wait_until(lambda: processes_of(tmp_path / "run") == [])


def test_a_job_that_is_cancelled_by_others_is_a_failure(fake_slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "LATE", 1.0)

    def cancel():
        wait_until(lambda: starts(tmp_path / "run"))
        subprocess.run(["scancel", "100"], check=True)

    threading.Thread(target=cancel, daemon=True).start()
    (outcome,) = run([job(tmp_path / "run", STOPS)], SlurmLauncher(tmp_path / "submitit", grace=10))
    assert outcome.status == "failed"
    # What comes first depends on which process hears of it first: the run's own end or that of its job
    assert outcome.reason == "it printed nothing (exit code 1)" or "job 100 is CANCELLED" in outcome.reason


def test_a_run_whose_time_is_over_goes_on_in_a_requeued_job(fake_slurm, tmp_path):
    twice = """
signal.signal(signal.SIGTERM, lambda *_: (mark('checkpoint'), sys.exit(1)))
mark('starts')
if (folder / 'checkpoint').exists():
    finish()
else:
    time.sleep(600)
"""

    def end_of_time():
        wait_until(lambda: starts(tmp_path / "run"))
        # As Slurm does: to all processes of the job
        for process in processes_of(tmp_path / "run") + processes_of(tmp_path / "submitit"):
            process.send_signal(signal.SIGUSR2)

    threading.Thread(target=end_of_time, daemon=True).start()
    (outcome,) = run([job(tmp_path / "run", twice)], SlurmLauncher(tmp_path / "submitit", grace=10))
    assert outcome.status == "finished"
    assert len(starts(tmp_path / "run")) == 2
    assert [path.name for path in fake_slurm.iterdir()] == ["100"]


def test_a_rerun_takes_over_the_job_that_a_killed_runner_left(fake_slurm, tmp_path):
    one = job(tmp_path / "run", "mark('starts'); time.sleep(2); finish()")
    SlurmLauncher(tmp_path / "submitit").start(one, is_finished)  # and nobody waits for it
    assert statuses(run([one], SlurmLauncher(tmp_path / "submitit"))) == ["finished"]
    assert [path.name for path in fake_slurm.iterdir()] == ["100"]
    assert len(starts(tmp_path / "run")) == 1


def test_slurm_that_takes_no_jobs_is_a_failure_of_each(fake_slurm, tmp_path):
    launcher = SlurmLauncher(tmp_path / "submitit")
    sbatch = tmp_path / "commands" / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n")
    (outcome,) = run([job(tmp_path / "run")], launcher)
    assert (outcome.status, outcome.reason) == (
        "failed",
        "Slurm does not take it: sbatch: error: invalid partition specified: gpu",
    )


def test_settings_of_slurm_that_cannot_be_are_named(submitit, tmp_path, monkeypatch):
    with pytest.raises(LauncherError, match=r"slurm parameters \{'gpus': 1\}: .*'gpus'"):
        SlurmLauncher(tmp_path, {"gpus": 1}, cluster="local")
    with pytest.raises(LauncherError, match=r"slurm parameters .*timeout_min"):
        SlurmLauncher(tmp_path, {"timeout_min": "long"}, cluster="local")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LauncherError, match='runs where Slurm\'s commands are: Could not detect "srun"'):
        SlurmLauncher(tmp_path)


# ----------------------------------------------------------------------------------------------------------------- Ray


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="needs ray, the extra `ray`")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent)]))
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()


@pytest.mark.slow
def test_runs_through_ray(cluster, tmp_path):
    check_mixed(run(mixed(tmp_path), RayLauncher({"num_cpus": 1})))


@pytest.mark.slow
def test_ray_runs_as_many_at_once_as_it_has_cores(cluster, tmp_path):
    code = """
running = folder.parent / 'running'
running.mkdir(exist_ok=True)
(running / folder.name).touch()
mark('starts', len(list(running.iterdir())))
time.sleep(0.3)
(running / folder.name).unlink()
finish()
"""
    jobs = [job(tmp_path / f"run-{n}", code) for n in range(8)]
    assert statuses(run(jobs, RayLauncher())) == ["finished"] * 8
    at_once = [int((one.folder / "starts").read_text().split()[1]) for one in jobs]
    assert max(at_once) == 2


@pytest.mark.slow
def test_ctrl_c_ends_runs_of_ray_and_leaves_the_queue_unstarted(cluster, tmp_path):
    jobs = [job(tmp_path / f"run-{n}", STOPS) for n in range(4)]
    interrupt_when(lambda: sum(len(starts(one.folder)) for one in jobs) == 2)
    assert statuses(run(jobs, RayLauncher(grace=10))) == ["stopped"] * 4
    assert sum((one.folder / "checkpoint").exists() for one in jobs) == 2
    assert [process for one in jobs for process in processes_of(one.folder)] == []


@pytest.mark.slow
def test_a_killed_worker_of_ray_costs_no_run(cluster, tmp_path):
    twice = "mark('starts', os.getppid())\nif len((folder / 'starts').read_text().splitlines()) < 2: time.sleep(600)\n"

    def kill():
        wait_until(lambda: starts(tmp_path / "run"))
        watcher = psutil.Process(int((tmp_path / "run" / "starts").read_text().split()[1]))
        watcher.parent().kill()

    threading.Thread(target=kill, daemon=True).start()
    assert statuses(run([job(tmp_path / "run", twice + "finish()")], RayLauncher(grace=5))) == ["finished"]
    assert len(starts(tmp_path / "run")) == 2


@pytest.mark.slow
def test_runs_of_ray_end_with_the_runner(cluster, tmp_path):
    code = f"""
import sys
sys.path[:0] = [{str(HERE)!r}]
from pathlib import Path
from processes import SLEEPS, is_finished, job
from trl_dapo.ablation.launchers import RayLauncher
from trl_dapo.ablation.runner import run_jobs
run_jobs([job(Path(sys.argv[1]), SLEEPS)], RayLauncher(grace=2), is_finished)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    runner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], env=environment)
    wait_until(lambda: starts(tmp_path / "run"))
    runner.kill()
    runner.wait(60)
    wait_until(lambda: processes_of(tmp_path / "run") == [])


def test_options_that_ray_does_not_know_are_named():
    pytest.importorskip("ray", reason="needs ray, the extra `ray`")
    with pytest.raises(LauncherError, match=r"resources=\{'num_cpus': 1, 'gpus': 2\}: .*gpus"):
        RayLauncher({"gpus": 2})


def test_a_cluster_that_is_not_there_is_named(monkeypatch):
    ray = pytest.importorskip("ray", reason="needs ray, the extra `ray`")

    def refuse(address, **settings):
        raise ConnectionError(f"Could not find any running Ray instance at {address}.\nMore.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(
        LauncherError, match=r"the Ray cluster at RAY_ADDRESS=10.0.0.1:6379: Could not find any .*6379\.$"
    ):
        RayLauncher()
