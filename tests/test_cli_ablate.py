"""`trl-dapo ablate`: what is planned and refused before a run starts. Runs themselves are in `test_ablation_runs`."""

# ruff: noqa: F811
import errno
import json
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from ablation_runs import made_run
from test_cli import ROOT, model_dir, settings, workspace, write  # noqa: F401
from test_cli import refused as refused_by
from trl_dapo.ablation.jobs import Outcome
from trl_dapo.ablation.manifest import read_manifest
from trl_dapo.ablation.results import DataSet, End, Question, RunResult, write_result
from trl_dapo.ablation.run_spec import read_spec
from trl_dapo.cli.ablate import PRESETS, parse, preset_file
from trl_dapo.cli.ablate_plan import plan_ablation
from trl_dapo.cli.main import main
from trl_dapo.dapo.toggles import TOGGLES
from trl_dapo.host import whole_files


def refused(capfd, words: list[str]) -> str:
    return refused_by(words, capfd, main)


def planned(*words: str):
    return plan_ablation(*parse([*words, "--dry-run"]))


def configs(*words: str) -> list[dict]:
    return [dict(run.config) for run in planned(*words).runs([0])]


# ------------------------------------------------------------------------------------------------------------ the plan


def test_a_dry_run_prints_tables_budget_and_commands_and_writes_nothing(workspace, capfd):
    before = set(Path().rglob("*"))
    words = ["--design", "ladder", "leave-one-out", "--seeds", "2", "--match", "samples", "steps"]
    assert main(["ablate", *words, "--dry-run"]) == 0
    out = capfd.readouterr().out
    commands = [line for line in out.splitlines() if "ablate_run" in line]
    # Six rows each; DAPO and DAPO without dynamic sampling are in both
    assert len(commands) == len(set(commands)) == (6 + 6 - 2) * 2
    assert "samples: 16384\nsteps: 512" in out
    assert set(Path().rglob("*")) == before


def test_prepare_writes_what_a_run_needs_and_starts_nothing(workspace, capfd):
    assert main(["ablate", "--prepare", "--seeds", "1", "--output_dir", "out"]) == 0
    folder = Path("out/runs/dapo/seed-0")
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "run.json"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["seed"] == 0
    assert all(config[toggle] for toggle in TOGGLES)
    spec = read_spec(folder)
    assert (spec.row.name, spec.seed, spec.budgets) == ("+ dynamic sampling", 0, {"samples": 16384.0})
    lines = Path("out/commands.txt").read_text().splitlines()
    assert len(lines) == 6
    assert shlex.split(lines[-1])[-1] == str(folder / "config.yaml")


def test_a_second_design_joins_the_first_in_one_folder(workspace, capfd):
    for design in ("ladder", "leave-one-out"):
        assert main(["ablate", "--prepare", "--seeds", "1", "--output_dir", "out", "--design", design]) == 0
    assert [design.name for design in read_manifest(Path("out")).designs] == ["ladder", "leave-one-out"]
    assert len(list(Path("out/runs").iterdir())) == 10


def test_flags_of_dapo_change_all_rows(workspace):
    for config in configs("--learning_rate", "5e-4", "--num_generations", "16"):
        assert (config["learning_rate"], config["num_generations"]) == (5e-4, 16)


def test_parameters_of_a_part_that_is_off_are_left_out(workspace, settings):
    path = write({**settings, "held_out": ["math-500"], "epsilon_high": 0.3, "surplus": "carry"})
    rows = configs(*path)
    assert ["epsilon_high" in config for config in rows] == [False, False, True, True, True, True]
    assert ["surplus" in config for config in rows] == [False, False, False, False, False, True]


def test_the_shipped_example_is_a_base(workspace):
    # max_steps: 800, 8 updates and 256 completions per rollout
    plan = planned(
        "--config", str(ROOT / "examples" / "dapo.yaml"), "--held_out", "gsm8k", "--match", "samples", "steps"
    )
    assert len(plan.rows) == 6
    assert plan.budgets == {"samples": 800 / 8 * 256, "steps": 800}
    assert plan.output_dir == Path("Qwen2.5-0.5B-DAPO-ablation")


def test_a_run_may_take_the_steps_that_its_completions_can_feed(workspace):
    # A rollout is 128 completions and 8 updates: 1000 completions are at most 8 rollouts, 64 updates
    assert {config["max_steps"] for config in configs("--samples", "1000")} == {64}
    assert {config["max_steps"] for config in configs("--match", "samples", "steps", "--steps", "2000")} == {2000}


