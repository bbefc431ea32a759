"""
`command.json`: what a training run was started with, so that it can be started again at one of its checkpoints.

It holds what the user set, in the file or on the command line, and where; versions; how many processes and threads.
Tokens, passwords and keys are left out.
"""

import json
import os
import re
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from trl_dapo import __version__
from trl_dapo.host.whole_files import write_whole

from .errors import UsageError, one_line


if TYPE_CHECKING:
    from .arguments import CommandParser

FILE = "command.json"
VERSION = 1
# How `trl-dapo` tells its processes which words are `accelerate launch`'s
LAUNCH_WORDS = "TRL_DAPO_LAUNCH_WORDS"
# Where a path may stand, which hangs on the folder that the command was started in
PATHS = (
    "output_dir", "model_name_or_path", "dataset_name", "reward_model_name_or_path", "reward_adapter", "deepspeed",
    "fsdp_config", "chat_template_path", "accelerate_config", "config_file",
)  # fmt: skip
# Not the run's own
_NOT_KEPT = ("config", "dry_run", "resume_from_checkpoint")
_SECRET_NAME = re.compile(
    r"token|.*(hub|access|auth|api|bot|push_to_hub|session)_?token|.*(api|access|private|secret)_?key|.*secret.*"
    r"|.*passw(or)?d.*|.*credential.*|.*_key",
    re.IGNORECASE,
)
# Variables of the environment have no fields among them that are called like a token of a text
_SECRET_VARIABLE = re.compile(r".*(token|key|secret|passw|credential|auth).*", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|://[^/\s:@]+:[^/\s@]+@")


@dataclass(frozen=True)
class Started:
    """
    One start of a run.

    Args:
        command (`str`):
            Name of the training command.
        values (`dict[str, Any]`):
            Fields that the user set, those of the config file among them; paths that exist are absolute.
        launch (`list[str]`):
            Words for `accelerate launch`.
        env (`dict[str, str]`):
            The config file's `env` section.
        folder (`str`):
            Where it was started.
        processes, threads (`int`):
            How many of both; threads are those of torch, in each process.
        from_step (`int`):
            Step that it went on from.
        versions (`dict[str, str]`):
            Of the packages that decide what is computed.
        left_out (`list[str]`):
            Names that were set to something secret.
    """

    command: str
    values: dict[str, Any]
    launch: list[str]
    env: dict[str, str]
    folder: str
    processes: int
    threads: int
    from_step: int
    versions: dict[str, str]
    left_out: list[str]


@dataclass(frozen=True)
class Process:
    """The process that trains, by which one can tell whether it still does."""

    pid: int
    started: float
    host: str

    @classmethod
    def this(cls) -> "Process":
        return cls(os.getpid(), psutil.Process().create_time(), socket.gethostname())

    @property
    def is_running(self) -> bool:
        """Whether it is running and another one than this, as far as this machine can tell."""
        # The process that asks does not train meanwhile
        if self.host != socket.gethostname() or self.pid == os.getpid():
            return False
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.started and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def given_values(parser: "CommandParser", words: list[str]) -> dict[str, Any]:
    """Returns what the user set, by field: the file that the parser has read, and the words over it."""
    return {**parser.file_values, **parser.written_values(words)[0]}


@dataclass(frozen=True)
class Given:
    """What the user set, until the trainer is made and it can be written."""

    values: dict[str, Any]
    env: dict[str, Any]


def started(
    command: str, values: dict[str, Any], env: dict[str, Any], launch: list[str], processes: int, from_step: int = 0
) -> Started:
    """Returns what is written of a start, without what is secret."""
    import torch

    left_out: list[str] = []
    kept = {name: value for name, value in values.items() if name not in _NOT_KEPT}
    return Started(
        command,
        json.loads(json.dumps(_absolute(_public(kept, left_out)), default=str)),
        _public_words(launch, left_out),
        {name: str(value) for name, value in _public(env, left_out, _SECRET_VARIABLE).items()},
        str(Path.cwd()),
        processes,
        torch.get_num_threads(),
        from_step,
        {"trl_dapo": __version__} | {name: version(name) for name in ("trl", "transformers", "torch")},
        left_out,
    )


def write_start(folder: Path, start: Started, process: Process) -> None:
    """
    Writes a start into the run's folder: beside earlier ones where it goes on from a checkpoint, else in their place.

    Raises:
        [`UsageError`]: If it cannot be written.
    """
    starts: list[Started] = []
    if start.from_step:
        # A file that cannot be read is of no use to anybody
        with suppress(UsageError):
            starts = read_starts(folder)[0]
    if not (starts and _same(starts[-1], start)):
        starts.append(start)
    values = {"version": VERSION, "process": asdict(process), "starts": [asdict(one) for one in starts]}
    try:
        write_whole(folder / FILE, json.dumps(values, indent=1))
    except OSError as error:
        raise UsageError(f"output_dir={folder}: {FILE} cannot be written: {error.strerror}. Name another.") from error


def read_starts(folder: Path) -> tuple[list[Started], Process]:
    """
    Returns the starts of a run, oldest first, and the process of the newest.

    Raises:
        [`UsageError`]: If there is no such file, or it cannot be read.
    """
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["version"] != VERSION:
            raise ValueError(f"version {values['version']}, and this trl_dapo reads {VERSION}")
        return [Started(**one) for one in values["starts"]], Process(**values["process"])
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder} has no {FILE}: the run was started from Python, or by a trl_dapo that wrote none. Give its "
            "command after --, as in `trl-dapo rewind RUN --to 100 --set epsilon_high=0.2 -- dapo --config run.yaml`."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {one_line(error)}. Give the run's command after --.") from error


