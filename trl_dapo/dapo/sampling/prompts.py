"""
The prompt stream: the one order of prompts from which every generation round draws, first rounds and refills alike.

TRL's dataloader repeats each batch `steps_per_generation * num_iterations` times, so it cannot serve refills. The
stream therefore reads the dataset itself, in the order of TRL's sampler, and continues after each refill where it
stopped. Its next prompt depends only on the seed, on its position and on the prompt history, so it is the same on
every rank. What the history decides is in `history.py`.
"""

import copy
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from datasets import Dataset, IterableDataset

from ...host.required import required
from .history import PromptHistory


# A row of the dataset, by column. `Row` is a generated row: see `rollouts.py`
Example = dict[str, Any]

# So many batches in a row that hold the whole dataset are no accident: what waits would be first in all of them
WHOLE_BATCHES = 3


@dataclass(frozen=True, slots=True)
class StreamedPrompt:
    """
    A prompt as the stream read it from the dataset.

    Attributes:
        epoch (`int`):
            Pass through the dataset in which it was read.
        ordinal (`int`):
            How many prompts were read before it in that epoch.
        identity (`Any`):
            Same value whenever the same prompt comes up: the index of a map-style dataset, a hash of an iterable one.
        content (`dict[str, Any]`, *optional*):
            Row of the dataset, only for a dataset that cannot be indexed.
    """

    epoch: int
    ordinal: int
    identity: Any
    content: Example | None = field(default=None, compare=False)


