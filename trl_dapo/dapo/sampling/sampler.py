"""
Dynamic sampling: rounds of new prompts until the batch has enough informative groups, or the rounds are spent.

Which groups are informative is in `groups`, how large a round is in `refill`, which prompts it gets in `prompts`, how
it is generated in `rounds`. All processes decide from numbers that they share, so they decide alike.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.logging import get_logger

from ...grpo.batch_size import too_few_prompts
from ..config import DAPOConfig
from ..raw_metric import RawMetric
from .candidates import Candidates
from .groups import Selection, judge_groups, select_groups
from .history import PromptHistory
from .prompts import PromptStream, StreamedPrompt
from .refill import FIRST_QUANTILE, QUANTILE, KeepRate, largest_round, round_size
from .rollouts import Round, Row
from .rounds import Rounds
from .surplus import Surplus
from .tally import Tally


logger = get_logger(__name__)


@dataclass(frozen=True)
class SettledBatch:
    """
    What a rollout trains on.

    Attributes:
        candidates ([`Candidates`]):
            All that was generated for it.
        selection ([`Selection`]):
            The groups that are trained on.
        rows (`list[Row]`):
            Their rows on this process.
    """

    candidates: Candidates
    selection: Selection
    rows: list[Row]


class DynamicSampler:
    """
    Settles which groups a rollout trains on.

    Args:
        trainer ([`~host.seams.Seams`]):
            What generates and trains.
        rounds ([`Rounds`]):
            Its rounds.
        raw_metric ([`RawMetric`]):
            What says whether a group is informative.
        stream ([`PromptStream`]):
            Prompts for the rounds.
        history ([`PromptHistory`]):
            What prompts taught so far; the one that `stream` looks at.
        tally ([`Tally`]):
            Where exhaustions are counted.

    Attributes:
        keep_rate ([`KeepRate`]):
            Share of generated groups that are informative.
        surplus ([`Surplus`]):
            Groups for the next rollout.
    """

    def __init__(
        self,
        trainer: Any,
        rounds: Rounds,
        raw_metric: RawMetric,
        stream: PromptStream,
        history: PromptHistory,
        tally: Tally,
    ) -> None:
        self._trainer, self._rounds, self._raw_metric, self._tally = trainer, rounds, raw_metric, tally
        self.restart(stream, history)

    def restart(self, stream: PromptStream, history: PromptHistory) -> None:
        """Forgets what earlier rollouts found, and draws from another stream with its history."""
        self.stream, self.history = stream, history
        self.keep_rate, self.surplus = KeepRate(), Surplus(self._trainer)

    @property
    def _args(self) -> DAPOConfig:
        return self._trainer.args

    @property
    def granule(self) -> int:
        """Groups whose rows divide evenly over the processes: each generates as many as the others in every round."""
        # vLLM's server mode relies on it
        processes = self._trainer.accelerator.num_processes
        return processes // math.gcd(processes, self._trainer.num_generations)

    def settle(self, num_rows: int) -> SettledBatch:
        """
        Generates until the batch is full or the rounds are spent.

        Args:
            num_rows (`int`):
                Rows that this process trains on.

        Raises:
            `RuntimeError`: At exhaustion, with `dynamic_sampling_on_exhaustion="raise"`.
            `ValueError`: Where the dataset has too few prompts.
        """
        accelerator = self._trainer.accelerator
        wanted = num_rows * accelerator.num_processes // self._trainer.num_generations
        candidates = self.generate(wanted)
        selection = candidates.in_rank_order(select_groups(candidates.informative, wanted))
        if any(selection.filler):
            self._tell_exhaustion(candidates, wanted)
        return SettledBatch(candidates, selection, candidates.own_rows(selection.groups, accelerator.process_index))

    def generate(self, wanted: int) -> Candidates:
        """Runs rounds of new prompts until `wanted` groups are informative, or no further round is allowed."""
        accelerator, generations = self._trainer.accelerator, self._trainer.num_generations
        candidates = self.empty_candidates()
        if self.surplus.round is not None:
            self.judge(candidates, self.surplus.round)
        self.stream.begin_batch(held=candidates.prompts)
        self.keep_rate.begin_rollout()
        self._tell_watch(candidates, wanted)
        while size := self.size_of_round(candidates, wanted):
            prompts = self.stream.take(size, self.granule)
            asked = min(size, wanted - candidates.carried_groups)
            if not candidates.generation_rounds and len(prompts) < asked:
                raise ValueError(too_few_prompts(len(prompts), self._args))
            if not prompts:
                break
            share = len(prompts) * generations // accelerator.num_processes
            first = accelerator.process_index * share
            inputs = self.stream.rows(prompts, generations, slice(first, first + share))
            self.judge(candidates, self._rounds.run_candidates(inputs))
            self._remember(candidates, prompts)
            self._tell_watch(candidates, wanted)
        self.history.end_rollout()
        return candidates

    def empty_candidates(self) -> Candidates:
        """Returns a table without a round."""
        return Candidates(self._trainer.num_generations, self._trainer.accelerator.num_processes)

    def judge(self, candidates: Candidates, finished: Round) -> None:
        """Adds a round to the table, with what its rewards say of each group."""
        generations = self._trainer.num_generations
        metric_B = self._raw_metric.of(finished.rewards)
        filtered = self._trainer.mask_truncated_completions
        live_B = ~finished.truncated if filtered else torch.ones_like(finished.truncated)
        verdicts = judge_groups(
            metric_B.view(-1, generations), live_B.view(-1, generations), self._args.dynamic_sampling_tolerance
        )
        candidates.add(finished, verdicts)
        self._rounds.set_kept_environments_aside(finished, verdicts.informative_P)

    def size_of_round(self, candidates: Candidates, wanted: int) -> int:
        """Returns how many groups to generate next; 0 where the batch is full or the rounds are spent."""
        kept, rounds = sum(candidates.informative), candidates.generation_rounds
        if kept >= wanted or rounds > self._args.max_refill_rounds:
            return 0
        limit = largest_round(wanted, self._args.max_round_batches, self.granule)
        quantile = QUANTILE if rounds else FIRST_QUANTILE
        return round_size(wanted - kept, self.keep_rate, quantile, self.granule, limit)

    def _tell_watch(self, candidates: Candidates, wanted: int) -> None:
        kept, most = min(sum(candidates.informative), wanted), 1 + self._args.max_refill_rounds
        self._trainer.watch.judged(kept, wanted, candidates.generation_rounds, most)

    def _remember(self, candidates: Candidates, prompts: list[StreamedPrompt]) -> None:
        """Notes the prompts of the last round, and counts it towards the keep-rate and their history."""
        candidates.rounds[-1].prompts = [(prompt.identity, prompt.epoch) for prompt in prompts]
        informative = candidates.informative[-len(prompts) :]
        self.keep_rate.observe(sum(informative), len(informative))
        metric_PG = self._raw_metric.of(candidates.rounds[-1].rewards).view(-1, self._trainer.num_generations)
        scored_PG = metric_PG.isfinite()
        right_P, scored_P = (scored_PG & (metric_PG > 0)).sum(dim=1).tolist(), scored_PG.sum(dim=1).tolist()
        for prompt, right, scored, teaches in zip(prompts, right_P, scored_P, informative, strict=True):
            self.history.record(prompt.identity, right, scored - right, teaches)

    def _tell_exhaustion(self, candidates: Candidates, wanted: int) -> None:
        kept, generated = sum(candidates.informative), len(candidates.informative) - candidates.carried_groups
        message = (
            f"Dynamic sampling found {kept} of {wanted} informative groups among {generated} generated in "
            f"{candidates.generation_rounds} rounds at step {self._trainer.state.global_step}; "
            f"{candidates.column('truncated').double().mean():.0%} of their completions were truncated. "
        )
        if self._args.dynamic_sampling_on_exhaustion == "raise":
            raise RuntimeError(
                message + "Raise `max_refill_rounds`, use prompts of medium difficulty, or set "
                "dynamic_sampling_on_exhaustion='fill'."
            )
        self._tally.exhaustions += 1
        # Filtering without refills is meant to leave groups out; otherwise once, twice, four, eight... times
        if self._args.max_refill_rounds > 0 and self._tally.exhaustions.bit_count() == 1:
            logger.warning(
                message + f"The other {wanted - kept} stay out of the loss. `dapo/exhausted` counts how often; see "
                "`dapo/frac_all_correct`, `dapo/frac_all_wrong` and `dapo/overlong_frac` for why."
            )