def start_at(starts: list[Started], step: int) -> tuple[Started, int | None]:
    """Returns the start that trained the steps after one, and the step at which the next one took over, or `None`."""
    number = max((i for i, one in enumerate(starts) if one.from_step <= step), default=0)
    after = [one.from_step for one in starts[number + 1 :]]
    return starts[number], after[0] if after else None


def _same(one: Started, other: Started) -> bool:
    return {**asdict(one), "from_step": 0} == {**asdict(other), "from_step": 0}


def _public(values: dict[str, Any], left_out: list[str], secret: re.Pattern[str] = _SECRET_NAME) -> dict[str, Any]:
    kept = {}
    for name, value in values.items():
        found = _plain(value)
        if isinstance(found, dict):
            kept[name] = _public(found, left_out) if isinstance(value, dict) else json.dumps(_public(found, left_out))
        elif found not in (None, "") and (_is_secret_name(name, found, secret) or _SECRET_TEXT.search(str(found))):
            left_out.append(name)
        else:
            kept[name] = value
    return kept


def _is_secret_name(name: str, value: Any, secret: re.Pattern[str]) -> bool:
    return not isinstance(value, (bool, int, float)) and secret.fullmatch(str(name)) is not None


def _plain(value: Any) -> Any:
    """Returns the mapping that a text of JSON is, any other value as it is."""
    if isinstance(value, str) and value.startswith("{"):
        with suppress(ValueError):
            return json.loads(value)
    return value


def _public_words(words: list[str], left_out: list[str]) -> list[str]:
    secret = [word for word in words if _SECRET_TEXT.search(word)]
    left_out += ["a word of accelerate launch"] * len(secret)
    return [word for word in words if word not in secret]


def _absolute(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _path(name, value) if name in PATHS else value for name, value in values.items()}


def _path(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_path(name, one) for one in value]
    if not isinstance(value, str) or not value:
        return value
    # A bare word can be a name as well, of a data set, say
    could_be = os.sep in value or value.startswith(".") or bool(Path(value).suffix)
    is_path = name == "output_dir" or (could_be and Path(value).expanduser().exists())
    return str(Path(value).expanduser().absolute()) if is_path else value
