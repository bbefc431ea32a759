"""`trl-dapo ablate`: what is planned and refused before a run starts. Runs themselves are in `test_ablation_runs`."""

# ruff: noqa: F811
import json
import shlex
from pathlib import Path

import pytest
import yaml

from test_cli import ROOT, model_dir, settings, workspace, write  # noqa: F401
from test_cli import refused as refused_by
from trl_dapo.ablation.manifest import read_manifest
from trl_dapo.ablation.run_spec import read_spec
from trl_dapo.cli.ablate import PRESETS, parse, preset_file
from trl_dapo.cli.ablate_plan import plan_ablation
from trl_dapo.cli.main import main
from trl_dapo.dapo.toggles import TOGGLES


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
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--margin", "2"], "--margin must be between 0 and 1, got 2"),
        (["--design", "tower"], "--design: invalid choice: 'tower'"),
        (["--match", "samples", "--steps", "4"], "--steps has no effect without --match steps"),
        (["--design", "ladder", "--vary", "beta=0,0.1"], "--vary and --design both say which rows there are"),
        (["--vary", "bta=1,2"], "--vary bta: there is no such field. Did you mean beta?"),
        (["--vary", "beta"], "--vary beta: FIELD=A,B is needed"),
        (["--vary", "beta=0,0"], "a value is there twice"),
        (["--vary", "seed=1,2"], "--vary seed: it is set by --seeds"),
        (["--regime", "mars"], "--regime mars is unknown. The regimes are default"),
        (["--preset", "arena", "--config", "x.yaml"], "are both a base"),
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
