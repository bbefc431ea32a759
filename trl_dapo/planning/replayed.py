"""
Peaks of a pass at any size, from one trace of it: what was made and freed is replayed with other sizes.

Each size of the recorded trace has a large prime factor that divides no size of the model. So the bytes of a storage
tell which of them they are a product of, and what the rest is. A replay gives what a trace of that size would give, to
the byte, as long as the same operations run (one row, or one column, saves a few copies). The first size of a kind of
pass is traced as it is, and a replay of that size must agree with it. Where it does not, every size is traced.
"""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .log_prob_head import TILE, tile_rows, tiles_of
from .run_shape import RunShape
from .traced_passes import Pass
from .traced_step import DEPTHS, TracedModel
from .tracker import Live, LiveBytes


# A replay that misses a trace by more is not used
TOLERANCE = 0.01


@dataclass(frozen=True)
class Sizes:
    """
    Sizes of a recorded trace: each has a prime factor of 53 or more that no other has.

    Args:
        rows, prompt, completion (`int`):
            Of the pass. Prompt and completion together, and one less than that, are told apart too.
        tile (`int`):
            Rows of the head's first tile; a second and last one takes the other tokens.
    """

    rows: int
    prompt: int
    completion: int
    tile: int

    def of(self, one: Pass) -> dict[int, int]:
        """Returns the sizes of a pass by those of the trace, in one order for all passes."""
        columns, tokens = one.prompt + one.completion, one.rows * one.completion
        known = {self.rows: one.rows, self.prompt: one.prompt}
        if one.completion:
            tile = tile_rows()
            known |= {
                self.completion: one.completion,
                self.prompt + self.completion: columns,
                self.prompt + self.completion - 1: columns - 1,
                self.tile: min(tokens, tile),
                # The second tile of a longer pass is full, and no later one is larger
                self.rows * self.completion - self.tile: min(max(0, tokens - tile), tile),
            }
        return known


# Of the second and third are taken where a prime factor of the first divides a size of the model
CHOICES = (Sizes(53, 97, 61, 1747), Sizes(59, 127, 67, 1987), Sizes(61, 166, 97, 2999))


