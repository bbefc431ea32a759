"""Trains and rewinds runs of the built-in task in this process: the same code as the commands', without a launcher."""

from pathlib import Path
from typing import Any

import pytest

from trl_dapo.cli import rewind_branch, rewind_run
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.main import main
from trl_dapo.cli.script import run_script


STEPS = 8
# Two updates per rollout, a checkpoint after each third update, so that one of them lies inside a rollout
WORDS = {
    "max_steps": str(STEPS),
    "save_strategy": "steps",
    "save_steps": "3",
    "logging_steps": "1",
    "updates_per_rollout": "2",
    "per_device_train_batch_size": "16",
    "max_completion_length": "12",
    "dynamic_sampling": "false",
    "report_to": "none",
    "disable_tqdm": "true",
}


def train(folder: Path, command: str = "dapo", **fields: str) -> Path:
    """Trains a run into a folder."""
    words = [word for name, value in {**WORDS, **fields}.items() for word in (f"--{name}", value)]
    assert run_script(COMMANDS[command], ["--output_dir", str(folder), *words]) == 0
    return folder


def here(monkeypatch: pytest.MonkeyPatch, count: list[str] | None = None) -> None:
    """Makes branches run in this process."""

    def run(start: Any, folder: Path) -> int:
        if count is not None:
            count.append(folder.name)
        return rewind_branch.main(["--config", str(folder / "run.yaml")])

    monkeypatch.setattr(rewind_run, "run_branch", run)


def rewind(run: Path, *words: str) -> int:
    """Runs `trl-dapo rewind`."""
    return main(["rewind", str(run), *words])