class PromptStream:
    """
    Prompts in a deterministic order, each once per epoch, reshuffled every epoch.

    No prompt is served twice within a batch. If an epoch ends inside a batch, prompts of the next epoch that the batch
    already holds wait for the next batch. If batch after batch holds the whole dataset, each batch gets an order of
    its own, and prompts that wait are passed over: they would come first in every batch. Prompts that the history
    skips, or that Thompson sampling does not choose, are passed over until the next epoch. If too few prompts remain
    for the batch, they are served after all.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows to serve.
        seed (`int`):
            Seed of the order. For a map-style dataset the order of each epoch is that of TRL's `RepeatSampler`.
        shuffle (`bool`, *optional*, defaults to `True`):
            Whether to shuffle. An iterable dataset is shuffled through its buffer.
        distinct (`bool`, *optional*, defaults to `True`):
            Whether a batch must not hold a prompt twice. Set it to `False` if rows are placeholders and an environment
            makes up the prompt.
        history ([`~history.PromptHistory`], *optional*):
            Decides which prompts are not worth generating. By default, none is skipped.

    Attributes:
        served (`int`):
            Prompts served so far, repeats included.
        passed_over (`int`):
            Prompts passed over so far.
    """

    def __init__(
        self,
        dataset: Dataset | IterableDataset,
        seed: int,
        shuffle: bool = True,
        distinct: bool = True,
        history: PromptHistory | None = None,
    ) -> None:
        self._source = (
            _IterableSource(dataset, seed, shuffle)
            if isinstance(dataset, IterableDataset)
            else _MapSource(dataset, seed, shuffle)
        )
        self._distinct = distinct
        self._history = PromptHistory(seed) if history is None else history
        self._length: int | None = len(dataset) if isinstance(dataset, Dataset) else None
        self._open(0)
        self._waiting: list[StreamedPrompt] = []
        self._batch: dict[Any, int] = {}  # identity -> epoch in which this batch took it
        self._whole_before = 0  # batches in a row before this one that held the whole dataset
        self._lenient = False  # whether this batch takes prompts that the history would skip
        self.served = 0
        self.passed_over = 0

    @property
    def progress(self) -> float:
        """Passes through the dataset so far; whole passes only while an iterable dataset's length is not known."""
        return self._epoch + (self._position / self._length if self._length else 0.0)

    def begin_batch(self, held: Iterable[tuple[Any, int]] = ()) -> None:
        """
        Starts a batch, which may hold every prompt again except those in `held`.

        Args:
            held (`Iterable[tuple[Any, int]]`):
                Prompts that the batch holds already: the identity of each, and the epoch in which it was served.
        """
        self._whole_before = self._whole_batches
        self._batch = dict(held)
        self._lenient = False

    def take(self, count: int, multiple_of: int = 1) -> list[StreamedPrompt]:
        """
        Returns the next `count` prompts that this batch does not hold yet.

        If the dataset has fewer of them, it returns as many as there are, rounded down to a multiple of `multiple_of`.
        What is rounded off waits for the next batch.
        """
        held = dict(self._batch)
        prompts = self._candidates(count)
        remainder = len(prompts) % multiple_of
        if remainder:
            self._waiting = prompts[-remainder:] + self._waiting
            prompts = prompts[:-remainder]
        # `_next_prompt` entered every prompt it looked at, but the batch holds only the ones returned here
        self._batch = held
        for prompt in prompts:
            self._enter(prompt)
        self.served += len(prompts)
        if prompts and self._whole_batches >= WHOLE_BATCHES:
            self._end_pass()
        return prompts

    def rows(self, prompts: list[StreamedPrompt], copies: int, part: slice = slice(None)) -> list[Example]:
        """
        Returns `copies` independent rows of each prompt, contiguous like the rows of a group; of these, only `part`.
        """
        wanted = [prompts[number // copies] for number in range(len(prompts) * copies)[part]]
        contents = {prompt: self._source.row(prompt) for prompt in dict.fromkeys(wanted)}
        return [copy.deepcopy(contents[prompt]) for prompt in wanted]

    def state_dict(self) -> dict[str, Any]:
        """Returns the position between two batches as plain JSON values."""
        waiting = [[prompt.epoch, prompt.ordinal] for prompt in self._waiting]
        return {
            "epoch": self._epoch,
            "position": self._position,
            "length": self._length,
            "waiting": waiting,
            "served": self.served,
            "passed_over": self.passed_over,
            "whole_batches": self._whole_batches,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Moves to a position that [`~PromptStream.state_dict`] returned for the same dataset and seed.

        Raises `ValueError` if the dataset is too short for it.
        """
        waiting = {(epoch, ordinal) for epoch, ordinal in state["waiting"]}
        found: dict[tuple[int, int], StreamedPrompt] = {}
        for epoch in sorted({epoch for epoch, _ in waiting}):
            ordinals = {ordinal for waiting_epoch, ordinal in waiting if waiting_epoch == epoch}
            for prompt in self._source.read(epoch):
                if prompt.ordinal in ordinals:
                    found[epoch, prompt.ordinal] = prompt
                if prompt.ordinal >= max(ordinals):
                    break
        self._open(state["epoch"])
        passed = sum(1 for _ in islice(self._reader, state["position"]))
        if passed < state["position"] or len(found) < len(waiting):
            raise ValueError(
                f"the saved position is prompt {state['position']} of epoch {state['epoch']}, and the dataset has "
                f"only {passed} prompts: it is not the one that the position was saved for."
            )
        self._waiting = [found[epoch, ordinal] for epoch, ordinal in state["waiting"]]
        self._position = state["position"]
        self._length = state["length"]
        self.served, self.passed_over = state["served"], state["passed_over"]
        self.begin_batch()
        self._whole_before = state.get("whole_batches", 0)

    def _candidates(self, count: int) -> list[StreamedPrompt]:
        """Returns the next `count` prompts or, with Thompson sampling, the best `count` of a larger pool."""
        prompts: list[StreamedPrompt] = []
        while len(prompts) < count * self._history.pool:
            # The pool does not reach into the next epoch, where the same prompts come up again
            prompt = self._next_prompt(may_turn=len(prompts) < count)
            if prompt is None:
                break
            prompts.append(prompt)
        if len(prompts) <= count:
            return prompts
        distances = {
            prompt: self._history.distance(prompt.identity, prompt.epoch, prompt.ordinal) for prompt in prompts
        }
        chosen = set(sorted(prompts, key=lambda prompt: distances[prompt])[:count])
        self.passed_over += len(prompts) - count
        return [prompt for prompt in prompts if prompt in chosen]

    def _next_prompt(self, may_turn: bool = True) -> StreamedPrompt | None:
        """Returns the next prompt that this batch may hold; with `may_turn=False`, `None` at the end of the epoch."""
        for prompt in [prompt for prompt in self._waiting if self._is_new(prompt)]:
            self._waiting.remove(prompt)
            if not self._is_skipped(prompt):
                return self._enter(prompt)
        while True:
            untouched = self._position == 0
            waiting_before, passed_over_before = len(self._waiting), self.passed_over
            for prompt in self._reader:
                self._position += 1
                if not self._is_new(prompt):
                    self._waiting.append(prompt)
                elif not self._is_skipped(prompt):
                    return self._enter(prompt)
            self._length = self._position
            if not untouched:
                if not may_turn:
                    return None
                self._open(self._epoch + 1)
                continue
            # A whole epoch held nothing for this batch. If that is due to the history, read it again without the
            # history; otherwise the batch holds every prompt, and the next batch reads the epoch again
            del self._waiting[waiting_before:]
            self._open(self._epoch)
            skipped, self.passed_over = self.passed_over > passed_over_before, passed_over_before
            if not (skipped and may_turn):
                return None
            self._lenient = True

    def _is_skipped(self, prompt: StreamedPrompt) -> bool:
        skipped = not self._lenient and self._history.skips(prompt.identity, prompt.epoch, prompt.ordinal)
        self.passed_over += skipped
        return skipped

    @property
    def _whole_batches(self) -> int:
        """Batches in a row that held the whole dataset, with this one where it has begun."""
        if not self._batch:
            return self._whole_before
        return self._whole_before + 1 if self._distinct and len(self._batch) == self._length else 0

    def _end_pass(self) -> None:
        """Goes on to the next pass, whatever is left of this one: the batch holds every prompt."""
        self.passed_over += len(self._waiting)
        self._waiting = []
        if self._position:
            self.passed_over += required(self._length) - self._position
            self._open(self._epoch + 1)

    def _open(self, epoch: int) -> None:
        self._epoch, self._position = epoch, 0
        self._reader = self._source.read(epoch)

    def _is_new(self, prompt: StreamedPrompt) -> bool:
        # Two rows of the same epoch are different prompts, even if their text is the same
        return not self._distinct or self._batch.get(prompt.identity, prompt.epoch) == prompt.epoch

    def _enter(self, prompt: StreamedPrompt) -> StreamedPrompt:
        self._batch.setdefault(prompt.identity, prompt.epoch)
        return prompt


class _MapSource:
    def __init__(self, dataset: Dataset, seed: int, shuffle: bool) -> None:
        self._dataset = dataset
        self._seed = seed
        self._shuffle = shuffle

    def read(self, epoch: int) -> Iterator[StreamedPrompt]:
        for ordinal, index in enumerate(self._order(epoch)):
            yield StreamedPrompt(epoch, ordinal, identity=index)

    def row(self, prompt: StreamedPrompt) -> Example:
        return self._dataset[prompt.identity]

    def _order(self, epoch: int) -> list[int]:
        if not self._shuffle:
            return list(range(len(self._dataset)))
        # TRL's sampler draws one permutation per epoch from one generator
        generator = torch.Generator().manual_seed(self._seed)
        for _ in range(epoch):
            torch.randperm(len(self._dataset), generator=generator)
        return torch.randperm(len(self._dataset), generator=generator).tolist()


class _IterableSource:
    def __init__(self, dataset: IterableDataset, seed: int, shuffle: bool) -> None:
        self._dataset = dataset.shuffle(seed=seed) if shuffle else dataset

    def read(self, epoch: int) -> Iterator[StreamedPrompt]:
        self._dataset.set_epoch(epoch)
        for ordinal, row in enumerate(self._dataset):
            identity = hashlib.blake2b(repr(row.get("prompt")).encode(), digest_size=16).hexdigest()
            yield StreamedPrompt(epoch, ordinal, identity, content=row)

    def row(self, prompt: StreamedPrompt) -> Example:
        if prompt.content is None:
            raise RuntimeError(f"row {prompt.ordinal} of epoch {prompt.epoch} was read without its content")
        return prompt.content
