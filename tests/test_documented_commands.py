"""Every command that README and docs show is one that its program takes."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser

from test_cli import ROOT, model_dir, workspace  # noqa: F401
from test_reward_adapter import reward_adapter
from trl_dapo.arena import load_reward_start
from trl_dapo.cli import demo
from trl_dapo.cli import eval as evaluation
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.main import main


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("trl-dapo", "accelerate", "python", "pytest", "make", "pip")

# What the files have that a reader is told to bring
BROUGHT = {
    "grpo.yaml": {"dataset_name": "trl-lib/DeepMath-103K", "reward_funcs": "accuracy_reward"},
    "run.yaml": {"dataset_name": "gsm8k", "reward_funcs": "math_verify", "max_steps": 800},
    "ppo.yaml": {"dataset_name": "trl-lib/DeepMath-103K"},
    "dpo.yaml": {"dataset_name": "trl-lib/ultrafeedback_binarized"},
}


def commands(text: str) -> list[list[str]]:
    """The words of each command, of code blocks and within lines."""
    lines = [
        line
        for block in re.findall(r"```bash\n(.*?)```", text, re.S)
        for line in re.sub(r"\\\n", " ", block).split("\n")
    ]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    found = [shlex.split(line, comments=True) for line in lines if line.split(" ")[0] in PROGRAMS]
    return [words for words in found if len(words) > 1]


def comments_of_examples() -> list[list[str]]:
    found = []
    for path in sorted((ROOT / "examples").rglob("*.*")):
        if path.suffix in (".yaml", ".py"):
            lines = re.findall(r"^(?:#| ).*?((?<![\w-])(?:trl-dapo|python) .*)$", path.read_text(), re.M)
            found += [shlex.split(line) for line in lines]
    return found


SHOWN = [(path.name, words) for path in PAGES for words in commands(path.read_text())]
SHOWN += [("examples", words) for words in comments_of_examples()]
OURS = {tuple(words) for _, words in SHOWN if words[0] == "trl-dapo"}
HELP = sorted(words for words in OURS if "--help" in words[2:])
TRAINING = sorted(words for words in OURS - {*HELP} if words[1] in COMMANDS)


def of(program: str) -> list[list[str]]:
    return [words for _, words in SHOWN if words[0] == program]


def test_the_walk_finds_the_commands():
    assert {words[1] for words in TRAINING} == set(COMMANDS)
    assert len(TRAINING) >= 14
    assert all(of(program) for program in PROGRAMS)


@pytest.fixture
def readers_folder(workspace):  # noqa: F811
    """The folder of a reader who has brought the files, and trained the reward models."""
    (workspace / "examples").symlink_to(ROOT / "examples")
    for name, fields in BROUGHT.items():
        values = {"model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct", "output_dir": "out", **fields}
        Path(name).write_text(yaml.safe_dump(values))
    row = {"question": "1+1?", "reward_model": {"ground_truth": "2"}}
    # Enough different ones for a rollout
    rows = [json.dumps({**row, "question": f"{place}+1?"}) for place in range(64)]
    Path("problems.jsonl").write_text("\n".join(rows))
    reward_adapter(workspace / "reward-model")
    for one in load_reward_start():
        one.save_pretrained(workspace / "arena-reward")
    return workspace


@pytest.mark.parametrize("words", TRAINING, ids=" ".join)
def test_a_training_command_is_planned_as_it_stands(readers_folder, capfd, words):
    code = main([*words[1:], "--dry-run"])
    out, err = capfd.readouterr()
    assert (code, err) == (0, "")
    for flag in [word for word in words if word.startswith("--") and word not in ("--config", "--dry-run")]:
        assert f"{flag.lstrip('-')}" in out or flag == "--accelerate_config", flag


@pytest.mark.parametrize("words", [words for words in HELP if "<command>" not in words], ids=" ".join)
def test_help_is_shown_as_it_stands(readers_folder, capfd, words):
    with pytest.raises(SystemExit) as end:
        main([*words[1:]])
    assert end.value.code == 0
    assert " --" in capfd.readouterr().out


@pytest.mark.parametrize(
    "words", sorted({tuple(w) for _, w in SHOWN if w[:2] == ["trl-dapo", "verify"]}), ids=" ".join
)
def test_a_certificate_can_be_asked_for_as_it_stands(readers_folder, capfd, words):
    code = main([*words[1:], *([] if "--quick" in words else ["--quick"])])
    out, _ = capfd.readouterr()
    assert code in (0, 1)
    assert "clipping" in out


@pytest.mark.parametrize(
    "words",
    sorted({tuple(w) for _, w in SHOWN if w[:2] == ["trl-dapo", "ablate"]} - {("trl-dapo", "ablate")}),
    ids=" ".join,
)
def test_an_ablation_is_planned_as_it_stands(readers_folder, capfd, words):
    code = main([*words[1:], *([] if "--dry-run" in words else ["--dry-run"])])
    out, _ = capfd.readouterr()
    assert code == 0
    assert "# table" in out


def test_options_of_the_demo_exist():
    for words in of("trl-dapo"):
        if words[1] == "demo":
            demo._check(demo.make_parser().parse_args(words[2:]))


def test_options_of_the_evaluation_exist():
    found = [words[2:] for words in of("trl-dapo") if words[1] == "eval"]
    assert len(found) >= 5
    for words in found:
        evaluation.parse(words)


def test_accelerate_takes_its_commands():
    for words in of("accelerate"):
        if words == ["accelerate", "launch"]:
            continue  # the program's name, in a sentence
        args = launch_command_parser().parse_args(words[2:])
        if args.config_file and args.config_file.startswith("examples"):
            assert (ROOT / args.config_file).is_file()
        if args.module:
            assert args.training_script.removeprefix("trl_dapo.cli.") in {*COMMANDS, "eval"}


def test_scripts_exist_and_read_their_options():
    for words in of("python") + of("pytest"):
        module = words[words.index("-m") + 1] if words[:2] == ["python", "-m"] else None
        files = [word for word in words if word.endswith(".py")]
        if module is not None and module != "pytest":
            files.append(f"{module.replace('.', '/')}.py")
        assert files or module == "pytest", words
        texts = [(ROOT / file).read_text() for file in files]
        for option in (word for word in words if word.startswith("--")):
            assert any(f'"{option}"' in text for text in texts), (words, option)


def test_targets_and_extras_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for words in of("make"):
        assert {word for word in words[1:] if "=" not in word} <= targets
    extras = set(re.findall(r"^([a-z]+) = \[", (ROOT / "pyproject.toml").read_text(), re.M))
    for words in of("pip"):
        for found in re.findall(r"\[([a-z,]+)\]", " ".join(words)):
            assert set(found.split(",")) <= extras
