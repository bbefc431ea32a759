"""
Evaluates a policy on data sets: samples, lets a scorer judge, and keeps everything in a results folder.

An evaluation that was stopped goes on: batches whose samples are all in the folder are not drawn again, and a draw is
a function of the seed, the data set, the question and the sample alone.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .generation import Sampler
from .judging import ScorerError, judge
from .processes import Processes
from .results import Key, ResultsFolder, Unscored
from .samples import Completion, DataSetScore, Sample, make_sample, score_data_set
from .scorers import Scorer
from .settings import Batch, Protocol, plan, seed_of


ALONE = Processes()
Progress = Callable[[str, int, int, float | None], None]  # data set, samples so far, of how many, share that is right


@dataclass(frozen=True)
class Problems:
    """
    A data set to evaluate on.

    Args:
        name (`str`):
            Its name in the results.
        rows (`list[dict[str, Any]]`):
            Questions, with `prompt`, `question_id` and what the scorer reads.
        scorer (`Any`):
            A scorer or a reward function.
    """

    name: str
    rows: list[dict[str, Any]]
    scorer: Any

    def fingerprint(self) -> str:
        """Returns what changes with any content of the questions."""
        text = json.dumps(self.rows, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_problems(name: str, dataset: Any, scorer: Any) -> Problems:
    """
    Returns a data set's questions. Those without a `question_id` are numbered.

    Args:
        name (`str`):
            Its name in the results.
        dataset (`datasets.Dataset` or `list[dict]`):
            Rows with a `prompt`.
        scorer (`Any`):
            A scorer, which reads `solution`, or a reward function, which is given all columns.

    Raises:
        `ValueError`: If there are no rows, a prompt or a solution is missing, the scorer cannot take what a row has,
            or two questions have one id.
    """
    rows = [{"question_id": str(number), **row} for number, row in enumerate(dataset)]
    if not rows:
        raise ValueError(f"the data set {name} has no rows. Give one with questions.")
    # A scorer names the columns that it reads; what a reward function reads, it says itself
    needed = ["prompt", *(getattr(scorer, "columns", ("solution",)) if hasattr(scorer, "judge") else ())]
    for column in needed:
        row = next((row for row in rows if _is_empty(row.get(column))), None)
        if row is not None:
            columns = ", ".join(key for key in rows[0] if key != "question_id")
            where = f"question {row['question_id']!r}" if column in rows[0] else f"its columns are {columns}"
            raise ValueError(f"the data set {name} has no {column} ({where}). Add it, or name its column.")
    if isinstance(scorer, Scorer):
        # Before hours of generation, and not after it
        try:
            scorer.check_rows(rows)
        except ValueError as error:
            raise ValueError(f"the data set {name}: {error}") from error
    ids: set[str] = set()
    for row in rows:
        row["question_id"] = str(row["question_id"])
        if row["question_id"] in ids:
            raise ValueError(f"the data set {name} has two questions with question_id={row['question_id']!r}.")
        ids.add(row["question_id"])
    return Problems(name, rows, scorer)


def _is_empty(value: Any) -> bool:
    # 0 is an answer
    return value is None or (isinstance(value, str | list | tuple) and not value)


def evaluate(
    sampler: Sampler,
    problems: Sequence[Problems],
    protocol: Protocol,
    folder: ResultsFolder,
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> dict[str, DataSetScore]:
    """
    Returns the scores of a policy by data set, and writes them to the folder.

    Args:
        sampler ([`Sampler`]):
            The policy.
        problems (`Sequence[Problems]`):
            The data sets.
        protocol ([`Protocol`]):
            How is sampled.
        folder ([`ResultsFolder`]):
            Where results are; what is there of the same settings is taken over.
        progress (`Callable`, *optional*):
            Called after each batch.
        processes ([`Processes`], *optional*):
            Those that share the batches. Each calls this function, with a folder that only the first writes to.

    Raises:
        [`ScorerError`]: If a scorer raises. Its completions are kept, and are scored when the evaluation goes on.
    """
    scores = {}
    for one in problems:
        samples = _Run(sampler, one, protocol, folder, progress, processes).samples()
        scores[one.name] = score_data_set(samples)
    folder.finish(scores)
    return scores


def missing_batches(problems: Problems, protocol: Protocol, found: dict[Key, Any]) -> list[Batch]:
    """Returns the batches of which a sample is not in `found`."""
    batches = plan(len(problems.rows), protocol.k, protocol.batch_size)
    return [batch for batch in batches if not all(key in found for key in keys_of(problems, batch))]


def keys_of(problems: Problems, batch: Batch) -> list[Key]:
    """Returns question id and sample of each row of a batch."""
    return [(problems.rows[question]["question_id"], sample) for question, sample in batch.rows]


def seeds_of(problems: Problems, batch: Batch, seed: int) -> list[int]:
    """Returns the seed of each row of a batch."""
    return [seed_of(seed, problems.name, question_id, sample) for question_id, sample in keys_of(problems, batch)]


def scored(problems: Problems, batch: Batch, drawn: Sequence[Completion]) -> list[Sample]:
    """Returns the samples of a batch, judged by the data set's scorer."""
    rows = [problems.rows[question] for question, _ in batch.rows]
    judged = judge(problems.scorer, rows, [sample for _, sample in batch.rows], drawn)
    keys = keys_of(problems, batch)
    return [make_sample(*key, one, verdict) for key, one, verdict in zip(keys, drawn, judged, strict=True)]


