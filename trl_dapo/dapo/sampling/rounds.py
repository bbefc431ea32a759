"""
How a round of candidates leaves TRL's pass before the model scores it, and how kept rows are handed back.

A candidate round is TRL's own pass, left once the rewards are known. Later, one ordinary pass of TRL's runs with
generation and rewards replayed from the kept rows, so that log-probs, advantages, denominators and logs remain TRL's.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather

from ...host.passes import Pass
from .. import logs
from . import environments
from .candidates import Candidates
from .groups import Selection
from .rollouts import Generation, Round, Row, merged_extra_logs, merged_generation


logger = get_logger(__name__)


class RoundScored(Exception):
    """Leaves TRL's pass once a candidate round has its rewards."""


class WatchedPass(Pass):
    """TRL's pass as it is, with what is generated noted in a [`Round`]."""

    def __init__(self, trainer: Any, noted: Round) -> None:
        self._trainer, self.round = trainer, noted

    def generation(self, host: Callable, prompts: list) -> Generation:
        generation = host(prompts)
        self.round.record_generation(prompts, generation)
        return generation

    def rewards(self, host: Callable[[], torch.Tensor], inputs: list[dict[str, Any]]) -> torch.Tensor:
        rewards = host()
        _record_scores(self._trainer, self.round, inputs, rewards)
        return rewards


class CandidatePass(WatchedPass):
    """TRL's pass up to the rewards."""

    def logps(self, host: Callable, model: Any, input_ids: torch.Tensor, attention_mask, logits_to_keep, *_, **__):
        # Of a candidate, only the rewards are needed; most of what dynamic sampling drops is never scored
        return torch.zeros_like(input_ids[:, -logits_to_keep:], dtype=torch.float32), None, None

    def rewards(self, host: Callable[[], torch.Tensor], inputs: list[dict[str, Any]]) -> torch.Tensor:
        super().rewards(host, inputs)
        _take_what_functions_logged(self._trainer, self.round)
        raise RoundScored


class ReplayPass(Pass):
    """TRL's pass over rows that are generated and rewarded already."""

    def __init__(self, generation: Generation, rewards: torch.Tensor) -> None:
        self._generation, self._rewards = generation, rewards

    def generation(self, host: Callable, prompts: list) -> Generation:
        return self._generation

    def rewards(self, host: Callable[[], torch.Tensor], inputs: list[dict[str, Any]]) -> torch.Tensor:
        return self._rewards


