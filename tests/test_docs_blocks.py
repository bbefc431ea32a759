"""Every code block of README and docs is executed here, or is marked with the reason why it cannot be."""

import doctest
import gc
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from doc_blocks import PAGES, Block, blocks, blocks_of, commands, names_needed, statements
from reader import SMALL, SMALL_ROLLOUT, copy_folder, flags, given, make_folder, small_configs
from test_arena_docstrings import FencedParser
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.main import main
from trl_dapo.cli.script import run_script


ALL = [block for page in PAGES for block in blocks(page)]
# What is neither code nor commands, and is not run
SHOWN = ("text", "json", "bibtex", "mermaid", "toml", "markdown", "diff")
RUN = ("python", "yaml", "bash")


def live(language: str) -> list[Block]:
    return [block for block in ALL if block.language == language and block.why is None]


def by_page(found: list[Block]) -> dict[str, list[Block]]:
    return {page: [block for block in found if block.page == page] for page in dict.fromkeys(b.page for b in found)}


PYTHON = by_page(live("python"))
# Commands of these train or generate: seconds each
SLOW = (*COMMANDS, "ablate", "demo", "eval", "merge", "plan", "rewind", "verify")


def is_slow(block: Block) -> bool:
    return any(
        words[0] == "python" or (words[1] in SLOW and not {"--dry-run", "--quick", "--help"} & set(words))
        for words in commands(block.text)
        if len(words) > 1
    )


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_folder(folder)
    return folder


@pytest.fixture
def folder(template, tmp_path, monkeypatch) -> Path:
    """A reader's folder, to work in."""
    copy_folder(template, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    yield tmp_path
    AcceleratorState._reset_state(reset_partial_state=True)
    gc.collect()


def test_every_block_has_a_language():
    assert [str(block) for block in ALL if block.language not in (*SHOWN, *RUN)] == []


def test_every_mark_has_a_reason_and_stands_on_a_block_that_would_be_run():
    marked = [block for block in ALL if block.why is not None]
    assert all(len(block.why.split()) >= 3 and block.language in RUN for block in marked)
    # A mark that no fence follows marks nothing
    assert len(marked) == sum(len(re.findall(r"^ *<!-- not run:", page.read_text(), re.M)) for page in PAGES)


def test_the_walk_finds_blocks_of_each_kind():
    assert all(len(live(language)) >= 2 for language in RUN)
    assert len(PYTHON) >= 12


@pytest.mark.parametrize("page", PYTHON)
def test_python_blocks_of_a_page_run_one_after_the_other(folder, monkeypatch, page):
    small_configs(monkeypatch)
    if any("reasoning_gym" in block.text for block in PYTHON[page]):
        pytest.importorskip("reasoning_gym")
    names = {"__name__": page}
    for block in PYTHON[page]:
        if block.text.startswith(">>>"):
            examples = FencedParser().get_doctest(block.text, names, page, page, block.line)
            assert doctest.DocTestRunner().run(examples).failed == 0
        else:
            # Made when they are needed: a config that is made after a trainer takes its device state away
            names |= given([name for name in names_needed(block.text) if name not in names])
            execute(block, names)


def execute(block: Block, names: dict) -> None:
    """Runs a block, and holds it to the errors and values that the comments behind its statements promise."""
    for statement in statements(block.text):
        # Errors then show the page's line
        code = "\n" * (block.line + statement.line - 1) + statement.code
        if statement.error:
            with pytest.raises(__builtins__[statement.error]):
                exec(compile(code, block.page, "exec"), names)
        elif statement.value:
            assert eval(compile(code.strip(), block.page, "eval"), names) == eval(statement.value), str(block)
        else:
            exec(compile(code, block.page, "exec"), names)


@pytest.mark.parametrize("block", live("yaml"), ids=str)
def test_yaml_is_read_by_a_command(folder, capfd, block):
    values = yaml.safe_load(block.text)
    rest = {"model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct", "dataset_name": "gsm8k", "reward_funcs": "math_verify"}
    Path("page.yaml").write_text(yaml.safe_dump({**rest, "output_dir": "out", **values}))
    command = values.pop("command", "dapo")
    assert main([command, "--config", "page.yaml", "--dry-run"]) == 0
    out, _ = capfd.readouterr()
    assert all(name in out for name in values)


BASH = by_page(live("bash"))
BASH_PAGES = [
    pytest.param(page, marks=[pytest.mark.slow] if any(map(is_slow, found)) else []) for page, found in BASH.items()
]


@pytest.mark.parametrize("page", BASH_PAGES)
def test_commands_of_a_page_run_one_after_the_other(folder, monkeypatch, page):
    monkeypatch.setenv("COLUMNS", "200")
    if any("reasoning-gym" in block.text for block in BASH[page]):
        pytest.importorskip("reasoning_gym")
    for block in BASH[page]:
        for words in commands(block.text):
            code = run(words, folder)
            # `verify` and `diagnose` say with 1 that they have found something
            assert code == 0 or (code == 1 and words[1] in ("verify", "diagnose")), f"{block}: {shlex.join(words)}"


def run(words: list[str], folder: Path) -> int:
    """Runs a command as it stands, with words behind it that make a training one of seconds; returns its exit code."""
    if words[0] == "trl-dapo":
        return run_own(words[1:])
    if words[0] == "python":
        command = [sys.executable, *words[1:], *FEWER.get(words[1], ())]
        return subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL).returncode
    if words[0] == "cp":
        return subprocess.run(words, cwd=folder).returncode
    raise AssertionError(f"{words[0]!r} is no program that this test runs: mark the block.")


