"""`trl-dapo rewind` on runs of the built-in task: the proof, what changes, what is refused, what is resumed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from rewinding import STEPS, here, rewind, train
from trl_dapo.cli import rewind_branch, rewind_run
from trl_dapo.cli.command_file import FILE


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("rewind") / "run", warmup_steps="4", lr_scheduler_type="linear")


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A run of its own, and branches in this process."""
    here(monkeypatch)
    return Path(shutil.copytree(trained, tmp_path / "run"))


def report(run: Path, base: int = 3) -> dict:
    return json.loads((run / "rewind" / f"{base}-report" / "futures.json").read_text())


def curve(run: Path, name: str, key: str, base: int = 3) -> list:
    return [value for _, value in report(run, base)["curves"][name][key]]


def log_of(run: Path, folder: str) -> list[dict]:
    return json.loads((run / "rewind" / folder / "future.json").read_text())["log"]


def moved(run: Path, folder: str) -> float:
    """How far a weight is at step 6 from where it was at step 3."""
    before, after = (
        load_file(one / "model.safetensors")["model.embed_tokens.weight"]
        for one in (run / "checkpoint-3", run / "rewind" / folder / "run" / "checkpoint-6")
    )
    return (after - before).abs().max().item()


# The proof


def test_the_unchanged_branch_is_the_run_bit_for_bit(run, capsys):
    assert rewind(run, "--to", "5", "--set", "epsilon_high=0.5") == 0
    proof = report(run)["proof"]
    # From the checkpoint of step 3, in the middle of a rollout, over that of step 6, to the last one
    assert report(run)["causal"] is True
    assert (proof["base"], proof["last"], proof["checkpoints"], proof["difference"]) == (3, STEPS, [6, 8], None)
    assert proof["values"] > 100
    assert "is the run, bit for bit" in capsys.readouterr().out
    page = (run / "rewind" / "3-report" / "index.html").read_text()
    assert "is the run, bit for bit" in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    assert (run / "rewind" / "3-report" / "futures.svg").is_file()


def test_with_other_random_numbers_it_is_not_and_the_report_says_so(run, capsys):
    # In the middle of a rollout nothing is drawn, so a later step is the first that differs
    path = run / "checkpoint-3" / "rng_state.pth"
    state = torch.load(path, weights_only=False)
    state["cpu"] = torch.Generator().manual_seed(1).get_state()
    torch.save(state, path)
    assert rewind(run, "--to", "3", "--set", "epsilon_high=0.5") == 0
    found = report(run)
    assert found["causal"] is False
    assert found["proof"]["difference"]["step"] == 5
    assert "NOT the run: step 5" in capsys.readouterr().out
    assert (run / "rewind" / "3-report" / "index.html").read_text().count("Not causal") == 2