class Rounds:
    """
    Passes over rows that are not trained on, or not yet.

    Args:
        trainer ([`~host.seams.Seams`]):
            What generates and scores.
        host (`Callable`):
            TRL's `_generate_and_score_completions`, bound to the trainer.
    """

    def __init__(self, trainer: Any, host: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self._trainer, self._host = trainer, host
        self._resting: environments.Pool = {}  # environments whose episodes are kept

    def run_watched(self, inputs: list[dict[str, Any]]) -> tuple[dict[str, Any], Round]:
        """Runs TRL's pass as it is; returns its output and what was generated in it."""
        with self._trainer.in_charge(WatchedPass(self._trainer, Round(keeps_going=True))) as watched:
            return self._host(inputs), watched.round

    def run_candidates(self, inputs: list[dict[str, Any]]) -> Round:
        """Runs TRL's pass up to the rewards; what it logs on the way is kept apart."""
        trainer = self._trainer
        with (
            trainer.host.logging_apart() as logged,
            trainer.in_charge(CandidatePass(trainer, Round(keeps_going=False))) as candidate,
        ):
            try:
                self._host(inputs)
            except RoundScored:
                candidate.round.host_metrics = logged
                return candidate.round
        raise RuntimeError("GRPOTrainer finished a candidate round without calculating rewards")

    def train_on(self, candidates: Candidates, selection: Selection, rows: list[Row]) -> dict[str, Any]:
        """Runs one ordinary pass of TRL's over the kept rows of this process, with generation and rewards replayed."""
        trainer = self._trainer
        numbers = candidates.row_numbers(selection.groups)
        first = trainer.accelerator.process_index * len(rows)
        filler = [drop for drop in selection.filler for _ in range(trainer.num_generations)]
        own_filler = filler[first : first + len(rows)]
        rewards = candidates.column("rewards")[numbers].to(trainer.accelerator.device)
        self._log_once(candidates, selection)
        trainer.host.pending_columns.update(merged_extra_logs(rows))
        seen = self._without_fillers(rewards, filler)
        with (
            trainer.in_charge(ReplayPass(merged_generation(rows, own_filler), seen)),
            self._finished_environments(rows),
        ):
            output = self._host([row.replay_inputs() for row in rows])
        if any(filler):
            # A length penalty gives degenerate groups an advantage of their own
            output["advantages"][torch.tensor(own_filler, device=output["advantages"].device)] = 0.0
            self._log_fillers(rewards, filler)
        return output

    def _without_fillers(self, rewards: torch.Tensor, filler: list[bool]) -> torch.Tensor:
        """
        Returns the rewards as the host must see them: where advantages are scaled over the whole batch, those of
        fillers are NaN, which the host leaves out of every mean and standard deviation.
        """
        trainer = self._trainer
        over_the_batch = (
            trainer.multi_objective_aggregation != "sum_then_normalize" or trainer.scale_rewards == "batch"
        )
        if not (over_the_batch and any(filler)):
            return rewards
        return rewards.masked_fill(torch.tensor(filler, device=rewards.device).unsqueeze(1), torch.nan)

    def _log_fillers(self, rewards: torch.Tensor, filler: list[bool]) -> None:
        """Gives the fillers in the completions table an advantage of 0 and the rewards that they got."""
        trainer, table = self._trainer, self._trainer.host.completions_table
        columns = [table["rewards"][name] for name in trainer.reward_func_names]
        for row in (row for row, drop in enumerate(filler) if drop):
            place = row - len(filler)
            table["advantages"][place] = 0.0
            for logged, reward in zip(columns, rewards[row].tolist(), strict=True):
                logged[place] = reward

    def set_kept_environments_aside(self, finished: Round, informative_P: torch.Tensor) -> None:
        """Takes the environments of a round's informative groups out of the pool, so that no later row resets them."""
        trainer = self._trainer
        if trainer.environments is None or finished.keeps_going:
            return
        share = len(finished.rows)
        kept_B = informative_P.repeat_interleave(trainer.num_generations)
        mine = kept_B[trainer.accelerator.process_index * share :][:share].tolist()
        instances = [row.environment for row, kept in zip(finished.rows, mine, strict=True) if kept]
        trainer.host.environment_pool, aside = environments.set_aside(trainer.host.environment_pool, instances)
        self._resting = environments.merged(self._resting, aside)

    def _log_once(self, candidates: Candidates, selection: Selection) -> None:
        """Gives TRL's own keys the kept rows' values, once."""
        host = self._trainer.host
        host.log(logs.host_metrics(candidates, selection.groups))
        host.metrics["train"]["num_tokens"] = [self._trainer.state.num_input_tokens_seen]
        for name, value in logs.user_metrics(candidates, selection.groups).items():
            host.pending_metrics[name] = [value]

    @contextmanager
    def _finished_environments(self, rows: list[Row]) -> Generator[None]:
        """Lets TRL pass over the rows without resetting anything; afterwards their environments are in place."""
        trainer = self._trainer
        if trainer.environment_factories is None:
            yield
            return
        pool = environments.merged(self._resting, trainer.host.environment_pool)
        self._resting = {}
        names = [trainer.host.environment_name(row.inputs) for row in rows]
        trainer.host.environment_pool = environments.finished(names)
        try:
            yield
        finally:
            trainer.host.environment_pool = pool
            trainer.environments = [row.environment for row in rows]


def _record_scores(trainer: Any, finished: Round, inputs: list[dict[str, Any]], rewards: torch.Tensor) -> None:
    finished.record_inputs(inputs, trainer.environments)
    finished.rewards = rewards.cpu()
    ends = set(trainer.host.end_ids)
    facts = [[row.trained_length, row.completion_ids[-1] not in ends] for row in finished.rows]
    facts = gather(torch.tensor(facts, device=trainer.accelerator.device)).cpu()
    finished.lengths, finished.truncated = facts[:, 0], facts[:, 1].bool()
    finished.steps = torch.full_like(finished.lengths, trainer.state.global_step)


def _take_what_functions_logged(trainer: Any, finished: Round) -> None:
    """Moves what the reward functions logged into the round, since only kept rows are to be logged."""
    columns, metrics = trainer.host.pending_columns, trainer.host.pending_metrics
    for column in finished.record_extra_logs(columns):
        logger.warning_once(f"`log_extra` column {column!r} is dropped: it has not one value per completion.")
    finished.user_metrics = dict(metrics)
    columns.clear()
    metrics.clear()