class Recorder(LiveBytes):
    """
    Counts what [`LiveBytes`] counts, and keeps the order in which it came and went.

    Attributes:
        events (`list[int | str]`):
            Bytes that were made, or freed, below 0; and names of segments, where a peak may be.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.events: list[int | str] = []

    def _add(self, tensor: torch.Tensor) -> None:
        before = self.bytes
        super()._add(tensor)
        if size := self.bytes - before:
            self.events.append(size)
            weakref.finalize(tensor.untyped_storage(), self.events.append, -size)

    def _note(self) -> None:
        super()._note()
        if not self.events or self.events[-1] != self.segment:
            self.events.append(self.segment)


class Recording:
    """
    A recorded trace, ready to be replayed.

    Args:
        events (`list[int | str]`):
            As [`Recorder`] has them.
        sizes ([`Sizes`]):
            Of the trace.
        recorded ([`Pass`]):
            The pass that was traced.
    """

    def __init__(self, events: list[int | str], sizes: Sizes, recorded: Pass) -> None:
        self._sizes = sizes
        known = list(sizes.of(recorded))
        products: dict[tuple[int, ...], int] = {}
        shares: list[float] = []
        kinds: list[int] = []
        ends: dict[str, list[int]] = {}
        for event in events:
            if isinstance(event, str):
                ends.setdefault(event, []).append(len(shares))
                continue
            powers = _powers(event, known)
            kinds.append(products.setdefault(powers, len(products)))
            shares.append(event / _product(known, powers))
        self._products = list(products)
        self._shares, self._kinds = np.array(shares), np.array(kinds, dtype=int)
        self._ends = {segment: np.array(where) for segment, where in ends.items()}

    def peaks(self, one: Pass) -> dict[str, int]:
        """Returns the peak of each segment at the sizes of another pass, in bytes."""
        sizes = list(self._sizes.of(one).values())
        products = np.array([_product(sizes, powers) for powers in self._products], dtype=float)
        # What is alive after each event, and before the first
        alive = np.concatenate([[0.0], np.cumsum(self._shares * products[self._kinds])])
        return {segment: round(alive[where].max()) for segment, where in self._ends.items()}


class ReplayedModel(TracedModel):
    """
    A run's model whose passes are traced at a few sizes and replayed at others.

    Args:
        shape ([`RunShape`]):
            Of the run.
    """

    def __init__(self, shape: RunShape) -> None:
        super().__init__(shape)
        self._exact: dict[Pass, Live] = {}
        # A kind of pass that cannot be replayed has `None`
        self._recordings: dict[Pass, dict[int, Recording] | None] = {}

    def peak(self, one: Pass) -> Live:
        """Returns the most that a pass has alive, as traced."""
        if one not in self._exact:
            self._exact[one] = super().peak(one)
        return self._exact[one]

    def replayed_peak(self, one: Pass) -> Live:
        """
        Returns the most that a pass has alive; where a pass of its kind was traced before, by a replay.

        A replay does not tell gradients and logits apart from the rest.
        """
        kind = _kind(one)
        traced = next((known for known in self._exact if _kind(known) == kind), None)
        if one in self._exact or traced is None or one.device == "cpu":
            return self.peak(one)
        if kind not in self._recordings:
            self._recordings[kind] = self._checked(self._recorded(kind), traced)
        recordings = self._recordings[kind]
        return self.peak(one) if recordings is None else Live(self._replayed(recordings, one))

    def _checked(self, recordings: dict[int, Recording] | None, traced: Pass) -> dict[int, Recording] | None:
        if recordings is None:
            return None
        exact = self._exact[traced].bytes
        return recordings if abs(self._replayed(recordings, traced) - exact) <= TOLERANCE * exact else None

    def _replayed(self, recordings: dict[int, Recording], one: Pass) -> int:
        """Returns the bytes of the whole model, as [`TracedModel`] has them of its traces."""
        if len(recordings) == 1:
            return max(recordings[self._layers].peaks(one).values())
        low, high = (recordings[depth].peaks(one) for depth in DEPTHS)
        more = self._layers - DEPTHS[1]
        return max(high[name] + more * (high[name] - low[name]) for name in high if name in low)

    def _recorded(self, kind: Pass) -> dict[int, Recording] | None:
        depths = (self._layers,) if self._layers <= max(DEPTHS) else DEPTHS
        taken = set(self._model_sizes(depths[0]))
        sizes = next((choice for choice in CHOICES if not _any_divides(choice, taken)), None)
        if sizes is None:
            return None
        columns = sizes.completion if kind.completion else 0
        one = replace(kind, rows=sizes.rows, prompt=sizes.prompt, completion=columns)
        return {depth: Recording(self._events(one, sizes, depth), sizes, one) for depth in depths}

    def _events(self, one: Pass, sizes: Sizes, depth: int) -> list[int | str]:
        recorders: list[Recorder] = []

        def recorder(*args: Any) -> Recorder:
            recorders.append(Recorder(*args))
            return recorders[0]

        with tiles_of(sizes.tile):
            self._traced(one, depth, recorder)
        return recorders[0].events

    def _model_sizes(self, depth: int) -> Iterator[int]:
        config = self._shape.model_config.get_text_config()
        yield config.vocab_size % TILE
        for parameter in self._model(depth).parameters():
            yield from parameter.shape


def _kind(one: Pass) -> Pass:
    """Returns what a recording is of: a pass without its sizes."""
    return replace(one, rows=1, prompt=1, completion=int(one.completion > 0))


def _any_divides(choice: Sizes, sizes: set[int]) -> bool:
    known = choice.of(Pass("", choice.rows, choice.prompt, choice.completion))
    return any(size and size % _prime(one) == 0 for one in known for size in sizes)


def _prime(size: int) -> int:
    """Returns the largest prime factor."""
    factor = 2
    while factor * factor <= size:
        if size % factor:
            factor += 1
        else:
            size //= factor
    return size


def _powers(size: int, known: list[int]) -> tuple[int, ...]:
    """Returns how often each of the known sizes is a factor of another."""
    powers = []
    for one in known:
        prime, power = _prime(one), 0
        while size % prime == 0:
            size, power = size // prime, power + 1
        powers.append(power)
    return tuple(powers)


def _product(sizes: list[int], powers: tuple[int, ...]) -> int:
    product = 1
    for size, power in zip(sizes, powers, strict=True):
        product *= size**power
    return product