def test_the_run_itself_is_left_alone(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert rewind(run, "--to", "6", "--set", "temperature=0.5", "--dir", str(run.parent / "futures")) == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_run_that_evaluates_is_the_same_too(tmp_path, monkeypatch):
    here(monkeypatch)
    run = train(tmp_path / "run", eval_strategy="steps", eval_steps="2")
    assert rewind(run, "--to", "3", "--set", "epsilon=0.01") == 0
    assert report(run)["causal"] is True, report(run)["proof"]["difference"]
    assert "eval_reward" in report(run)["metrics"]


@pytest.mark.slow
def test_the_commands_themselves(tmp_path):
    """With the launcher and processes of their own."""
    words = [word for name, value in _words().items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "trl_dapo.cli.main"]
    run = tmp_path / "run"
    subprocess.run([*command, "dapo", "--output_dir", str(run), *words], check=True, capture_output=True, timeout=900)
    done = subprocess.run(
        [*command, "rewind", str(run), "--to", "6", "--set", "epsilon=0.01"],
        check=False, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is the run, bit for bit" in done.stdout
    assert report(run, 6)["causal"] is True


# What changes


def test_the_learning_rate_is_the_one_that_was_set(run):
    assert rewind(run, "--to", "3", "--set", "learning_rate=0.001", "--set", "lr_scheduler_type=constant") == 0
    was = curve(run, "as it was", "learning_rate")
    # Linear, warmed up for 4 of 8 updates to 2e-4; the log of update s has the rate of the update before it is stepped
    assert was[1] == pytest.approx(2e-4)
    assert curve(run, "learning_rate=0.001", "learning_rate") == pytest.approx([5 * one for one in was])
    # Without a schedule named, its warm-up goes: constant from the first update of the branch
    assert curve(run, "lr_scheduler_type=constant", "learning_rate") == pytest.approx([2e-4] * 5)
    # The optimizer's step too, and not the log alone: the first update is larger
    was, own = (moved(run, f"3-{name}") for name in ("as-it-was", "learning_rate=0.001"))
    assert own > 2 * was


@pytest.mark.parametrize(
    ("change", "first"),
    [
        # In the log of the first update of the branch, which the checkpoint is in the middle of a rollout before
        ("epsilon=0.0001 epsilon_high=0.0002", 4),
        ("max_grad_norm=0.0001", 5),
        ("loss_type=grpo", 4),
        ("weight_decay=500.0", 5),
        ("adam_beta1=0.1", 5),
        ("adam_beta2=0.5", 5),
        # So small an update that fewer entries move, which is logged with it
        ("adam_epsilon=1.0", 4),
        ("warmup_steps=1", 4),
        # From the next rollout on
        ("top_k=2", 5),
        ("max_completion_length=6", 5),
        ("dynamic_sampling=true", 5),
        ("scale_rewards=none", 5),
        ("soft_overlong_punishment=false", 5),
    ],
)
def test_a_field_acts(run, change, first):
    """The first update in whose log, or weights, the branch differs from the run."""
    assert rewind(run, "--to", "3", "--steps", "4", "--set", *change.split()) == 0
    (name,) = [one for one in report(run)["curves"] if one != "as it was"]
    folder = next(
        path.parent.name
        for path in (run / "rewind").glob("*/branch.json")
        if json.loads(path.read_text())["changes"] and name
    )
    was, own = log_of(run, "3-as-it-was"), log_of(run, folder)
    clocks = ("time", "seconds", "per_second", "runtime")
    differing = [
        entry["step"]
        for entry, other in zip(was, own, strict=True)
        if any(entry[key] != other.get(key) for key in entry if not key.endswith(clocks))
    ]
    assert differing
    assert differing[0] == first


def _words() -> dict[str, str]:
    from rewinding import WORDS

    return dict(WORDS)


def test_a_change_without_effect_is_told(run, capsys):
    assert rewind(run, "--to", "6", "--steps", "1", "--set", "delta=1000.0") == 0
    assert "delta=1000.0 made no difference" in capsys.readouterr().out


# What is refused


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--to", "5", "--set", "epsilon_hihg=0.2"], "no such field. Did you mean epsilon_high?"),
        (["--to", "5", "--set", "lr=0.2"], "no such field. Did you mean learning_rate?"),
        (["--to", "5", "--set", "seed=2"], "--set seed: it may not change at a checkpoint: the futures are compared"),
        (["--to", "5", "--set", "num_generations=4"], "--set num_generations: it may not change"),
        (["--to", "5", "--set", "max_steps=40"], "--steps says where futures end"),
        (["--to", "5", "--set", "epsilon_high"], "write field=value"),
        (["--to", "5", "--set", "epsilon=wide"], "epsilon"),
        (["--to", "5", "--set", "temperature=1.0"], "changes nothing: the run has that already"),
        (["--to", "5", "--set", "beta=0.1"], "beta=0.1 needs a reference model"),
        (["--to", "5", "--set", "epsilon=0.1", "epsilon=0.2"], "epsilon is there twice"),
        (["--to", "5", "--set", "epsilon=0.1", "--set", "epsilon=0.1"], "is given twice"),
        (["--to", "2", "--set", "epsilon=0.1"], "--to 2 is before the first whole checkpoint"),
        (["--to", "0", "--set", "epsilon=0.1"], "--to must be a step"),
        (["--to", "8", "--set", "epsilon=0.1"], "nothing follows it. Give an earlier --to."),
        (["--to", "5", "--set", "temperature=0.5"], "checkpoint-3 was saved inside a rollout"),
        (["--to", "5", "--steps", "0", "--set", "epsilon=0.1"], "--steps must be at least 1"),
        (["--set", "epsilon=0.1"], "give either --to STEP or --find RULE"),
        (["--find", "loss<0.1"], "--find needs one --set"),
        (["--find", "loss<-100", "--set", "epsilon=0.1"], "the run's log does not show it"),
    ],
)
def test_what_cannot_be_rewound_is_refused_in_one_line(run, capsys, words, told):
    before = sorted(run.rglob("*"))
    assert rewind(run, *words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len([line for line in error.splitlines() if line.startswith("trl-dapo: error:")]) == 1
    assert sorted(run.rglob("*")) == before


def _no_checkpoints(run: Path) -> None:
    for folder in run.glob("checkpoint-*"):
        shutil.rmtree(folder)


def _cut_log(run: Path) -> None:
    path = run / "checkpoint-8" / "trainer_state.json"
    (run / "trainer_state.json").write_text(path.read_text()[: path.stat().st_size // 2])


def _other_processes(run: Path) -> None:
    path = run / FILE
    path.write_text(path.read_text().replace('"processes": 1', '"processes": 2'))


def _launched_otherwise(run: Path) -> None:
    path = run / FILE
    path.write_text(path.read_text().replace('"launch": []', '"launch": ["--num_processes", "2"]'))


def _two_machines(run: Path) -> None:
    path = run / FILE
    words = '["--num_processes", "1", "--num_machines", "2"]'
    path.write_text(path.read_text().replace('"launch": []', f'"launch": {words}'))


def _models_only(run: Path) -> None:
    for folder in run.glob("checkpoint-*"):
        path = folder / "dapo_state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "processes": 0}))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_no_checkpoints, "has no whole checkpoint, so there is no place to rewind to"),
        (_cut_log, "trainer_state.json cannot be read"),
        (lambda run: (run / FILE).unlink(), "has no command.json: the run was started from Python"),
        (lambda run: (run / FILE).write_text("{"), "command.json cannot be read"),
        (_other_processes, "was saved by 1 processes, and the run's command starts 2"),
        (_launched_otherwise, "the run had 1 processes, and its command starts 2 here: another launcher"),
        (_two_machines, "the run had 2 machines, and a rewind starts all processes on one"),
        (_models_only, "was saved with save_only_model=True"),
    ],
)
def test_a_run_that_cannot_be_rewound_says_why(run, capsys, spoil, told):
    spoil(run)
    assert rewind(run, "--to", "5", "--set", "epsilon=0.1") == 2
    assert told in capsys.readouterr().err
    assert not (run / "rewind").exists()


def test_a_run_that_is_running_is_left_alone(run, capsys):
    parent = psutil.Process(os.getppid())
    values = json.loads((run / FILE).read_text())
    values["process"] |= {"pid": parent.pid, "started": parent.create_time()}
    (run / FILE).write_text(json.dumps(values))
    assert rewind(run, "--to", "5", "--set", "epsilon=0.1") == 2
    assert "is still running (process" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_passed_over(run):
    (run / "checkpoint-6" / "model.safetensors").write_bytes(b"cut")
    assert rewind(run, "--to", "7", "--steps", "1", "--set", "epsilon=0.01") == 0
    assert report(run)["base"] == 3


def test_a_run_from_python_is_given_its_command_after_dashes(run):
    start = json.loads((run / FILE).read_text())["starts"][0]
    (run / FILE).unlink()
    words = [word for name, value in start["values"].items() for word in (f"--{name}", str(value).lower())]
    assert rewind(run, "--to", "6", "--set", "epsilon=0.01", "--", "dapo", *words) == 0
    assert report(run, 6)["causal"] is True


def test_a_full_disk_is_one_line(run, capsys, monkeypatch):
    def full(path, text, sync=True):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rewind_run, "write_whole", full)
    assert rewind(run, "--to", "5", "--set", "epsilon=0.01") == 2
    assert "No space left on device. Make room, or name another with --dir." in capsys.readouterr().err