class _Run:
    """One data set of an evaluation."""

    def __init__(
        self,
        sampler: Sampler,
        problems: Problems,
        protocol: Protocol,
        folder: ResultsFolder,
        progress: Progress | None,
        processes: Processes,
    ) -> None:
        self._sampler, self._problems, self._protocol = sampler, problems, protocol
        self._folder, self._progress, self._processes = folder, progress, processes
        self._unscored = Unscored(folder.folder, problems.name, processes.index)

    def samples(self) -> list[Sample]:
        """Returns all samples, those that are in the folder and those that are drawn now."""
        found, kept = self._folder.read(self._problems.name), self._unscored.read()
        self._processes.gather(None)  # all have read before the first one writes
        missing = missing_batches(self._problems, self._protocol, found)
        found = self._whole_batches(found, missing)
        self._tell(found)
        for first in range(0, len(missing), self._processes.count):
            for new in self._round(missing[first : first + self._processes.count], kept):
                self._folder.append(self._problems.name, new)
                found |= {(one.question_id, one.sample): one for one in new}
            self._tell(found)
        self._processes.gather(None)
        self._unscored.drop()
        batches = plan(len(self._problems.rows), self._protocol.k, self._protocol.batch_size)
        return [found[key] for batch in batches for key in keys_of(self._problems, batch)]

    def _whole_batches(self, found: dict[Key, Sample], missing: list[Batch]) -> dict[Key, Sample]:
        """Returns the samples without those of a batch that was being written when the process died."""
        parts = {key for batch in missing for key in keys_of(self._problems, batch) if key in found}
        if parts:
            found = {key: one for key, one in found.items() if key not in parts}
            self._folder.keep(self._problems.name, list(found.values()))
        return found

    def _round(self, batches: list[Batch], kept: dict[Key, dict[str, Any]]) -> list[list[Sample]]:
        """Returns the samples of these batches, of which each process draws one."""
        place, new, failure = self._processes.index, None, None
        try:
            new = self._new(batches[place], kept) if place < len(batches) else None
        except ValueError as error:
            failure = error
        everyone = self._processes.gather((new, None if failure is None else str(failure)))
        # What the others have drawn is written before one that failed ends them all
        if failure is None and any(text is not None for _, text in everyone):
            failure = ScorerError(next(text for _, text in everyone if text is not None))
        if failure is not None:
            for one, _ in everyone:
                self._folder.append(self._problems.name, one or [])
            raise failure
        return [one for one, _ in everyone if one is not None]

    def _new(self, batch: Batch, kept: dict[Key, dict[str, Any]]) -> list[Sample]:
        keys = keys_of(self._problems, batch)
        if all(key in kept for key in keys):
            drawn = [Completion(**kept[key]["drawn"]) for key in keys]
        else:
            prompts = [self._problems.rows[question]["prompt"] for question, _ in batch.rows]
            drawn = self._sampler.sample(prompts, seeds_of(self._problems, batch, self._protocol.seed))
        try:
            return scored(self._problems, batch, drawn)
        except (ScorerError, KeyboardInterrupt):
            if keys[0] not in kept:
                pairs = zip(keys, drawn, strict=True)
                self._unscored.add({"question_id": id, "sample": n, "drawn": vars(one)} for (id, n), one in pairs)
            raise

    def _tell(self, found: dict[Key, Sample]) -> None:
        if self._progress is not None:
            right = sum(one.outcome == "right" for one in found.values())
            total = len(self._problems.rows) * self._protocol.k
            self._progress(self._problems.name, len(found), total, right / len(found) if found else None)
