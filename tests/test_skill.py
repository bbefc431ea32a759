"""The skill for coding assistants: its shape is TRL's, and every command and snippet in it runs."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

import trl_dapo
from rewinding import here
from tiny import conversational_dataset, save_tiny_model, tiny_tokenizer
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.main import SUMMARIES, main
from trl_dapo.cli.script import run_script


FOLDER = Path(trl_dapo.__file__).parent / "skills" / "dapo-training"
SKILL = (FOLDER / "SKILL.md").read_text(encoding="utf-8")
SMALL = {
    "max_steps": 4,
    "save_steps": 2,
    "logging_steps": 1,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "gradient_accumulation_steps": 1,
    "max_completion_length": 8,
    "max_refill_rounds": 1,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}
PAIRS = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--use_cpu", "--bf16", "false"]


def blocks(text: str, language: str) -> list[str]:
    """Code blocks, those of list items included."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.S | re.M)
    return [re.sub(rf"^{indent}", "", block, flags=re.M) for indent, block in found]


COMMANDS_SHOWN = [shlex.split(line) for block in blocks(SKILL, "bash") for line in block.splitlines()]
PATH = [words for words in COMMANDS_SHOWN if "run.yaml" in words or "my-run" in words or "served" in words]
OTHERS = [words for words in COMMANDS_SHOWN if words not in PATH]


def test_the_front_matter_has_what_assistants_read():
    front = yaml.safe_load(SKILL.split("---\n")[1])
    # The rules of agentskills.io: the folder's name, lower case, and a description of at most 1024 characters
    assert front["name"] == FOLDER.name
    assert re.fullmatch(r"[a-z0-9-]{1,64}", front["name"])
    assert 0 < len(front["description"]) <= 1024
    assert len(SKILL.splitlines()) <= 500
    named = {command.removeprefix("trl-dapo ") for command in front["metadata"]["commands"]}
    assert named <= set(SUMMARIES)
    assert named <= {words[1] for words in COMMANDS_SHOWN}


def test_links_lead_to_files_that_are_shipped_with_it():
    for target in re.findall(r"\]\(([^)]+)\)", SKILL):
        assert (FOLDER / target).is_file(), target


def test_the_path_is_in_the_order_of_its_steps():
    order = ["verify", "plan", "dapo", "dapo", "dapo", "diagnose", "rewind", "eval", "merge", "ablate", "grpo", "ppo"]
    assert [words[1] for words in PATH] == order


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which the names of the Hub are folders, and `run.yaml` is the skill's, made small."""
    folder = tmp_path_factory.mktemp("skill")
    save_tiny_model(folder / "Qwen" / "Qwen2.5-0.5B-Instruct", tiny_tokenizer())
    problems = conversational_dataset(64).rename_column("answer", "solution")
    for split in ("train", "test"):
        problems.to_json(folder / "gsm8k" / f"{split}.jsonl")
    pairs = problems.map(
        lambda row: {
            "chosen": [{"role": "assistant", "content": row["solution"]}],
            "rejected": [{"role": "assistant", "content": "no"}],
        },
        remove_columns="solution",
    )
    pairs.to_json(folder / "trl-lib" / "ultrafeedback_binarized" / "train.jsonl")
    (text,) = blocks(SKILL, "yaml")
    (folder / "run.yaml").write_text(yaml.safe_dump({**yaml.safe_load(text), **SMALL}))
    return folder


@pytest.fixture
def there(work, monkeypatch):
    monkeypatch.chdir(work)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", work / "cache")
    here(monkeypatch)
    return work


def run(words: list[str], *further: str) -> int:
    """Runs a command; training runs in this process, where the command would start one with accelerate."""
    program, command, *rest = words
    assert program == "trl-dapo"
    if command in COMMANDS and not {"--dry-run", "--version"} & set(words):
        return run_script(COMMANDS[command], [*rest, *further])
    return main([command, *rest, *further])


