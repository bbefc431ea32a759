"""
Who looks at a run and changes none of it: no random number is drawn, and no tensor of training is touched.

A callback of a trainer that is a [`Watch`] as well is told what callbacks are not told: the phases of a rollout.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any


class Watch:
    """What a trainer tells of its run; the plain one does nothing with it."""

    def training(self, trainer: Any) -> AbstractContextManager[Any]:
        """Returns what surrounds a run of a trainer of this package, from before its first callback to its end."""
        return nullcontext()

    def generation(self) -> AbstractContextManager[None]:
        """Returns what surrounds a generation."""
        return nullcontext()

    def written(self, completion_ids: list[list[int]]) -> None:
        """Sees the completions of a generation, once they are to be scored."""

    def judged(self, kept: int, wanted: int, finished: int, most: int) -> None:
        """
        Sees how full the batch of a rollout is, at its beginning and after each round.

        Args:
            kept (`int`):
                Informative groups so far.
            wanted (`int`):
                Groups of the batch.
            finished (`int`):
                Rounds that were generated.
            most (`int`):
                Most rounds of a rollout.
        """

    def logs(self, table: Mapping[str, Any]) -> None:
        """Sees the trainer's table of completions, right before a log of training."""

    def evaluates(self, name: str, done: int, total: int) -> None:
        """Sees how many of the samples of a data set an evaluation during the run has."""


class Watches(Watch):
    """
    Several that look at one run.

    Args:
        each (`Sequence[Watch]`):
            They are told in this order.
    """

    def __init__(self, each: Sequence[Watch]) -> None:
        self.each = tuple(each)

    @contextmanager
    def training(self, trainer: Any):
        """Surrounds a run by all of them."""
        with ExitStack() as stack:
            for one in self.each:
                stack.enter_context(one.training(trainer))
            yield

    @contextmanager
    def generation(self):
        """Surrounds a generation by all of them."""
        with ExitStack() as stack:
            for one in self.each:
                stack.enter_context(one.generation())
            yield

    def written(self, completion_ids: list[list[int]]) -> None:
        """Tells all of them."""
        for one in self.each:
            one.written(completion_ids)

    def judged(self, kept: int, wanted: int, finished: int, most: int) -> None:
        """Tells all of them."""
        for one in self.each:
            one.judged(kept, wanted, finished, most)

    def logs(self, table: Mapping[str, Any]) -> None:
        """Tells all of them."""
        for one in self.each:
            one.logs(table)

    def evaluates(self, name: str, done: int, total: int) -> None:
        """Tells all of them."""
        for one in self.each:
            one.evaluates(name, done, total)


def watch_of(trainer: Any) -> Watch:
    """Returns what looks at a trainer: those of its callbacks that are a [`Watch`]."""
    # A trainer that was made without `__init__` has no callbacks
    handler = vars(trainer).get("callback_handler")
    found = [] if handler is None else [one for one in handler.callbacks if isinstance(one, Watch)]
    return found[0] if len(found) == 1 else Watches(found) if found else Watch()
