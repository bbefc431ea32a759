"""`trl-dapo verify`: the user's own file and flags, exit codes, JSON, and that nothing is left behind."""

# ruff: noqa: F811
import json
import re
import tempfile
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from test_cli import ROOT, flags, model_dir, refused, settings, workspace, write  # noqa: F401
from test_cli_preferences import settings as pair_settings  # noqa: F401
from test_problems import needs_gym
from trl_dapo.cli import this_machine, verify
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.main import main
from trl_dapo.cli.script import make_parser
from trl_dapo.cli.this_machine import ThisMachine


SMALL = ["--prompts", "2", "--completions", "2"]
VERIFIER = """
def ends(completions, answer, **kwargs):
    return [float(one.endswith(right)) for one, right in zip(completions, answer, strict=True)]
"""


def run(capfd, *words: str) -> tuple[int, dict]:
    """Runs `verify --json`, and returns the exit code and the report; no new file may be there afterwards."""
    before = {path for path in Path().rglob("*") if "cache" not in str(path)}
    temporary = set(Path(tempfile.gettempdir()).glob("trl-dapo-verify-*"))
    capfd.readouterr()
    code = main(["verify", *words, "--json"])
    out = capfd.readouterr().out
    assert {path for path in Path().rglob("*") if "cache" not in str(path)} == before
    assert set(Path(tempfile.gettempdir()).glob("trl-dapo-verify-*")) == temporary
    return code, json.loads(out)


def statuses(report: dict) -> dict[str, str]:
    return {one["name"]: one["status"] for one in report["findings"]}


# --------------------------------------------------------------------------------------------------- the built-in task


@pytest.mark.parametrize("command", [*COMMANDS])
def test_the_built_in_task_has_no_fault(workspace, capfd, command):
    long = ["--max_completion_length", "80"] if command in ("dapo", "grpo", "ppo") else []
    code, report = run(capfd, command, *SMALL, *long)
    assert code == 0
    assert report["trainer"] == command
    assert not {"warn", "fail"} & set(statuses(report).values()), statuses(report)
    assert statuses(report)["first_step"] == "pass"


def test_a_penalty_of_the_whole_distance_is_exit_code_1(workspace, capfd):
    code, report = run(capfd, "--overlong_penalty_factor", "1.0", "--quick")
    assert code == 1
    assert (report["status"], statuses(report)["length_penalty"]) == ("fail", "fail")


