"""
Datasets for the train dataloader that fetch each row once per rollout, or not at all.

TRL's loader fetches the rows of the whole rollout again at each of its accumulation steps, but only the first step
reads them. These datasets change neither the number nor the size of the batches, and the batch that is read has the
same rows.
"""

from typing import Any

from torch.utils.data import Dataset


class FetchedOnce(Dataset):
    """
    A dataset for a loader that asks for the same rows several times running; they are fetched the first time.

    Args:
        dataset (`Any`):
            Rows by number; several at once if it has `__getitems__`.
        times (`int`):
            How often the same rows are asked for. After that they are fetched again, since their reader may have
            changed their content.

    Attributes:
        stands_for (`Any`): the dataset.
    """

    def __init__(self, dataset: Any, times: int) -> None:
        self._dataset = self.stands_for = dataset
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
    """
    Rows without content, for a loader whose batches are counted but never read.

    Args:
        length (`int`):
            Number of rows.
        stands_for (`Any`, *optional*):
            The dataset whose rows are read elsewhere, for who looks at the data through the loader.
    """

    def __init__(self, length: int, stands_for: Any = None) -> None:
        self._length = length
        self.stands_for = stands_for

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {}
