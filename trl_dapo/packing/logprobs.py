"""
TRL's passes without gradient, packed: log-probs of the policy that generated a rollout, and of the reference.

TRL runs them in the order of arrival, each as wide as the longest row of the rollout. Rows are packed by length here,
and where that costs less, the prompt of a group is read once. The invariant: each row has the log-probs, in its own
place, that TRL's pass would give it.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel
from trl import GRPOTrainer as HostTrainer

from ..grpo.config import GRPOConfig
from .accumulation_window import LogProbs
from .bins import Widths, pack, pack_within
from .positions import backbone_of, counted_from, numbers_columns, with_inputs
from .rows import Batch, joined, rows_of, widths
from .shared_prompts import can_share, going_on_from, prompt_numbers, read_prompts


# Sharing prompts is worth its bookkeeping where it leaves at most this share of the tokens
SHARED = 0.8


class PackedPassesTrainer(HostTrainer):
    """[`~trl.GRPOTrainer`] whose passes without gradient are packed by length, where its config says so."""

    args: GRPOConfig
    # Optional in the host's types, never in fact
    model: PreTrainedModel
    pad_to_multiple_of: int | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._by_column: dict[PreTrainedModel, bool] = {}
        super().__init__(*args, **kwargs)

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **kwargs
    ) -> LogProbs:
        host = super()._get_per_token_logps_and_entropies
        if batch_size is None or torch.is_grad_enabled() or not self.model.training or not self._compacts:
            return host(model, input_ids, attention_mask, logits_to_keep, batch_size=batch_size, **kwargs)
        given = {"input_ids": input_ids, "attention_mask": attention_mask, **kwargs}
        batch = joined([{key: value for key, value in given.items() if value is not None}])
        return self._scored(Scoring(host, model, batch, logits_to_keep, self.pad_to_multiple_of), batch_size)

    @property
    def _compacts(self) -> bool:
        return self.args.compacts and not self.aux_loss_enabled

    @property
    def _is_sharded(self) -> bool:
        """Whether a pass is an exchange with other processes, and inner modules cannot be called alone."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def _agreed(self, wishes: list[int]) -> list[int]:
        """Returns the largest of each number over all processes, which run as many passes as one another."""
        local = torch.tensor([wishes], device=self.accelerator.device)
        return self.accelerator.gather(local).amax(dim=0).tolist()

    def _numbers_columns(self, model) -> bool:
        """Whether a token's position is its column, so that a model has to be told of columns that are cut."""
        unwrapped: Any = self.accelerator.unwrap_model(model)
        if unwrapped not in self._by_column:
            # A sharded model has to be called as a whole
            tried = unwrapped if self._is_sharded else backbone_of(unwrapped)
            # Vision-language models tell the positions of text and images by the attention mask
            with self.accelerator.autocast():
                self._by_column[unwrapped] = not self._is_vlm and numbers_columns(tried)
        return self._by_column[unwrapped]

    @contextmanager
    def _positions_from(self, model, first: int) -> Generator[None]:
        """Lets the model's first column have the position `first`, where it would call it 0."""
        # Asked first of all, since processes that share a model try it together
        told = self._numbers_columns(model) and first > 0
        backbone = backbone_of(self.accelerator.unwrap_model(model))
        with with_inputs(backbone, counted_from(first)) if told else nullcontext():
            yield

    # A pass

    def _scored(self, scoring: "Scoring", batch_size: int) -> LogProbs:
        if self._shares(scoring):
            self._score_groups(scoring, self.args.max_tokens_per_microbatch or batch_size * sum(scoring.full))
        else:
            self._score(scoring, batch_size)
        return scoring.scores()

    def _planned(self, scoring: "Scoring", batch_size: int) -> list[list[int]]:
        """Returns the rows of each pass; where the model is sharded, as many passes as on every other process."""
        limit = self.args.max_tokens_per_microbatch
        wanted = [scoring.sides[row] for row in scoring.rows]
        most = min(-(-len(scoring.sides) // batch_size), len(wanted))
        count = most if limit is None else len(pack_within(wanted, limit))
        if self._is_sharded:
            (count,) = self._agreed([count])
        plan = [[scoring.rows[place] for place in places] for places in pack(wanted, count)]
        return plan + [[0]] * (count - len(plan))

    def _score(self, scoring: "Scoring", batch_size: int) -> None:
        for rows in self._planned(scoring, batch_size):
            left, right = scoring.widest(rows)
            part = rows_of(scoring.batch, rows, (left, right), scoring.full)
            with self._positions_from(scoring.model, scoring.full[0] - left):
                scoring.run(rows, part, right)

    def _shares(self, scoring: "Scoring") -> bool:
        """Whether reading the prompt of each group once is possible and pays."""
        text_alone = {key for key, value in scoring.batch.items() if isinstance(value, torch.Tensor | list)}
        if self._is_vlm or self._is_sharded or text_alone != {"input_ids", "attention_mask"} or scoring.full[0] < 2:
            return False
        alone = sum(sum(scoring.sides[row]) for row in scoring.rows)
        prompts = sum(scoring.sides[rows[0]][0] for rows in scoring.groups())
        shared = prompts + sum(1 + scoring.sides[row][1] for row in scoring.rows)
        backbone = backbone_of(self.accelerator.unwrap_model(scoring.model))
        return shared <= SHARED * alone and self._numbers_columns(scoring.model) and can_share(backbone)

    def _score_groups(self, scoring: "Scoring", limit: int) -> None:
        """Scores the rows with each prompt read once; prompts that are kept at a time hold at most `limit` tokens."""
        backbone = backbone_of(self.accelerator.unwrap_model(scoring.model))
        ids, mask, (columns, _) = scoring.batch["input_ids"], scoring.batch["attention_mask"], scoring.full
        groups = scoring.groups()
        for places in pack_within([(scoring.sides[rows[0]][0], 0) for rows in groups], limit):
            block = [groups[place] for place in places]
            left = max(2, max(scoring.sides[rows[0]][0] for rows in block))
            prompts, firsts = slice(columns - left, columns), [rows[0] for rows in block]
            with self.accelerator.autocast():
                prefix = read_prompts(backbone, ids[firsts, prompts], mask[firsts, prompts], columns - left)
            members = [(row, number) for number, rows in enumerate(block) for row in rows]
            for chosen in pack_within([(left, scoring.sides[row][1]) for row, _ in members], limit):
                rows, numbers = zip(*(members[place] for place in chosen), strict=True)
                right = max(scoring.sides[row][1] for row in rows)
                part = rows_of(scoring.batch, rows, (1, right), scoring.full)
                with with_inputs(backbone, going_on_from(backbone, prefix, torch.tensor(numbers, device=ids.device))):
                    scoring.run(list(rows), part, right)


class Scoring:
    """
    One pass of the host: what it is given, and the scores that were found.

    Attributes:
        sides (`list[tuple[int, int]]`):
            Tokens of prompt and completion of each of the B rows.
        rows (`list[int]`):
            Rows of which a token of the completion is attended to; the others are scored 0.
        full (`tuple[int, int]`):
            Columns of prompt and completion.
    """

    def __init__(self, host: Any, model: Any, batch: Batch, tokens: int, multiple: int | None) -> None:
        self.host, self.model, self.batch = host, model, batch
        self.full = (batch["input_ids"].size(1) - tokens, tokens)
        prompt_mask, completion_mask = batch["attention_mask"].split(self.full, dim=1)
        self.sides = widths(prompt_mask, completion_mask, multiple)
        self.rows: list[int] = completion_mask.any(dim=1).nonzero().flatten().tolist()
        self._logps: torch.Tensor | None = None
        self._entropies: torch.Tensor | None = None

    def groups(self) -> list[list[int]]:
        """Returns the rows to score, those of one prompt together."""
        ids, mask = (self.batch[name][:, : self.full[0]] for name in ("input_ids", "attention_mask"))
        numbers = prompt_numbers(ids, mask).tolist()
        found: dict[int, list[int]] = {}
        for row in self.rows:
            found.setdefault(numbers[row], []).append(row)
        return list(found.values())

    def widest(self, rows: Sequence[int]) -> Widths:
        """Returns the widest prompt and the widest completion of some rows."""
        return max(self.sides[row][0] for row in rows), max(self.sides[row][1] for row in rows)

    def run(self, rows: list[int], part: Batch, tokens: int) -> None:
        """Lets the host score a part of the batch, and notes the scores of its rows."""
        logps, entropies, _ = self.host(self.model, part.pop("input_ids"), part.pop("attention_mask"), tokens, **part)
        self._logps = self._noted(self._logps, rows, logps)
        if entropies is not None:
            self._entropies = self._noted(self._entropies, rows, entropies)

    def scores(self) -> LogProbs:
        """Returns log-probs and, where asked for, entropies, each of shape `(B, T)`."""
        if self._logps is None:
            self._logps = torch.zeros(len(self.sides), self.full[1], device=self.batch["input_ids"].device)
        return self._logps, self._entropies, None

    def _noted(self, whole: torch.Tensor | None, rows: list[int], values: torch.Tensor) -> torch.Tensor:
        if whole is None:
            whole = values.new_zeros(len(self.sides), self.full[1])
        whole[rows, : values.size(1)] = values
        return whole