def test_a_branch_that_fails_is_named_and_the_others_go_on(run, capsys, monkeypatch):
    real = rewind_run.run_branch

    def sometimes(start, folder):
        return 1 if "0.01" in folder.name else real(start, folder)

    monkeypatch.setattr(rewind_run, "run_branch", sometimes)
    assert rewind(run, "--to", "6", "--set", "epsilon=0.01", "--set", "epsilon=0.02") == 1
    failures = {row["name"]: bool(row["failure"]) for row in report(run, 6)["futures"]}
    assert failures == {"as it was": False, "epsilon=0.01": True, "epsilon=0.02": False}


# What is resumed


class _Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_branch_that_was_killed_goes_on_and_finished_ones_are_not_run_again(run, monkeypatch):
    words = ("--to", "3", "--set", "learning_rate=0.001")
    assert rewind(run, *words, "--dir", str(run.parent / "whole")) == 0
    counted: list[str] = []
    here(monkeypatch, counted)
    real = rewind_branch.BranchEnd.on_step_end

    def killing(self, args, state, control, **kwargs):
        if state.global_step == 7 and self._branch.changes:
            raise _Killed
        return real(self, args, state, control, **kwargs)

    monkeypatch.setattr(rewind_branch.BranchEnd, "on_step_end", killing)
    with pytest.raises(_Killed):
        rewind(run, *words)
    assert counted == ["3-as-it-was", "3-learning_rate=0.001"]
    assert (run / "rewind" / "3-learning_rate=0.001" / "run" / "checkpoint-6").is_dir()
    monkeypatch.setattr(rewind_branch.BranchEnd, "on_step_end", real)
    assert rewind(run, *words) == 0
    assert counted == ["3-as-it-was", "3-learning_rate=0.001", "3-learning_rate=0.001"]
    assert rewind(run, *words) == 0
    assert len(counted) == 3
    whole = json.loads((run.parent / "whole" / "3-report" / "futures.json").read_text())
    assert report(run)["curves"] == whole["curves"]


