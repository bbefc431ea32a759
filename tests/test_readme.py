"""What the README shows runs: its Python blocks, its commands' options, its links."""

import re
from pathlib import Path

import pytest

from tiny import parity_reward, plain_dataset, tiny_model, tiny_tokenizer
from trl_dapo import DAPOConfig, DAPOTrainer
from trl_dapo.cli.demo import make_parser


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def test_first_example_is_a_training_script(tmp_path, monkeypatch):
    # The hub is not at hand: the same script, with the model and the data in its variables replaced
    script = blocks(README, "python")[0]
    compile(script, "README.md", "exec")
    assert "DAPOTrainer(" in script
    assert "GRPOTrainer" not in re.sub(r"#.*", "", script)
    config = DAPOConfig(
        str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, max_completion_length=8, max_steps=1,
        num_generations=4, report_to="none", dataloader_pin_memory=False, save_strategy="no",
    )  # fmt: skip
    tokenizer = tiny_tokenizer()
    trainer = DAPOTrainer(
        model=tiny_model(tokenizer),
        reward_funcs=parity_reward,
        args=config,
        train_dataset=plain_dataset(32),
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCS], ids=lambda path: path.name)
def test_every_python_block_is_python(path):
    for block in blocks(path.read_text(), "python"):
        # Lines of a console are doctest's, not a script's
        code = "\n".join(line[4:] for line in block.splitlines() if line[:3] in (">>>", "..."))
        compile(code if block.startswith(">>>") else block, path.name, "exec")


def test_commands_of_make_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"demo", "test"} <= named <= targets


def test_options_of_the_demo_exist():
    parser = make_parser()
    known = {option for action in parser._actions for option in action.option_strings}
    for text in (README, *(path.read_text() for path in DOCS)):
        for command in re.findall(r"trl-dapo demo([^\n`#]*)", text):
            assert set(re.findall(r"--[a-z_]+", command)) <= known


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCS], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_toggles_and_metrics_are_in_the_docs(tmp_path):
    from trl_dapo.dapo.config import TOGGLES

    configuration = (ROOT / "docs" / "configuration.md").read_text()
    assert all(f"`{toggle}`" in configuration and f"`{toggle}`" in README for toggle in TOGGLES)
    metrics = (ROOT / "docs" / "metrics.md").read_text()
    source = "".join(path.read_text() for path in (ROOT / "trl_dapo").rglob("*.py"))
    keys = set(re.findall(r'"(dapo/[a-z_]+)"', source))
    assert len(keys) >= 15
    assert all(f"`{key}`" in metrics for key in keys)
