"""
The prompt stream: one order of prompts from which every generation round draws, first rounds and refills alike.

TRL's dataloader repeats each batch `steps_per_generation * num_iterations` times, so it cannot serve refills. The
stream reads the dataset itself, in the order in which TRL's sampler would, and continues after each refill where it
stopped. The invariant: its next prompt is a function of the seed and of its position, on every rank alike.
"""

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from datasets import Dataset, IterableDataset


Row = dict[str, Any]


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
    batch already holds wait for the next batch.

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
    """

    def __init__(
        self, dataset: Dataset | IterableDataset, seed: int, shuffle: bool = True, distinct: bool = True
    ) -> None:
        self._source = (
            _IterableSource(dataset, seed, shuffle)
            if isinstance(dataset, IterableDataset)
            else _MapSource(dataset, seed, shuffle)
        )
        self._distinct = distinct
        self._open(0)
        self._waiting: list[Place] = []
        self._batch: dict[Any, int] = {}  # identity -> epoch in which this batch took it

    def begin_batch(self) -> None:
        """Forgets which prompts the last batch holds."""
        self._batch = {}

    def take(self, count: int, multiple_of: int = 1) -> list[Place]:
        """
        Returns the places of the next `count` prompts that this batch does not hold yet.

        Where the dataset has no more such prompts, it returns as many as there are, rounded down to a multiple of
        `multiple_of`; what is rounded off waits for the next batch.
        """
        places: list[Place] = []
        while len(places) < count:
            place = self._next_place()
            if place is None:
                break
            places.append(place)
        surplus = len(places) % multiple_of
        if surplus:
            self._waiting = places[-surplus:] + self._waiting
            places = places[:-surplus]
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
        return {"epoch": self._epoch, "position": self._position, "waiting": waiting}

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
        self.begin_batch()

    def _next_place(self) -> Place | None:
        for index, place in enumerate(self._waiting):
            if self._is_new(place):
                del self._waiting[index]
                return self._enter(place)
        while True:
            untouched = self._position == 0
            waiting_before = len(self._waiting)
            for place in self._reader:
                self._position += 1
                if self._is_new(place):
                    return self._enter(place)
                self._waiting.append(place)
            if untouched:
                # A whole epoch holds nothing that is new to the batch. It stays to be read by the next one
                del self._waiting[waiting_before:]
                self._open(self._epoch)
                return None
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
