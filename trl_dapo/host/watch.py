"""
Who looks at a run's phases and changes none of them.
"""

from contextlib import AbstractContextManager, nullcontext


class Watch:
    """What a trainer tells of its rollouts; the plain one does nothing with it."""

    def generation(self) -> AbstractContextManager[None]:
        """Returns what surrounds a generation."""
        return nullcontext()

    def written(self, completion_ids: list[list[int]]) -> None:
        """Sees the completions of a generation, once they are to be scored."""
