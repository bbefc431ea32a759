"""
What the train dataloader fetches: each row once per rollout, or none.

TRL's loader serves the rows of a whole rollout anew at every accumulation step of it, and only the first of them reads
them. The invariant: batches are as many and as long as TRL's, and the one that is read has the dataset's rows.
"""

from typing import Any

from torch.utils.data import Dataset


class FetchedOnce(Dataset):
    """
    A dataset that is asked for the same rows several times in a row, and fetches them the first time.

    Args:
        dataset (`Any`):
            Rows by number; several at once if it has `__getitems__`.
        times (`int`):
            How often the same rows are asked for. Then they are fetched anew, since whoever read them may have changed
            what is in them.
    """

    def __init__(self, dataset: Any, times: int) -> None:
        self._dataset = dataset
        self._times = times
        self._left = 0
        self._asked: list[int] = []
        self._rows: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._dataset[index]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        if not self._left or indices != self._asked:
            self._rows = self._dataset.__getitems__(indices)
            self._asked, self._left = list(indices), self._times
        self._left -= 1
        return [dict(row) for row in self._rows]


class EmptyRows(Dataset):
    """Rows without content: for a loader whose batches are counted and never read."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {}
