"""
The rows of one optimizer step as TRL dealt them, and the micro-batches that are run in their place.

Knows tensors and rows, neither models nor losses. What was computed for a row is put back to where TRL's own
micro-batch has that row.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from .bins import Widths, pack, padded_tokens
from .padding import widths
from .rows import Batch, joined, live_rows, rows_of, without_loss


class LogProbs(NamedTuple):
    """What TRL's method for log-probabilities returns: two tensors of shape `(B, T)`, and the auxiliary loss."""

    logps: torch.Tensor
    entropies: torch.Tensor | None = None
    aux_loss: torch.Tensor | None = None


@dataclass(frozen=True)
class Counts:
    """
    How much was run for a window.

    Attributes:
        live_rows (`int`):
            Rows that can move the policy.
        rows (`int`):
            All rows.
        padded (`int`):
            Tokens that passed through the model, padding included.
        real (`int`):
            Tokens of the live rows.
    """

    live_rows: int
    rows: int
    padded: int
    real: int


@dataclass(frozen=True)
class MicroBatch:
    """
    Rows that pass through the model together.

    Attributes:
        inputs (`dict[str, Any]`):
            What the host's loss takes.
        rows (`list[int]`):
            Their numbers in the window; none for a stand-in, which keeps this process in step with the others.
        offset (`int`):
            Columns cut on the left.
        scale (`float`):
            Factor of the host's loss: where that is a mean over rows, the share of TRL's micro-batch that they are.
    """

    inputs: Batch
    rows: list[int]
    offset: int
    scale: float


class Window:
    """
    The accumulation steps of one optimizer step that take their rows from one pass over one rollout.

    Attributes:
        host_batches (`list[dict[str, Any]]`):
            TRL's micro-batches, one per step, of equally many rows.
        batch (`dict[str, Any]`):
            Their rows in one batch of R rows and T completion tokens.
        live (`torch.Tensor`):
            Which rows can move the policy, shape `(R,)`.
        sides (`list[tuple[int, int]]`):
            Tokens of prompt and completion of each row.
        plan (`list[list[int]]` or `None`):
            Rows of each packed micro-batch; `None` where TRL's own are run.
        turns (`list[range]`):
            Micro-batches that each accumulation step runs.
    """

    def __init__(self, host_batches: list[Batch], multiple: int | None, needs_advantage: bool) -> None:
        self.host_batches = host_batches
        self.batch = joined(host_batches)
        self.live = live_rows(self.batch, needs_advantage)
        self.sides = widths(self.batch["prompt_mask"], self.batch["completion_mask"], multiple)
        self.plan: list[list[int]] | None = None
        self.turns = [range(step, step + 1) for step in range(len(host_batches))]
        self.steps_done = 0
        shape = self.batch["completion_ids"].shape
        # A row that is left out has the ratio 1
        self.logps = self.batch["completion_ids"].new_zeros(shape, dtype=torch.float32)
        if "old_per_token_logps" in self.batch:
            self.logps = self.batch["old_per_token_logps"].clone()
        self.entropies = torch.zeros_like(self.logps)

    @property
    def live_numbers(self) -> list[int]:
        """Numbers of the rows that can move the policy."""
        return self.live.nonzero().flatten().tolist()

    @property
    def host_rows(self) -> int:
        """Rows of each of TRL's micro-batches."""
        return len(self.host_batches[0]["completion_ids"])

    @property
    def full(self) -> Widths:
        """Columns of prompt and completion."""
        return self.batch["prompt_ids"].size(1), self.batch["completion_ids"].size(1)

    def packed(self, count: int) -> list[list[int]]:
        """Returns the live rows in at most `count` micro-batches."""
        numbers = self.live_numbers
        packed = pack([self.sides[row] for row in numbers], count)
        return [[numbers[place] for place in places] for places in packed]

    def microbatch(self, number: int, averages_rows: bool) -> MicroBatch:
        """Returns a micro-batch of the plan, or a stand-in where the plan has fewer."""
        plan = self.plan or []
        if number >= len(plan):
            row = min(range(len(self.sides)), key=lambda row: self.sides[row][0])
            sides = (self.sides[row][0], 1)
            return MicroBatch(
                without_loss(rows_of(self.batch, [row], sides, self.full)), [], self.full[0] - sides[0], 1.0
            )
        rows = plan[number]
        sides = (max(self.sides[row][0] for row in rows), max(self.sides[row][1] for row in rows))
        scale = len(rows) / self.host_rows if averages_rows else 1.0
        return MicroBatch(rows_of(self.batch, rows, sides, self.full), rows, self.full[0] - sides[0], scale)

    def record(self, microbatch: MicroBatch, found: LogProbs) -> None:
        """Notes log-probs and entropies, each of shape `(rows, tokens)`, in the places of their rows."""
        logps, entropies, _ = found
        if microbatch.rows:
            self.logps[microbatch.rows, : logps.size(1)] = logps.detach().to(self.logps.dtype)
            if entropies is not None:
                self.entropies[microbatch.rows, : logps.size(1)] = entropies.detach().to(self.logps.dtype)

    def logps_of(self, step: int) -> LogProbs:
        """Returns log-probs and entropies of TRL's micro-batch of an accumulation step, each of shape `(B, T)`."""
        mine = slice(step * self.host_rows, (step + 1) * self.host_rows)
        return LogProbs(self.logps[mine], self.entropies[mine])

    def token_counts(self) -> torch.Tensor:
        """Returns the tokens in the loss by accumulation step, of rows that were run and of all: `(2, steps)`."""
        tokens = self.batch["completion_mask"] * self.batch.get("tool_mask", 1)
        counts = torch.stack([tokens * self.live.unsqueeze(1), tokens])
        return counts.view(2, len(self.host_batches), -1).sum(dim=2)

    def counts(self) -> Counts:
        """Returns how much was run."""
        if self.plan is None:
            padded = len(self.sides) * sum(self.full)
        else:
            padded = sum(padded_tokens([self.sides[row] for row in rows]) for rows in self.plan)
        real = sum(sum(self.sides[row]) for row in self.live_numbers)
        return Counts(int(self.live.sum()), len(self.sides), padded, real)