def test_vary_gives_a_field_its_own_type(workspace):
    rows = configs("--vary", "epsilon_high=0.25,0.3", "--vary", "clip_higher=true")
    assert [(row["epsilon_high"], row["clip_higher"]) for row in rows[1:]] == [(0.3, True)]


def test_rows_with_rollouts_of_other_sizes_have_steps_enough_and_log_each_rollout(workspace):
    # 16 completions per update: rollouts of 2 updates have 32 completions, of 8 have 128. 1,000 completions are at
    # most 32 of the first, 64 updates, and 8 of the second, 64 updates
    rows = configs("--vary", "updates_per_rollout=2,8", "--samples", "1000")
    assert [(row["max_steps"], row["logging_steps"]) for row in rows] == [(64, 2), (64, 8)]
    # 128 completions per rollout; two passes over each take twice as many updates
    rows = configs("--vary", "num_iterations=1,2", "--samples", "1000")
    assert [(row["max_steps"], row["logging_steps"]) for row in rows] == [(128, 8), (128, 16)]


def test_max_steps_of_the_base_is_the_budget_of_the_built_in_task_too(workspace):
    # 8 updates and 128 completions per rollout
    assert planned("--max_steps", "64", "--match", "samples", "steps").budgets == {"samples": 1024, "steps": 64}


def test_the_command_line_wins_over_the_section_of_a_file(workspace):
    assert planned("--preset", "arena", "--match", "steps").budgets == {"steps": 512}
    plan = planned("--preset", "gsm8k-0.5b-12gb", "--vary", "learning_rate=1e-5,1e-6")
    assert [design.name for design in plan.designs] == ["vary"]
    path = write({"ablation": {"vary": ["learning_rate=1e-3,1e-4", "num_generations=4,8"]}})
    assert len(planned(*path).rows) == 4
    assert [row.name for row in planned(*path, "--vary", "beta=0").rows] == ["beta=0.0"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (None, "ablation in the file is None: a mapping"),
        ({"seeds": True}, "ablation: seeds: a text or number is needed, got True"),
        ({"seeds": False}, "ablation: seeds: a text or number is needed, got False"),
        ({"seeds": {"a": 1}}, "ablation: seeds: a text or number is needed"),
        ({"seeds": [1, 2]}, "ablation: seeds: one value is needed"),
        ({"design": [["ladder"]]}, "ablation: design: a list of texts or numbers is needed"),
        ({"keep_models": "yes"}, "ablation: keep_models: true or false is needed, got 'yes'"),
        ({"launcher": "ray", "launcher_options": 3}, "ablation: launcher_options: a mapping is needed"),
        ({"first_seed": -1}, "--first_seed must be between 0"),
    ],
)
def test_a_section_with_a_wrong_value_is_refused(workspace, capfd, section, message):
    assert message in refused(capfd, ["ablate", *write({"ablation": section})])


