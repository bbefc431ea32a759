"""
All rounds of one rollout as one table of groups, and the rows of the groups that are chosen from it.

Groups are numbered in order of generation, across all rounds. A round's rows are laid out as TRL lays out a batch:
contiguous groups, cut into equal parts, one per rank. A group may therefore straddle two ranks. The table is the same
on every rank, but each rank holds only its own rows.

Letters: B rows, P groups, G generations, F reward functions.
"""

from dataclasses import dataclass
from typing import Any

import torch

from .groups import Selection, Verdicts
from .rollouts import Round, Row, own_rows


@dataclass(frozen=True, slots=True)
class _Address:
    """Where a row was generated: the number of its round, and its position in that round."""

    round: int
    position: int


@dataclass
class Candidates:
    """
    Every group generated for one training batch, and what was decided about it.

    Args:
        num_generations (`int`):
            Rows of a group, G.
        num_processes (`int`):
            Ranks that generate and train.
    """

    num_generations: int
    num_processes: int

    def __post_init__(self) -> None:
        self.rounds: list[Round] = []
        self._verdicts: list[Verdicts] = []
        self._addresses: list[_Address] = []  # one per row of all ranks

    def add(self, finished: Round, verdicts: Verdicts) -> None:
        """Appends a round and what was decided about its groups."""
        self._addresses += [_Address(len(self.rounds), position) for position in range(len(finished.rewards))]
        self.rounds.append(finished)
        self._verdicts.append(verdicts)

    @property
    def verdicts(self) -> Verdicts:
        """The verdicts of all groups, each of shape `(P,)`."""
        parts = [(one.informative_P, one.all_correct_P, one.all_wrong_P) for one in self._verdicts]
        return Verdicts(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    @property
    def informative(self) -> list[bool]:
        """Whether a group is informative, in order of generation."""
        return self.verdicts.informative_P.tolist() if self.rounds else []

    @property
    def generation_rounds(self) -> int:
        """How many rounds were generated for this batch; carried groups do not count as one."""
        return sum(not one.carried for one in self.rounds)

    @property
    def refill_rounds(self) -> int:
        return max(self.generation_rounds - 1, 0)

    @property
    def carried_groups(self) -> int:
        """How many groups are carried over from an earlier rollout; they come first in the table."""
        return sum(len(one.rewards) for one in self.rounds if one.carried) // self.num_generations

    @property
    def prompts(self) -> list[tuple[Any, int]]:
        """The prompt of each group, as in [`Round`]."""
        return [prompt for one in self.rounds for prompt in one.prompts]

    @property
    def new_rows(self) -> slice:
        """The rows of [`~Candidates.column`] that were generated for this batch."""
        return slice(self.carried_groups * self.num_generations, None)

    def column(self, name: str) -> torch.Tensor:
        """Returns a row tensor of [`Round`], such as `rewards` or `lengths`, over all rounds and ranks."""
        return torch.cat([getattr(one, name) for one in self.rounds])

    def row_numbers(self, groups: list[int]) -> list[int]:
        """Returns the rows of these groups, as indices into [`~Candidates.column`]."""
        return [group * self.num_generations + offset for group in groups for offset in range(self.num_generations)]

    def surplus(self, selection: Selection) -> list[int]:
        """Returns the informative groups that are not among the selected ones, the latest first."""
        chosen = set(selection.groups)
        spare = [group for group, teaches in enumerate(self.informative) if teaches and group not in chosen]
        return spare[::-1]

    def in_rank_order(self, selection: Selection) -> Selection:
        """Returns the same groups, ordered by the rank that generated them so that few rows have to move."""
        pairs = sorted(
            zip(selection.groups, selection.filler, strict=True),
            key=lambda pair: self._owner(pair[0] * self.num_generations)[0],
        )
        return Selection(groups=[group for group, _ in pairs], filler=[filler for _, filler in pairs])

    def own_rows(self, groups: list[int], rank: int) -> list[Row]:
        """Returns the rows of these groups that this process, `rank`, trains on. All ranks must call it together."""
        numbers = self.row_numbers(groups)
        share = len(numbers) // self.num_processes
        rows: list[Row | None] = []
        sources: list[tuple[int, int]] = []
        for position, number in enumerate(numbers):
            owner, index = self._owner(number)
            rows.append(self.rounds[self._addresses[number].round].rows[index] if owner == rank else None)
            sources.append((owner, position // share))
        return own_rows(rows, sources, rank)

    def kept_shares(self, groups: list[int]) -> list[int]:
        """Returns how many rows of these groups each round contributed."""
        rounds = [self._addresses[number].round for number in self.row_numbers(groups)]
        return [rounds.count(index) for index in range(len(self.rounds))]

    def _owner(self, number: int) -> tuple[int, int]:
        """Returns the rank that generated a row, and the row's index there."""
        address = self._addresses[number]
        return divmod(address.position, len(self.rounds[address.round].rewards) // self.num_processes)
