"""
The run that is rewound, and how it was started: read and checked, nothing written.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trl_dapo.monitor.diagnosis import diagnose
from trl_dapo.monitor.settings import read_settings
from trl_dapo.rewind.origin import Origin, processes_of, read_origin

from .command_file import Started, given_values, read_starts, start_at, started
from .commands import COMMANDS, command_of
from .config_file import read_config_file, split_config_flag, without_config
from .errors import UsageError
from .launch import plan
from .rewind_options import Options
from .script import make_parser


@dataclass(frozen=True)
class Source:
    """
    A run, its starts, and what a checkpoint of it can be continued with.

    Args:
        origin ([`Origin`]):
            The run.
        starts (`list[Started]`):
            How it was started, and started again.
        online (`bool`):
            Whether its trainer generates.
    """

    origin: Origin
    starts: list[Started]
    online: bool

    @property
    def command(self) -> str:
        """The training command."""
        return self.starts[-1].command

    def begin(self, step: int) -> tuple[Started, int | None, int, Path]:
        """
        Returns how the run went on from the newest whole checkpoint at or before a step, the step at which it was
        started with other words, that of the checkpoint, and its folder.

        Raises:
            `ValueError`: If there is no such checkpoint.
            [`UsageError`]: If it cannot be gone on from exactly.
        """
        base, checkpoint = self.origin.at_or_before(step)
        start, other = start_at(self.starts, base)
        processes = processes_of(checkpoint, self.online)
        if not processes:
            raise UsageError(f"{checkpoint} was saved with save_only_model=True: it holds no optimizer to go on with.")
        if processes != start.processes:
            raise UsageError(
                f"{checkpoint} was saved by {processes} processes, and the run's command starts {start.processes}: it "
                "would not go on with the same random numbers. Rewind to a checkpoint of that many."
            )
        return start, other, base, checkpoint


def read_source(options: Options) -> Source:
    """
    Returns the run.

    Raises:
        [`UsageError`]: If it is running, or there is nothing that says how it was started.
        `ValueError`: If its folder or its log cannot be read.
    """
    if not options.run.is_dir():
        raise UsageError(f"{options.run} is no folder. Name the output_dir of a run.")
    if options.command:
        starts = [_from_words(options.command)]
    else:
        starts, process = read_starts(options.run)
        if process.is_running:
            raise UsageError(
                f"{options.run} is still running (process {process.pid}). Wait until it has ended, or stop it."
            )
    unknown = next((one.command for one in starts if one.command not in COMMANDS), None)
    if unknown is not None:
        raise UsageError(f"{options.run} was started by {unknown!r}, which cannot be rewound.")
    if not Path(starts[-1].folder).is_dir():
        raise UsageError(f"{options.run} was started in {starts[-1].folder}, which is not there any more.")
    online = COMMANDS[starts[-1].command].load("trainer").has_state_file
    return Source(read_origin(options.run, online), starts, online)


def judge(run: Path) -> Callable[[list[Any]], Any]:
    """Returns the diagnosis of a log, with what the run was set to."""
    return partial(diagnose, settings=read_settings(run))


def _from_words(words: list[str]) -> Started:
    name, words = command_of(split_config_flag(words))
    command = COMMANDS[name]
    env = read_config_file(words).get("env", {})
    planned = plan(command, words, f"trl-dapo {name}")
    parser = make_parser(command)
    parser.unknown_words(words)
    values = given_values(parser, without_config(words))
    return started(name, values, env, planned.from_command_line, planned.processes)


def last_step(state: Path) -> int:
    """Returns the number of steps that a run was to have, from the `trainer_state.json` of a checkpoint."""
    return int(json.loads(state.read_text(encoding="utf-8"))["max_steps"])
