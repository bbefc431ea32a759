"""
When a training process writes `command.json`: once its trainer is made, before it trains, in the main process.
"""

import json
import os
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from trl_dapo.host.checkpoints import choose
from trl_dapo.host.resume import steps_behind

from .command_file import LAUNCH_WORDS, Given, Process, started, write_start


def note_start(command: str, trainer: Any, script_args: Any, resume_from: str | bool | None) -> None:
    """Writes what a run is started with, where its arguments were parsed from words."""
    given: Given | None = getattr(script_args, "given", None)
    if given is None or not trainer.accelerator.is_main_process:
        return
    folder = Path(str(trainer.args.output_dir)).expanduser()
    launch = json.loads(os.environ.get(LAUNCH_WORDS, "[]"))
    # The folder too where the command filled it in: it hangs on the current one
    values = {**given.values, "output_dir": str(trainer.args.output_dir)}
    step = _step(resume_from, folder, getattr(trainer, "has_state_file", False))
    start = started(command, values, given.env, launch, trainer.accelerator.num_processes, step)
    write_start(folder, start, Process.this())


def _step(resume_from: str | bool | None, folder: Path, online: bool) -> int:
    """Returns the step that a run goes on from; where nothing can be resumed, training itself says so."""
    newest = get_last_checkpoint(str(folder)) if resume_from is True and folder.is_dir() else resume_from
    if not newest or newest is True:
        return 0
    try:
        return steps_behind(choose(str(newest), online)[0])
    except (ValueError, OSError):
        return 0