def test_the_run_is_read_as_it_is():
    (text,) = blocks(SKILL, "yaml")
    assert text.startswith("# run.yaml\n")
    values = yaml.safe_load(text)
    rows = (
        values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] * values["updates_per_rollout"]
    )
    assert rows % values["num_generations"] == 0
    # The checkpoint that the rewind names is there, and its futures end with the run
    (words,) = [words for words in PATH if words[1] == "rewind"]
    step, steps = (int(words[words.index(option) + 1]) for option in ("--to", "--steps"))
    assert step % values["save_steps"] == 0
    assert step + steps == values["max_steps"]


def test_the_installation_is_checked(there, capsys):
    version, first = OTHERS[:2]
    assert run(version) == 0
    assert trl_dapo.__version__ in capsys.readouterr().out
    assert run(first, "--max_steps", "2", "--updates_per_rollout", "2") == 0
    assert (there / "first-run" / "model.safetensors").is_file()


def test_the_path_of_a_run(there, capfd):
    pytest.importorskip("bitsandbytes")
    verify, plan, dry, train, resume, diagnose, rewind, evaluate, merge, ablate, *_ = PATH
    # A random model solves nothing, which is what `verify` says; a mistake in the input would be 2
    assert run(verify, "--prompts", "1", "--max_new_tokens", "8") in (0, 1)
    assert "answer_format" in capfd.readouterr().out
    assert run(plan) == 0
    assert "fits" in capfd.readouterr().out
    assert run(dry) == 0
    assert not (there / "my-run").exists()
    assert run(train) == 0
    assert run(resume) == 0
    assert (there / "my-run" / "adapter_model.safetensors").is_file()
    # Nothing of gsm8k is right by chance, so that something is found
    assert run(diagnose) in (0, 1)
    small = [word if word != "250" else "2" for word in rewind]
    assert run(small, "--steps", "2") == 0
    assert "bit for bit" in capfd.readouterr().out
    assert run(evaluate, "--size", "2", "--k", "2", "--max_new_tokens", "8", "--batch_size", "4") == 0
    assert "avg@2" in capfd.readouterr().out
    assert run(merge) == 0
    assert (there / "served" / "config.json").is_file()
    assert run(ablate) == 0
    assert "trl-dapo" in capfd.readouterr().out


def test_the_other_trainers(there):
    pytest.importorskip("bitsandbytes")
    grpo, ppo = PATH[-2:]
    dpo, reference_free, reward = OTHERS[2:]
    assert run(grpo, "--max_steps", "1") == 0
    for words in (dpo, reference_free, reward):
        assert run(words, *PAIRS) == 0
        assert (there / words[-1] / "adapter_model.safetensors").is_file()
    assert run(ppo, "--max_steps", "1", "--num_generations", "1") == 0
    assert (there / "ppo-run" / "adapter_model.safetensors").is_file()


def test_snippets_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks((FOLDER / "references" / "python.md").read_text(encoding="utf-8"), "python"):
        exec(compile(block, "python.md", "exec"), names)
    assert names["trainer"].state.global_step == 4
    assert len(names["ladder"]) == 6
    assert set(names["adapter_and_weights"]) == {"quantization_config", "peft_config"}


def test_toggles_and_rules_that_are_named_exist():
    from trl_dapo.dapo.toggles import TOGGLES
    from trl_dapo.monitor.diagnosis import NAMES

    python = (FOLDER / "references" / "python.md").read_text(encoding="utf-8")
    assert all(f"`{toggle}`" in python for toggle in TOGGLES)
    (rules,) = re.findall(r"--stop_on ([a-z_ ]+)`", SKILL)
    assert set(rules.split()) <= set(NAMES)
    metrics = (Path(trl_dapo.__file__).parents[1] / "docs" / "metrics.md").read_text()
    assert all(f"`{key}`" in metrics for key in re.findall(r"`(dapo/[a-z_]+)`", SKILL))