def test_null_in_the_section_is_the_default(workspace):
    assert planned(*write({"ablation": {"output_dir": None, "regime": None}})).output_dir == Path(
        "runs/ablation/default"
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_can_be_planned_on_a_machine_without_gpu_and_network(workspace, capfd, preset):
    assert main(["ablate", "--preset", preset, "--dry-run"]) == 0
    out = capfd.readouterr().out
    assert "# table ladder: 6 rows" in out
    assert "ablate" in out.splitlines()[-1] or out.splitlines()[-1].startswith("note:")


def test_the_papers_preset_has_the_papers_batches(workspace):
    plan = planned("--preset", "paper-32b")
    assert plan.processes == 64
    config = dict(plan.runs([0])[-1].config)
    # Section 4.1: 512 prompts of 16 completions, 16 updates of 512 completions, 16,384 + 4,096 tokens, 1e-6
    update = config["per_device_train_batch_size"] * config["gradient_accumulation_steps"] * plan.processes
    assert (update, config["updates_per_rollout"], config["num_generations"]) == (512, 16, 16)
    assert (config["max_completion_length"], config["soft_punish_cache"]) == (16384 + 4096, 4096)
    assert config["learning_rate"] == 1e-6
    assert plan.measuring.k == 32
    assert (plan.measuring.temperature, plan.measuring.top_p) == (1.0, 0.7)
    assert "ablate-run" in plan.command(plan.runs([0])[0])


def test_preset_files_are_part_of_the_package():
    for preset in PRESETS:
        assert "ablation" in yaml.safe_load(preset_file(preset).read_text())


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--samples", "-5"], "--samples must be at least 1, got -5"),
        (["--first_seed", "-1"], "--first_seed must be between 0"),
        # 2**32 - 8: the last of 8 seeds is 2**32 - 1
        (["--first_seed", "4294967289"], "--first_seed must be between 0 and 4294967288"),
        (["--samples", "9" * 400], "--samples must be at most 1000000000000, got a number of 400 digits"),
        (["--points", "9999999999"], "--points must be at most 1000"),
        (["--seeds", "2000"], "--seeds must be at most 1000, got 2000"),
        (["--temperature", "-1"], "--temperature=-1.0: a finite number of at least 0"),
        (["--temperature", "0"], "--temperature=0 with k=8: greedy"),
        (["--top_p", "5"], "--top_p=5.0: a share above 0"),
        (["--steps", "4"], "--steps has no effect without --match steps"),
        (["--seconds", "4"], "--seconds has no effect without --match seconds"),
        (["--margin", "0.1"], "--margin has no effect without --until resolved"),
        (["--max_seeds", "9"], "--max_seeds has no effect without --until resolved"),
        (["--prepare", "--report"], "--prepare and --report are different things to do"),
        (["--dry-run", "--report"], "--dry-run and --report are different things to do"),
        (["--join", "nowhere"], "--join nowhere: there is no such folder"),
        (["--output_dir", ""], "a folder is needed, got ''"),
        (["--launcher", "ray", "--launcher_options", '{"num_gpuss": 1}'], "--launcher ray: resources="),
        (["--logging_strategy", "no"], "logging_strategy=no has no place in the base"),
        (["--ablation_run", "x"], "ablation_run=x has no place in the base"),
        (["--vary", "held_out_k=2,4"], "--vary held_out_k: all rows are measured, logged and saved alike"),
        (["--vary", "save_steps=2,4"], "--vary save_steps: all rows are measured, logged and saved alike"),
        (["--vary", "push_to_hub=true,false"], "--vary push_to_hub: an ablation has many models"),
        (["--vary", "num_train_epochs=1,2"], "--vary num_train_epochs: a run ends with its budget"),
        (["--vary", "=1,2"], "--vary =1,2: FIELD=A,B is needed"),
        (["--vary", "num_generations=4,7"], "row 'num_generations=7': num_generations=7 does not divide"),
        (["--vary", "lr_scheduler_type=constant,cosine"], "row 'lr_scheduler_type=cosine': lr_scheduler_type=cosine"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--until", "resolved", "--margin", "2"], "--margin must be between 0 and 1, got 2"),
        (["--design", "tower"], "--design: invalid choice: 'tower'"),
        (["--match", "samples", "--steps", "4"], "--steps has no effect without --match steps"),
        (["--design", "ladder", "--vary", "beta=0,0.1"], "--vary and --design both say which rows there are"),
        (["--vary", "bta=1,2"], "--vary bta: there is no such field. Did you mean beta?"),
        (["--vary", "beta"], "--vary beta: FIELD=A,B is needed"),
        (["--vary", "beta=0,0"], "a value is there twice"),
        (["--vary", "seed=1,2"], "--vary seed: it is set by --seeds"),
        (["--regime", "mars"], "--regime mars is unknown. The regimes are default"),
        (["--preset", "arena", "--config", "x.yaml"], "are both a base"),
        (["--until", "resolved", "--first_seed", "4294967288"], "must be between 0 and 4294967264, for 32 seeds"),
        (["--until", "resolved", "--margin", "nan"], "--margin must be between 0 and 1, got nan"),
        (["--until", "resolved", "--seeds", "8", "--max_seeds", "4"], "--max_seeds 4 is below the 8 seeds"),
        (["--launcher_options", '{"a": 1}'], "--launcher_options has no effect with --launcher local"),
        (["--launcher_options", "{"], "is not valid JSON"),
        (["--dynamic_sampling", "false"], "dynamic_sampling=False in the base contradicts --design ladder"),
        (["--push_to_hub"], "push_to_hub=True has no place in the base"),
        (["--held_out_every", "8"], "held_out_every=8 has no place in the base"),
        (["--num_train_epochs", "2"], "num_train_epochs=2.0 has no place in the base"),
        (["--loss_type", "grpo"], "row '+ token-level loss': token_level_loss=True contradicts loss_type='grpo'"),
        (["--lr_scheduler_type", "cosine"], "lr_scheduler_type=cosine decays over the steps of a run"),
        (["--learnin_rate", "1"], "unrecognized argument --learnin_rate"),
        (["--output_dir", "a\0b"], "has a byte 0 in it"),
        (["--report", "--output_dir", "nowhere"], "nowhere"),
        (["--compare", "nowhere", "nowhere"], "--compare"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(workspace, capfd, words, message):
    before = set(Path().rglob("*"))
    assert refused(capfd, ["ablate", *words]).find(message) >= 0
    assert set(Path().rglob("*")) == before


def test_a_base_with_a_model_needs_held_out_questions(workspace, capfd, settings):
    assert "held_out is missing" in refused(capfd, ["ablate", *write(settings)])
    path = write({**settings, "held_out": ["math-500"]})
    assert "--regime default is of the built-in task" in refused(capfd, ["ablate", *path, "--regime", "default"])


def test_a_folder_of_another_ablation_is_refused(workspace, capfd):
    assert main(["ablate", "--prepare", "--seeds", "1", "--output_dir", "out"]) == 0
    message = refused(capfd, ["ablate", "--seeds", "1", "--output_dir", "out", "--learning_rate", "1e-3"])
    assert "holds runs of another ablation: GRPO without KL, seed 0 has config.learning_rate" in message
    message = refused(capfd, ["ablate", "--seeds", "1", "--output_dir", "out", "--samples", "512"])
    assert "budgets.samples=16384.0, not 512.0" in message
    message = refused(capfd, ["ablate", "--seeds", "1", "--output_dir", "out", "--top_p", "0.7"])
    assert "measuring.top_p=1.0, not 0.7" in message


def test_a_file_has_options_of_the_command_in_its_section(workspace, capfd):
    path = write({"ablation": {"seeds": 1, "samples": 256, "design": ["one-at-a-time"]}, "learning_rate": 0.001})
    assert main(["ablate", *path, "--dry-run"]) == 0
    out = capfd.readouterr().out
    assert "# table one-at-a-time: 6 rows" in out
    assert "samples: 256" in out
    assert "ablation: 'seds' is no option" in refused(capfd, ["ablate", *write({"ablation": {"seds": 1}})])


def test_a_file_that_is_no_spec_is_named(workspace, capfd):
    assert main(["ablate", "--prepare", "--seeds", "1", "--output_dir", "out"]) == 0
    Path("out/runs/dapo/seed-0/run.json").write_text(json.dumps({"schema": 99}))
    assert "is not the description of a run" in refused(capfd, ["ablate", "--seeds", "1", "--output_dir", "out"])


# ------------------------------------------------------------------------------------------------------- without runs


class Fake:
    """In place of `run_jobs`: each run ends as `how` says, and those that finish leave a result."""

    def __init__(self, how) -> None:
        self.how, self.asked = how, []

    def __call__(self, jobs, launcher, is_finished, listener=None):
        self.asked.append([job.name for job in jobs])
        return [self._end(job) for job in jobs]

    def _end(self, job) -> Outcome:
        status, right = self.how(job)
        if status == "finished":
            spec = read_spec(job.folder)
            data = DataSet("exact", (Question("0", 1000, right), Question("1", 1000, right)))
            write_result(job.folder, RunResult(spec.row, spec.seed, {"samples": End(32, 4, 32, 1.0, {"arena": data})}))
        return Outcome(job, status, 1.0, None if status == "finished" else "it broke")


@pytest.fixture
def fake(workspace, monkeypatch):
    def install(how) -> Fake:
        found = Fake(how)
        monkeypatch.setattr("trl_dapo.ablation.runner.run_jobs", found)
        return found

    return install


TWO = ["ablate", "--vary", "learning_rate=1e-3,1e-4", "--samples", "32", "--output_dir", "out", "--jobs", "1"]


def seed_of(job) -> int:
    return int(job.folder.name.removeprefix("seed-"))


def test_seeds_are_added_until_the_most_and_begin_where_asked(fake, capfd):
    # Differences of +-0.1, which no number of seeds resolves
    runs = fake(lambda job: ("finished", 500 + 100 * (seed_of(job) % 2) * ("0.0001" in job.name)))
    more = ["--until", "resolved", "--seeds", "2", "--first_seed", "5", "--max_seeds", "4"]
    assert main([*TWO, *more]) == 0
    out = capfd.readouterr().out
    assert [{name.rsplit(" ", 1)[1] for name in names} for names in runs.asked] == [{"5", "6"}, {"7"}, {"8"}]
    assert "--max_seeds 4 is reached, and not all differences are resolved." in out
    assert len(Path("out/commands.txt").read_text().splitlines()) == 8


def test_a_run_that_fails_is_tried_once_and_named_once_while_seeds_are_added(fake, capfd):
    runs = fake(lambda job: ("failed", 0) if "0.0001, seed 0" in job.name else ("finished", 500))
    assert main([*TWO, "--until", "resolved", "--seeds", "2", "--max_seeds", "4"]) == 1
    assert sum("learning_rate=0.0001, seed 0" in names for names in runs.asked) == 1
    assert capfd.readouterr().err.count("failed: learning_rate=0.0001, seed 0: it broke") == 1


def test_no_seeds_are_added_for_a_row_of_which_no_run_works(fake, capfd):
    runs = fake(lambda job: ("failed", 0) if "0.0001" in job.name else ("finished", 500))
    assert main([*TWO, "--until", "resolved", "--seeds", "2", "--max_seeds", "4"]) == 1
    assert len(runs.asked) == 1
    assert "No seeds are added: no run of learning_rate=0.0001 has finished." in capfd.readouterr().out


def test_where_all_runs_fail_they_are_named(fake, capfd):
    fake(lambda job: ("failed", 0))
    assert main([*TWO, "--seeds", "1"]) == 1
    assert "failed: learning_rate=0.0001, seed 0: it broke" in capfd.readouterr().err
    assert not Path("out/report").exists()


def test_stopped_while_seeds_are_added_says_how_many_runs_are_finished(fake, capfd):
    fake(lambda job: ("stopped", 0) if seed_of(job) > 1 else ("finished", 500))
    assert main([*TWO, "--until", "resolved", "--seeds", "2", "--max_seeds", "4"]) == 130
    assert "Stopped: 4 runs are finished. The same command goes on." in capfd.readouterr().out


def test_a_report_alone_is_of_the_folder_that_the_same_words_write_to(fake, capfd):
    fake(lambda job: ("finished", 500))
    assert main(["ablate", "--seeds", "1"]) == 0
    assert main(["ablate", "--report"]) == 0
    assert "Report: runs/ablation/default/report/index.html" in capfd.readouterr().out
    assert not Path("runs/ablation/report").exists()


def test_a_base_says_what_is_not_used_of_it(fake, capfd):
    fake(lambda job: ("finished", 500))
    assert main([*TWO, "--seeds", "1", *write({"seed": 7})]) == 0
    assert "note: seed of the base is not used: --first_seed" in capfd.readouterr().err


def test_a_launcher_that_is_missing_is_named_before_anything_is_written(workspace, capfd, monkeypatch):
    for package, launcher in {"ray": "ray", "submitit": "slurm"}.items():
        monkeypatch.setitem(sys.modules, package, None)
        message = refused(capfd, [*TWO, "--launcher", launcher])
        assert f"--launcher {launcher}: The {launcher} launcher needs {package}" in message
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "matplotlib is missing, and the report needs it" in refused(capfd, TWO)


def test_files_of_a_folder_are_written_whole(workspace, capfd, monkeypatch):
    assert main([*TWO, "--seeds", "1", "--prepare"]) == 0
    before = {path: path.read_text() for path in Path("out").rglob("*") if path.is_file()}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        # After the text: what was written of it is in the way of nothing
        patch.setattr(whole_files.os, "fsync", full)
        assert "cannot be written to: No space left on device" in refused(capfd, [*TWO, "--seeds", "1", "--prepare"])
    assert {path: path.read_text() for path in before} == before
    monkeypatch.setattr(Path, "write_text", full)  # of the configs that are checked
    assert "Set TMPDIR to another folder" in refused(capfd, [*TWO, "--seeds", "1", "--dry-run"])


def test_a_report_of_another_programs_results_has_the_bounds_of_the_regime(workspace, capfd):
    design = planned("--regime", "truncation").designs[0]
    for row in design.rows:
        for seed in range(3):
            # 5 % of rows are filtered: more than the bound of other regimes, less than the 20 % of this one
            one = made_run(
                row.changes, key=row.key, name=row.name, seed=seed, regime="truncation", matches=["samples"]
            )
            write_result(Path("found") / row.key / str(seed), one)
    (Path("found") / "torn").mkdir()
    (Path("found") / "torn" / "result.json").write_text('{"schema": 1')
    assert main(["ablate", "--report", "--output_dir", "found"]) == 0
    out, err = capfd.readouterr()
    assert "overlong filtering hardly acted" in out
    assert "left out: torn/result.json" in err
    table = Path("found/report/table.md").read_text()
    assert "hardly acted" in table
    assert "torn/result.json" in table