def test_without_json_it_prints_one_line_per_check(workspace, capfd):
    assert main(["verify", "--quick"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("pass    clipping: 8 updates per rollout")
    assert lines[-1].startswith("pass: ")


def test_the_example_of_the_docs_is_true(workspace, capfd):
    text = (ROOT / "docs" / "verify.md").read_text()
    shown = re.search(r"```text\n(.*?)```", text, re.S).group(1).splitlines()
    assert main(["verify"]) == 0
    printed = capfd.readouterr().out.splitlines()

    def without_small_numbers(line):
        # Of rounding, and of the clock
        return re.sub(r"\d+(\.\d+)?e-\d+|in \d+ s", "", line)

    assert [*map(without_small_numbers, printed)] == [*map(without_small_numbers, shown)]


def test_every_check_is_in_the_docs(workspace, capfd):
    table = (ROOT / "docs" / "verify.md").read_text()
    for command in COMMANDS:
        for name in statuses(run(capfd, command, "--quick")[1]):
            assert f"| `{name}` |" in table


def test_help_says_what_it_takes(capsys):
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    assert "--quick" in capsys.readouterr().out


@pytest.mark.parametrize("command", [*COMMANDS])
def test_no_option_of_its_own_is_a_field_of_a_command(command):
    fields = {option for action in make_parser(COMMANDS[command])._actions for option in action.option_strings}
    own = {option for action in verify.make_parser()._actions for option in action.option_strings}
    assert fields & own == {"-h", "--help"}


# ----------------------------------------------------------------------------------------------------- the user's file


def test_a_file_of_trls_is_verified_as_it_is(settings, capfd):
    Path("own_rewards.py").write_text(VERIFIER)
    code, report = run(capfd, *write({**settings, "reward_funcs": ["own_rewards.ends"]}), *SMALL)
    found = statuses(report)
    # A random model that ends one completion in a hundred, and is never right
    assert found["answer_format"] == found["right_above_wrong"] == found["answers"] == found["first_step"] == "pass"
    assert (found["truncation"], found["right_answers"], code) == ("fail", "fail", 1)
    assert found["chat_template"] == "warn"  # plain prompts, and the tokenizer has a template
    assert found["clipping"] == "warn"  # steps_per_generation is 1
    assert not Path(settings["output_dir"]).exists()


def test_a_file_that_was_written_for_gpus_is_verified_without_one(settings, capfd):
    for_gpus = {
        **settings,
        "use_cpu": False,
        "bf16": True,
        "tf32": True,
        "use_vllm": True,
        "attn_implementation": "flash_attention_2",
        "deepspeed": '{"zero_optimization": {"stage": 2}}',
        "report_to": "wandb",
        "push_to_hub": True,
        "save_strategy": "steps",
        "num_processes": 4,
        "per_device_train_batch_size": 1,
    }
    _, report = run(capfd, *write(for_gpus), *SMALL)
    assert statuses(report)["sampler_agrees"] == "pass", report
    aside = {note.split("=")[0] for note in report["notes"] if "was set aside" in note}
    assert aside >= {"use_vllm", "attn_implementation", "deepspeed"}
    assert not {"report_to", "push_to_hub", "output_dir"} & aside


def test_four_bits_are_loaded_where_the_package_is_there(settings, capfd, monkeypatch):
    argv = [
        *write({**settings, "load_in_4bit": True, "use_peft": True, "lora_target_modules": ["q_proj", "v_proj"]}),
        *SMALL,
    ]
    _, report = run(capfd, *argv)
    assert statuses(report)["first_step"] == "pass"
    assert report["notes"] == ["load_in_4bit: filled in use_bnb_nested_quant=True, lora_dropout=0.0"]
    there = this_machine.importlib.util.find_spec
    monkeypatch.setattr(
        this_machine.importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else there(name)
    )
    values = {"load_in_4bit": True, "use_peft": True}
    machine = ThisMachine("folder", None, 1)
    machine(values)
    assert (values["load_in_4bit"], len(machine.notes)) == (False, 1)


def test_what_vllm_would_get_is_set_aside_with_it():
    values = {"use_vllm": True, "vllm_sync": "adapter", "vllm_base": "4bit"}
    machine = ThisMachine("folder", None, 1)
    machine(values)
    assert (values["use_vllm"], values["vllm_sync"], values["vllm_base"]) == (False, None, None)
    assert len(machine.notes) == 3


@pytest.mark.parametrize("command", ["dpo", "reward"])
def test_files_of_preferences_are_verified(pair_settings, capfd, command):
    code, report = run(capfd, command, *write({**pair_settings, "eval_strategy": "no"}))
    assert statuses(report)["first_loss"] == statuses(report)["pairs"] == "pass"
    assert code == 0


def test_flags_win_over_the_file(settings, capfd):
    _, report = run(capfd, *write(settings), "--quick", "--steps_per_generation", "2")
    assert statuses(report)["clipping"] == "pass"
    _, report = run(capfd, "grpo", *flags({**settings, "steps_per_generation": 2}), "--quick")
    assert (report["trainer"], statuses(report)["clipping"]) == ("grpo", "pass")


def test_the_folder_of_a_run_is_not_touched(settings, capfd):
    folder = Path(settings["output_dir"])
    (folder / "checkpoint-1").mkdir(parents=True)
    (folder / "checkpoint-1" / "file").write_text("kept")
    run(capfd, *write(settings), *SMALL)
    assert [path.name for path in folder.rglob("*")] == ["checkpoint-1", "file"]


# --------------------------------------------------------------------------------------------------------------- quick


def test_quick_loads_no_model_and_reads_the_local_tokenizer(settings, capfd, monkeypatch):
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    _, report = run(capfd, *write(settings), "--quick")
    found = statuses(report)
    assert (found["chat_template"], found["context"], found["end_tokens"]) == ("warn", "pass", "pass")
    assert found["first_step"] == found["right_answers"] == "skipped"


def test_quick_downloads_nothing(settings, capfd):
    elsewhere = {**settings, "model_name_or_path": "some/model", "dataset_name": "some/dataset"}
    code, report = run(capfd, *write(elsewhere), "--quick")
    assert code == 0
    assert statuses(report)["copies"] == statuses(report)["chat_template"] == "skipped"
    assert any("not on this machine" in one["message"] for one in report["findings"] if one["name"] == "copies")
    assert any("dataset_name=some/dataset was not read" in note for note in report["notes"])
    # What scorers declare is known without rows
    named = {**elsewhere, "dataset_name": "gsm8k", "reward_funcs": "boxed", "overlong_penalty_factor": 1.0}
    code, report = run(capfd, *write(named), "--quick")
    assert (code, statuses(report)["length_penalty"]) == (1, "fail")
    # The rows are here, and the tokenizer is not
    _, report = run(capfd, *write({**settings, "model_name_or_path": "some/model"}), "--quick")
    assert (statuses(report)["copies"], statuses(report)["end_tokens"]) == ("pass", "skipped")


@needs_gym
def test_quick_reads_problems_that_are_made_here(settings, capfd):
    gym = {**settings, "dataset_name": "reasoning-gym:basic_arithmetic", "reward_funcs": "reasoning_gym"}
    found = statuses(run(capfd, *write(gym), "--quick")[1])
    assert found["answer_format"] == found["answers"] == found["chat_template"] == "pass"


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["demo"], "'demo' is not a command that trains"),
        (["--prompts", "0"], "--prompts must be at least 1"),
        (["--completions", "1"], "--completions must be at least 2"),
        (["--max_new_tokens", "-3"], "--max_new_tokens must be at least 1"),
        (["--prompts", "many"], "--prompts"),
        (["--learnin_rate", "1"], "unrecognized argument --learnin_rate"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--model_name_or_path", "x"], "dataset_name is missing"),
        (["--num_generations", "3"], "num_generations=3"),
        (["ppo", "--clip_higher", "true"], "unrecognized argument --clip_higher"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(workspace, capfd, words, part):
    assert part in refused(words, capfd, run=lambda words: main(["verify", *words]))


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"reward_funcs": ["own_rewards.missing"]}, "has no function 'missing'"),
        ({"reward_funcs": ["own_rewards.needs_solution"]}, "needs the column 'solution'"),
        ({"model_name_or_path": "nowhere/at/all"}, "there is no such folder"),
        ({"dataset_name": "./nowhere"}, "there is no such folder"),
        ({"temperature": -1.0}, "temperature"),
        ({"resume_from_checkpoint": "nowhere"}, "resume_from_checkpoint=nowhere"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_too(settings, capfd, fields, part):
    argv = write({**settings, **fields})
    assert part in refused(argv, capfd, run=lambda words: main(["verify", *words]))
