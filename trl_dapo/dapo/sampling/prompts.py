"""
The prompt stream: one order of prompts from which every generation round draws, first rounds and refills alike.

TRL's dataloader repeats each batch `steps_per_generation * num_iterations` times, so it cannot serve refills. The
stream reads the dataset itself, in the order in which TRL's sampler would, and continues after each refill where it
stopped. The invariant: its next prompt is a function of the seed and of its position, on every rank alike.
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


Row = dict[str, Any]

# So many batches in a row that hold the whole dataset are no accident: what waits would be first in all of them
WHOLE_BATCHES = 3


@dataclass(frozen=True, slots=True)
class Place:
    """A row of the dataset and where the stream met it; `content` only where the dataset cannot be indexed."""

    epoch: int
    ordinal: int
    identity: Any
    content: Row | None = field(default=None, compare=False)


class PromptStream:
    """
    Prompts in a deterministic order, each once per epoch, reshuffled every epoch.

    Within one batch no prompt is served twice: when an epoch ends inside a batch, prompts of the next epoch that the
    batch already holds wait for the next batch. Where batch after batch holds the whole dataset, each gets an order of
    its own, and what waits is passed over: it would come first in all of them. Prompts that the history skips, or that
    Thompson sampling does not choose, are passed over until the next epoch; where nothing else is left for the batch,
    they are served after all.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows to serve.
        seed (`int`):
            Seed of the order. For a map-style dataset the order of each epoch is that of TRL's `RepeatSampler`.
        shuffle (`bool`, *optional*, defaults to `True`):
            Whether to shuffle. An iterable dataset is shuffled through its buffer.
        distinct (`bool`, *optional*, defaults to `True`):
            Whether a batch must not hold a prompt twice. `False` where rows are placeholders and an environment makes
            up the prompt.
        history ([`~history.PromptHistory`], *optional*):
            What is known of the prompts, and which of them are not worth generating. By default all are.

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
        self._waiting: list[Place] = []
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
        Forgets which prompts the last batch holds; `held` are those that the next one holds already, each with the
        epoch in which it was served.
        """
        self._whole_before = self._whole_batches
        self._batch = dict(held)
        self._lenient = False

    def take(self, count: int, multiple_of: int = 1) -> list[Place]:
        """
        Returns the places of the next `count` prompts that this batch does not hold yet.

        Where the dataset has no more such prompts, it returns as many as there are, rounded down to a multiple of
        `multiple_of`; what is rounded off waits for the next batch.
        """
        held = dict(self._batch)
        places = self._candidates(count)
        surplus = len(places) % multiple_of
        if surplus:
            self._waiting = places[-surplus:] + self._waiting
            places = places[:-surplus]
        # Of the prompts that were looked at, the batch holds what it is given
        self._batch = held
        for place in places:
            self._enter(place)
        self.served += len(places)
        if places and self._whole_batches >= WHOLE_BATCHES:
            self._end_pass()
        return places

    def rows(self, places: list[Place], copies: int, part: slice = slice(None)) -> list[Row]:
        """
        Returns `copies` independent rows for each place, contiguous, as the rows of a group are; of them only `part`.
        """
        wanted = [places[number // copies] for number in range(len(places) * copies)[part]]
        contents = {place: self._source.row(place) for place in dict.fromkeys(wanted)}
        return [copy.deepcopy(contents[place]) for place in wanted]

    def state_dict(self) -> dict[str, Any]:
        """Returns the position between two batches as plain JSON values."""
        waiting = [[place.epoch, place.ordinal] for place in self._waiting]
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

        Raises `ValueError` where the dataset is too short for it.
        """
        waiting = {(epoch, ordinal) for epoch, ordinal in state["waiting"]}
        found: dict[tuple[int, int], Place] = {}
        for epoch in sorted({epoch for epoch, _ in waiting}):
            ordinals = {ordinal for waiting_epoch, ordinal in waiting if waiting_epoch == epoch}
            for place in self._source.read(epoch):
                if place.ordinal in ordinals:
                    found[epoch, place.ordinal] = place
                if place.ordinal >= max(ordinals):
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

    def _candidates(self, count: int) -> list[Place]:
        """Returns `count` places in the order of the stream or, with Thompson sampling, the best of a larger pool."""
        places: list[Place] = []
        while len(places) < count * self._history.pool:
            # A pool ends with the epoch, beyond which prompts come up again
            place = self._next_place(may_turn=len(places) < count)
            if place is None:
                break
            places.append(place)
        if len(places) <= count:
            return places
        distances = {place: self._history.distance(place.identity, place.epoch, place.ordinal) for place in places}
        chosen = set(sorted(places, key=lambda place: distances[place])[:count])
        self.passed_over += len(places) - count
        return [place for place in places if place in chosen]

    def _next_place(self, may_turn: bool = True) -> Place | None:
        """Returns the next place that this batch may hold; with `may_turn=False` none beyond the epoch's end."""
        for place in [place for place in self._waiting if self._is_new(place)]:
            self._waiting.remove(place)
            if not self._is_skipped(place):
                return self._enter(place)
        while True:
            untouched = self._position == 0
            waiting_before, passed_over_before = len(self._waiting), self.passed_over
            for place in self._reader:
                self._position += 1
                if not self._is_new(place):
                    self._waiting.append(place)
                elif not self._is_skipped(place):
                    return self._enter(place)
            self._length = self._position
            if not untouched:
                if not may_turn:
                    return None
                self._open(self._epoch + 1)
                continue
            # A whole epoch holds nothing for the batch. It is read again: now, if the history was in the way, else by
            # the next batch
            del self._waiting[waiting_before:]
            self._open(self._epoch)
            skipped, self.passed_over = self.passed_over > passed_over_before, passed_over_before
            if not (skipped and may_turn):
                return None
            self._lenient = True

    def _is_skipped(self, place: Place) -> bool:
        skipped = not self._lenient and self._history.skips(place.identity, place.epoch, place.ordinal)
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

    def _is_new(self, place: Place) -> bool:
        # Two rows of one epoch are two rows, even where they hold the same text
        return not self._distinct or self._batch.get(place.identity, place.epoch) == place.epoch

    def _enter(self, place: Place) -> Place:
        self._batch.setdefault(place.identity, place.epoch)
        return place


class _MapSource:
    def __init__(self, dataset: Dataset, seed: int, shuffle: bool) -> None:
        self._dataset = dataset
        self._seed = seed
        self._shuffle = shuffle

    def read(self, epoch: int) -> Iterator[Place]:
        for ordinal, index in enumerate(self._order(epoch)):
            yield Place(epoch, ordinal, identity=index)

    def row(self, place: Place) -> Row:
        return self._dataset[place.identity]

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

    def read(self, epoch: int) -> Iterator[Place]:
        self._dataset.set_epoch(epoch)
        for ordinal, row in enumerate(self._dataset):
            identity = hashlib.blake2b(repr(row.get("prompt")).encode(), digest_size=16).hexdigest()
            yield Place(epoch, ordinal, identity, content=row)

    def row(self, place: Place) -> Row:
        if place.content is None:
            raise RuntimeError(f"row {place.ordinal} of epoch {place.epoch} was read without its content")
        return place.content