def test_a_folder_of_another_future_is_not_taken(run, capsys):
    assert rewind(run, "--to", "6", "--set", "epsilon=0.01") == 0
    path = run / "rewind" / "6-epsilon=0.01" / "branch.json"
    path.write_text(path.read_text().replace('"epsilon": 0.01', '"epsilon": 0.02'))
    assert rewind(run, "--to", "6", "--set", "epsilon=0.01") == 2
    assert "holds another future than" in capsys.readouterr().err


# When it was too late


def test_find_follows_a_bound_back_to_the_last_step_that_helps(run, capsys):
    # The rate is 2e-4 at update 4 or 5 and falls after it. Asked of a rate above 1.5e-4, a change to a lower one
    # helps before that update, and the update after it is too late
    rates = {entry["step"]: entry["learning_rate"] for entry in _log(run) if "learning_rate" in entry}
    onset = next(step for step in sorted(rates) if rates[step] > 1.9e-4)
    assert rewind(run, "--find", "learning_rate>0.00019", "--set", "learning_rate=1e-4") == 0
    found = json.loads((run / "rewind" / "find.json").read_text())
    assert found["seen"] == {"onset": onset, "told": onset}
    assert found["last_that_prevents"] == onset - 1
    assert found["first_that_does_not"] is None
    assert "still prevents it" in capsys.readouterr().out


def test_find_makes_checkpoints_where_there_are_none(run, capsys, monkeypatch):
    # Seen at update 8 alone, and each branch from update 5 on is made to show it: 4 is the last that helps
    monkeypatch.setattr("trl_dapo.cli.rewind_find.parse_rule", lambda text, judge: _FromFive())
    assert rewind(run, "--find", "made_up", "--set", "epsilon=0.01") == 0
    found = json.loads((run / "rewind" / "find.json").read_text())
    assert (found["last_that_prevents"], found["first_that_does_not"]) == (4, 5)
    assert (run / "rewind" / "3-as-it-was" / "run" / "checkpoint-4").is_dir()
    assert "at step 5 it is too late" in capsys.readouterr().out
    # Exact: what the branch has saved at step 6 is what the run has
    assert found["contradictions"] == []


class _FromFive:
    def seen(self, log, after):
        from trl_dapo.rewind.rules import Seen

        return Seen(7, 7) if after == 0 or after >= 5 else None

    def __str__(self):
        return "made_up"


def _log(run: Path) -> list[dict]:
    return json.loads((run / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
