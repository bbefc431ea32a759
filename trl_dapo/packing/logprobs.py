"""
TRL's passes without gradient, packed: log-probs of the policy that generated a rollout, and of the reference.

TRL runs them in the order of arrival, each as wide as the longest row of the rollout. Here rows are packed by length
and, where that costs less, the prompt of a group is read once. Each row has the log-probs, in its own place, that
TRL's pass would give it.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from .accumulation_window import LogProbs
from .bins import Widths, pack, pack_within
from .padding import widths
from .positions import backbone_of, counted_from, numbers_columns, with_inputs
from .rows import Batch, joined, rows_of
from .shared_prompts import can_share, going_on_from, prompt_numbers, read_prompts


# Sharing prompts is worth its bookkeeping where it leaves at most this share of the tokens
SHARED = 0.8


class PackedPasses:
    """
    Passes of a trainer's models, packed.

    Args:
        trainer ([`~host.seams.Seams`]):
            Its `accelerator`, `args` and `model` are used.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._by_column: dict[Any, bool] = {}

    def logps(
        self,
        host: Callable,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Returns log-probs and entropies, each of shape `(B, T)`; passes of the update are the host's."""
        if batch_size is None or torch.is_grad_enabled() or not self._trainer.model.training:
            return host(model, input_ids, attention_mask, logits_to_keep, batch_size=batch_size, **kwargs)
        given = {"input_ids": input_ids, "attention_mask": attention_mask, **kwargs}
        batch = joined([{key: value for key, value in given.items() if value is not None}])
        return self.run(PackedPass(host, model, batch, logits_to_keep, self._trainer.pad_to_multiple_of), batch_size)

    def run(self, one: "PackedPass", batch_size: int) -> LogProbs:
        """Runs a pass, `batch_size` rows of full width at a time at most, and returns what it found."""
        limit = self._trainer.args.max_tokens_per_microbatch or batch_size * sum(one.full)
        if not (self._shares(one) and self._run_groups(one, limit)):
            self._run_rows(one, batch_size)
        return one.found()

    @property
    def is_sharded(self) -> bool:
        """Whether a pass is an exchange with other processes, and inner modules cannot be called alone."""
        return self._trainer.is_fsdp_enabled or self._trainer.is_deepspeed_enabled

    @contextmanager
    def positions_from(self, model: Any, first: int) -> Generator[None]:
        """Lets the model's first column have the position `first`, where it would call it 0."""
        # Asked first of all, since processes that share a model try it together
        told = self._numbers_columns(model) and first > 0
        backbone = backbone_of(self._trainer.accelerator.unwrap_model(model))
        with with_inputs(backbone, counted_from(first)) if told else nullcontext():
            yield

    def _numbers_columns(self, model: Any) -> bool:
        """Whether a token's position is its column, so that a model has to be told of columns that are cut."""
        accelerator = self._trainer.accelerator
        unwrapped: Any = accelerator.unwrap_model(model)
        if unwrapped not in self._by_column:
            # A sharded model has to be called as a whole
            tried = unwrapped if self.is_sharded else backbone_of(unwrapped)
            # Vision-language models tell the positions of text and images by the attention mask
            with accelerator.autocast():
                self._by_column[unwrapped] = not self._trainer.host.is_multimodal and numbers_columns(tried)
        return self._by_column[unwrapped]

    def _planned(self, one: "PackedPass", batch_size: int) -> list[list[int]]:
        """Returns the rows of each pass; where the model is sharded, as many passes as on every other process."""
        limit = self._trainer.args.max_tokens_per_microbatch
        wanted = [one.sides[row] for row in one.rows]
        most = min(-(-len(one.sides) // batch_size), len(wanted))
        count = most if limit is None else len(pack_within(wanted, limit))
        if self.is_sharded:
            (count,) = largest_of_all(self._trainer.accelerator, count)
        plan = [[one.rows[place] for place in places] for places in pack(wanted, count)]
        return plan + [[0]] * (count - len(plan))

    def _run_rows(self, one: "PackedPass", batch_size: int) -> None:
        for rows in self._planned(one, batch_size):
            left, right = one.widest(rows)
            part = rows_of(one.batch, rows, (left, right), one.full)
            with self.positions_from(one.model, one.full[0] - left):
                one.run(rows, part, right)

    def _shares(self, one: "PackedPass") -> bool:
        """Whether reading the prompt of each group once is possible and pays."""
        text_alone = {key for key, value in one.batch.items() if isinstance(value, torch.Tensor | list)}
        if self._trainer.host.is_multimodal or self.is_sharded or one.full[0] < 2:
            return False
        if text_alone != {"input_ids", "attention_mask"}:
            return False
        alone = sum(sum(one.sides[row]) for row in one.rows)
        prompts = sum(one.sides[rows[0]][0] for rows in one.groups())
        shared = prompts + sum(1 + one.sides[row][1] for row in one.rows)
        backbone = backbone_of(self._trainer.accelerator.unwrap_model(one.model))
        return shared <= SHARED * alone and self._numbers_columns(one.model) and can_share(backbone)

    def _run_groups(self, one: "PackedPass", limit: int) -> bool:
        """
        Runs the rows with each prompt read once; prompts that are kept at a time hold at most `limit` tokens.

        Returns whether it did: a model that keeps nothing of what it has read cannot go on from it.
        """
        accelerator = self._trainer.accelerator
        backbone = backbone_of(accelerator.unwrap_model(one.model))
        ids, mask, (columns, _) = one.batch["input_ids"], one.batch["attention_mask"], one.full
        groups = one.groups()
        for places in pack_within([(one.sides[rows[0]][0], 0) for rows in groups], limit):
            block = [groups[place] for place in places]
            left = max(2, max(one.sides[rows[0]][0] for rows in block))
            prompts, firsts = slice(columns - left, columns), [rows[0] for rows in block]
            with accelerator.autocast():
                prefix = read_prompts(backbone, ids[firsts, prompts], mask[firsts, prompts], columns - left)
            if prefix is None:
                return False
            members = [(row, number) for number, rows in enumerate(block) for row in rows]
            for chosen in pack_within([(left, one.sides[row][1]) for row, _ in members], limit):
                rows, numbers = zip(*(members[place] for place in chosen), strict=True)
                right = max(one.sides[row][1] for row in rows)
                part = rows_of(one.batch, rows, (1, right), one.full)
                with with_inputs(backbone, going_on_from(backbone, prefix, torch.tensor(numbers, device=ids.device))):
                    one.run(list(rows), part, right)
        return True


class PackedPass:
    """
    One pass without gradient: what the host was given, and the log-probs that were found.

    Args:
        host (`Callable`):
            Gives log-probs and entropies of a part, as the host's method does.
        model (`Any`):
            What the host calls.
        batch (`dict[str, Any]`):
            Its inputs, B rows.
        tokens (`int`):
            Columns of the completion, T.
        multiple (`int`, *optional*):
            What the host pads to a multiple of.

    Attributes:
        sides (`list[tuple[int, int]]`):
            Tokens of prompt and completion of each row.
        rows (`list[int]`):
            Rows of which a token of the completion is attended to; the others have log-probs of 0.
        full (`tuple[int, int]`):
            Columns of prompt and completion.
    """

    def __init__(self, host: Callable, model: Any, batch: Batch, tokens: int, multiple: int | None) -> None:
        self.host, self.model, self.batch = host, model, batch
        self.full = (batch["input_ids"].size(1) - tokens, tokens)
        prompt_mask, completion_mask = batch["attention_mask"].split(self.full, dim=1)
        self.sides = widths(prompt_mask, completion_mask, multiple)
        self.rows: list[int] = completion_mask.any(dim=1).nonzero().flatten().tolist()
        self._logps: torch.Tensor | None = None
        self._entropies: torch.Tensor | None = None

    def groups(self) -> list[list[int]]:
        """Returns the rows to run, those of one prompt together."""
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
        """Lets the host run a part of the batch, and notes what it finds for its rows."""
        logps, entropies, _ = self.host(self.model, part.pop("input_ids"), part.pop("attention_mask"), tokens, **part)
        self._logps = self._noted(self._logps, rows, logps)
        if entropies is not None:
            self._entropies = self._noted(self._entropies, rows, entropies)

    def found(self) -> LogProbs:
        """Returns log-probs and, where asked for, entropies, each of shape `(B, T)`."""
        if self._logps is None:
            self._logps = torch.zeros(len(self.sides), self.full[1], device=self.batch["input_ids"].device)
        return LogProbs(self._logps, self._entropies)

    def _noted(self, whole: torch.Tensor | None, rows: list[int], values: torch.Tensor) -> torch.Tensor:
        if whole is None:
            whole = values.new_zeros(len(self.sides), self.full[1])
        whole[rows, : values.size(1)] = values
        return whole


def largest_of_all(accelerator: Any, *numbers: int) -> list[int]:
    """Returns the largest of each number over all processes, which must all call it."""
    local = torch.tensor([numbers], device=accelerator.device)
    return accelerator.gather(local).amax(dim=0).tolist()