def run_own(words: list[str]) -> int:
    name, rest = words[0], words[1:]
    if name in COMMANDS and not {"--dry-run", "--help"} & set(rest):
        with torch.random.fork_rng():
            return run_script(COMMANDS[name], [*rest, *small_words(name, rest)])
    try:
        return main([*words, *FEWER.get(name, ())])
    except SystemExit as ended:  # as argparse does after `--help`
        return int(ended.code or 0)


# Options that win over those in front of them
FEWER = {
    "eval": ["--k", "1", "--max_new_tokens", "8", "--size", "4", "--device", "cpu"],
    "verify": ["--prompts", "2", "--completions", "4", "--max_new_tokens", "8"],
    "demo": ["--completions", "128", "--seeds", "1"],
    "examples/preferences_to_ppo.py": [
        *("--seeds", "1", "--prompts", "64", "--reward_steps", "2", "--rollouts", "1"),
    ],
}


def small_words(name: str, words: list[str]) -> list[str]:
    """Returns words that make a training of a command one of a single small step."""
    fields = SMALL | (SMALL_ROLLOUT if name in ("dapo", "grpo", "ppo") else {})
    if "--held_out" in words:
        fields |= {"held_out_size": 4, "held_out_k": 1}
    return flags(fields)


def test_a_mark_belongs_to_the_block_below_it():
    text = "<!-- not run: needs two GPUs -->\n```bash\na\n```\n\n```bash\nb\n```\n\n  ```python\n  c\n  ```\n"
    found = blocks_of(text, "x.md")
    assert [(block.language, block.text, block.why, block.line) for block in found] == [
        ("bash", "a\n", "needs two GPUs", 2),
        ("bash", "b\n", None, 6),
        ("python", "c\n", None, 10),
    ]


def test_comments_behind_statements_are_promises():
    found = list(statements("f(1)  # ValueError: no\nf(2)  # [1.0]\nx = 3  # 4\nf(  # fine\n    1,\n)\n"))
    assert [(one.error, one.value) for one in found] == [
        ("ValueError", None),
        (None, "[1.0]"),
        (None, None),
        (None, None),
    ]


def test_a_promise_that_is_not_kept_fails():
    names = {}
    for text in ("1 + 1  # 3\n", "1 + 1  # ValueError\n"):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            execute(Block("x.md", 1, "python", text, None), names)
    execute(Block("x.md", 1, "python", "1 + 1  # 2\nint('x')  # ValueError: no number\n", None), names)


def test_names_that_a_block_does_not_make_are_found():
    text = "from a import b\ndef f(x):\n    return x + y\nz = [q for q in w]\nb(z, f, t)\nclass K(T): pass\n"
    assert names_needed(text) == ["y", "w", "t", "T"]


def test_a_program_that_is_not_run_here_needs_a_mark(tmp_path):
    with pytest.raises(AssertionError, match="mark the block"):
        run(["vllm", "serve"], tmp_path)
