"""
The file of a run, `result.json`, schema 1: what a report is made of.

Whoever writes such a file, this package or another program, takes part in a report. Each run has one; it is written
last and at once, so a run without it is not finished. `docs/ablation.md` describes the fields.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..host.whole_files import write_whole
from . import reading, result_files


SCHEMA, KIND = 1, "trl_dapo.ablation.run"
RESULT = "result.json"


class ResultError(ValueError):
    """A file is no result of a run, and the message says why."""


@dataclass(frozen=True)
class Question:
    """How many samples of a question are right."""

    id: str
    samples: int
    right: int


@dataclass(frozen=True)
class DataSet:
    """
    Answers to the questions of a data set.

    Args:
        scorer (`str`):
            Who judged them.
        questions (`tuple[Question, ...]`):
            The questions, in order.
        truncated (`float`, *optional*):
            Share of completions that ran out of tokens.
        mean_length (`float`, *optional*):
            Tokens per completion.
    """

    scorer: str
    questions: tuple[Question, ...]
    truncated: float | None = None
    mean_length: float | None = None

    @property
    def accuracy(self) -> float:
        """Mean over questions of the share of right samples, avg@k."""
        return math.fsum(one.right / one.samples for one in self.questions) / len(self.questions)


@dataclass(frozen=True)
class End:
    """
    The policy when a budget was spent.

    Args:
        budget (`float`):
            The budget: completions, optimizer steps or seconds.
        steps (`int`):
            Optimizer steps until then.
        completions (`int`):
            Completions generated for training until then, by all processes, those of dropped groups included.
        seconds (`float`):
            Seconds of training until then, without evaluations and checkpoints.
        data_sets (`dict[str, DataSet]`):
            What it was evaluated on, by name; the first is what tables are about.
    """

    budget: float
    steps: int
    completions: int
    seconds: float
    data_sets: Mapping[str, DataSet]


@dataclass(frozen=True)
class RowOfRun:
    """
    The row that a run belongs to.

    Args:
        key (`str`):
            The same for all runs of the row, in whatever table.
        name (`str`):
            What it is called where no design says otherwise.
        changes (`dict[str, Any]`):
            Fields in which its config differs from the base.
        position (`int`):
            Where it stands among others where no design says otherwise, from 0.
    """

    key: str
    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    position: int = 0


@dataclass(frozen=True)
class SampleCompletion:
    """A completion of the last policy. The text is untrusted: escape it before showing it."""

    prompt: str
    completion: str
    right: bool


@dataclass(frozen=True)
class RunResult:
    """
    A finished run.

    Args:
        row ([`RowOfRun`]):
            The row.
        seed (`int`):
            Seed of the run. Runs of different rows with one seed are a pair.
        ends (`dict[str, End]`):
            The policy at each budget, by what was matched: `"samples"`, `"steps"` or `"seconds"`.
        curve (`list[dict[str, float]]`):
            Training logs in order: `step`, `completions`, `seconds`, and metrics by the names of `docs/metrics.md`.
        held_out (`list[dict[str, float]]`):
            Measurements on the way, in order: `step`, `completions`, `seconds`, and accuracy by name of data set.
        manipulation (`dict[str, float]`):
            How often each technique acted: means over the run, by metric.
        completions (`list[SampleCompletion]`):
            A few completions of the last policy.
        regime (`str`, *optional*):
            The built-in task's regime.
        start (`str`, *optional*):
            What training started from: which warm start, or the model's name.
        config (`dict[str, Any]`):
            The whole config, as JSON has it.
        checkpoint (`dict[str, Any]`):
            Which policy was evaluated, and why.
        environment (`dict[str, Any]`):
            Versions, hardware, commit.
    """

    row: RowOfRun
    seed: int
    ends: Mapping[str, End]
    curve: Sequence[Mapping[str, float]] = ()
    held_out: Sequence[Mapping[str, float]] = ()
    manipulation: Mapping[str, float] = field(default_factory=dict)
    completions: Sequence[SampleCompletion] = ()
    regime: str | None = None
    start: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """
    The results below a folder.

    Args:
        runs (`tuple[RunResult, ...]`):
            Finished runs.
        left_out (`tuple[str, ...]`):
            One line for each file that takes no part, with the reason.
    """

    runs: tuple[RunResult, ...]
    left_out: tuple[str, ...]


def write_result(folder: Path, result: RunResult) -> None:
    """Writes `result.json`, whole or not at all."""
    content = {"schema": SCHEMA, "kind": KIND, **asdict(result)}
    # ASCII alone: a completion may hold half of a surrogate pair
    write_whole(folder / RESULT, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_result(path: Path) -> RunResult:
    """
    Returns the run that a file holds.

    Raises:
        [`ResultError`]: If it holds none: cut short, of another program or another schema, or with a value that
            cannot be.
    """
    try:
        return _made(reading.checked(path, KIND, SCHEMA))
    except reading.NoResult as error:
        raise ResultError(str(error)) from None


def _made(content: dict[str, Any]) -> RunResult:
    ends = {match: end_of(end) for match, end in content["ends"].items()}
    completions = tuple(SampleCompletion(**one) for one in content["completions"])
    fields: dict[str, Any] = {**content, "row": RowOfRun(**content["row"]), "ends": ends, "completions": completions}
    return RunResult(**fields)


def end_of(content: Mapping[str, Any]) -> End:
    """Returns an end of a run from what JSON has of it."""
    fields: dict[str, Any] = {**content, "data_sets": {}}
    for name, one in content["data_sets"].items():
        own: dict[str, Any] = {**one, "questions": tuple(Question(**question) for question in one["questions"])}
        fields["data_sets"][name] = DataSet(**own)
    return End(**fields)


def find_results(folder: Path) -> Found:
    """
    Returns all results below a folder; what takes no part is named with the reason.

    Raises:
        [`ResultError`]: If there is no such folder.
    """
    if not folder.is_dir():
        raise ResultError(f"{result_files.printable(folder)} is no folder. Name one that has {RESULT} files below it.")
    left_out: list[str] = []
    first: dict[tuple[str, int, str | None], str] = {}
    runs = []
    for path in result_files.files(folder, RESULT, left_out):
        name = result_files.printable(path.relative_to(folder))
        try:
            run = read_result(path)
        except ResultError as error:
            left_out.append(f"{name}: {error}")
            continue
        earlier = first.setdefault((run.row.key, run.seed, run.regime), name)
        if earlier == name:
            runs.append(run)
        else:
            left_out.append(f"{name}: {run.row.key!a}, seed {run.seed}, is in {earlier} already")
    return Found(tuple(runs), tuple(left_out))
