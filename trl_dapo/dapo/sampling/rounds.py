"""
How a round of candidates leaves the host before it is scored by the model, and how kept rows are handed back to it.

A candidate round is the host's own pass, left once the rewards are known. Later one ordinary pass of the host runs
with generation and rewards replayed from the kept rows, so that log-probs, advantages, denominators and logs remain
the host's.
The invariant: between two passes nothing of a round is left in the trainer.
"""

from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather
from trl.trainer.utils import pad

from .. import logs
from ..length_penalty import ShapedRewardsTrainer
from . import environments
from .candidates import Candidates
from .groups import Selection
from .rollouts import Generation, Round, Row, merged_extra_logs, merged_generation


logger = get_logger(__name__)


class _RoundScored(Exception):
    """Leaves the host's pass once a candidate round has its rewards."""


@dataclass(frozen=True)
class _Replay:
    generation: Generation
    rewards: torch.Tensor


class ReplayingTrainer(ShapedRewardsTrainer):
    """[`~shaping.ShapedRewardsTrainer`] that can generate and score rows without training on them, and train on them
    later."""

    # Optional in the host's types, never in fact
    num_generations: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._round: Round | None = None
        self._replay: _Replay | None = None
        self._resting_environments: environments.Pool = {}
        super().__init__(*args, **kwargs)

    # Seams of the host

    def _generate(self, prompts: list) -> Generation:
        if self._replay is not None:
            return self._replay.generation
        generation = super()._generate(prompts)
        if self._round is not None:
            self._round.record_generation(prompts, generation)
        return generation

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *rest, **kwargs):
        if self._round is not None and not self._round.keeps_going:
            # Of a candidate, only the rewards are needed; most of what dynamic sampling drops is never scored
            return torch.zeros_like(input_ids[:, -logits_to_keep:], dtype=torch.float32), None, None
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *rest, **kwargs
        )

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> torch.Tensor:
        if self._replay is not None:
            return self._replay.rewards
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self._round is not None:
            self._record_scores(self._round, inputs, rewards)
            if not self._round.keeps_going:
                raise _RoundScored
        return rewards

    # Rounds

    def _run_watched(self, inputs: list[dict[str, Any]]) -> tuple[dict[str, Any], Round]:
        """Runs the host's pass as it is; returns its output and what was generated in it."""
        watched = self._round = Round(keeps_going=True)
        try:
            return super()._generate_and_score_completions(inputs), watched
        finally:
            self._round = None

    def _run_candidate_round(self, inputs: list[dict[str, Any]]) -> Round:
        """Runs the host's pass up to the rewards; what it logs on the way is kept apart."""
        finished = self._round = Round(keeps_going=False)
        logged, self._metrics["train"] = self._metrics["train"], defaultdict(list)
        try:
            super()._generate_and_score_completions(inputs)
        except _RoundScored:
            return finished
        finally:
            finished.host_metrics, self._metrics["train"] = self._metrics["train"], logged
            self._round = None
        raise RuntimeError("GRPOTrainer finished a candidate round without calculating rewards")

    def _record_scores(self, finished: Round, inputs: list[dict[str, Any]], rewards: torch.Tensor) -> None:
        finished.record_inputs(inputs, self.environments)
        finished.rewards = rewards.cpu()
        ends = {*vars(self).get("eos_token_ids", [self._tokenizer.eos_token_id]), self._tokenizer.pad_token_id}
        facts = [[row.trained_length, row.completion_ids[-1] not in ends] for row in finished.rows]
        facts = gather(torch.tensor(facts, device=self.accelerator.device)).cpu()
        finished.lengths, finished.truncated = facts[:, 0], facts[:, 1].bool()
        finished.steps = torch.full_like(finished.lengths, self.state.global_step)
        if not finished.keeps_going:
            for column in finished.record_extra_logs(self._pending_extra_logs):
                logger.warning_once(f"`log_extra` column {column!r} is dropped: it has not one value per completion.")
            finished.user_metrics = dict(self._pending_metrics)
            self._pending_extra_logs.clear()
            self._pending_metrics.clear()

    # Replay

    def _score_kept(self, candidates: Candidates, selection: Selection, rows: list[Row]) -> dict[str, Any]:
        """One ordinary pass of the host over the kept rows, with generation and rewards replayed."""
        rank = self.accelerator.process_index
        numbers = candidates.row_numbers(selection.groups)
        mine = slice(rank * len(rows), (rank + 1) * len(rows))
        filler = [drop for drop in selection.filler for _ in range(self.num_generations)]
        rewards = candidates.column("rewards")[numbers].to(self.accelerator.device)
        self._log_host_metrics(candidates, selection)
        self._pending_extra_logs.update(merged_extra_logs(rows))
        self._replay = _Replay(merged_generation(rows, filler[mine]), rewards)
        try:
            with self._finished_environments(rows):
                output = super()._generate_and_score_completions([row.replay_inputs() for row in rows])
        finally:
            self._replay = None
        if any(filler):
            # A length penalty gives degenerate groups an advantage of their own
            output["advantages"][torch.tensor(filler[mine], device=output["advantages"].device)] = 0.0
            logged: Any = self._logs["advantages"]
            for position, drop in enumerate(filler):
                if drop:
                    logged[position - len(filler)] = 0.0
        return output

    def _log_host_metrics(self, candidates: Candidates, selection: Selection) -> None:
        """Gives TRL's own keys the kept rows' values, once."""
        for name, value in logs.host_metrics(candidates, selection.groups).items():
            self._metrics["train"][name].append(value)
        self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]
        for name, value in logs.user_metrics(candidates, selection.groups).items():
            self._pending_metrics[name] = [value]

    # Log-probs of rows that an older policy generated

    def _with_own_logps(self, rows: list[Row]) -> list[Row]:
        """Returns the rows, each with the log-probs of the policy that generated it, which for new ones is today's."""
        pad_token_id, device = self._tokenizer.pad_token_id, self.accelerator.device
        prompts = [torch.tensor(row.prompt_ids, device=device) for row in rows]
        completions = [torch.tensor(row.completion_ids, device=device) for row in rows]
        logps = self._logps(
            pad(prompts, padding_value=pad_token_id, padding_side="left"),
            pad([torch.ones_like(ids) for ids in prompts], padding_value=0, padding_side="left"),
            pad(completions, padding_value=pad_token_id, padding_side="right"),
            pad([torch.ones_like(ids) for ids in completions], padding_value=0, padding_side="right"),
        )
        today = [values[: len(row.completion_ids)].tolist() for row, values in zip(rows, logps, strict=True)]
        return [
            replace(row, behaviour_logps=values) if row.behaviour_logps is None else row
            for row, values in zip(rows, today, strict=True)
        ]

    def _with_behaviour_logps(self, output: dict[str, Any], rows: list[Row], carried: int) -> dict[str, Any]:
        """
        Returns the output with importance ratios of carried rows taken against the policy that generated them.

        With vLLM's importance sampling correction nothing is changed: TRL corrects from the sampled log-probs on.
        """
        if not carried or (self.use_vllm and self.vllm_importance_sampling_correction):
            return output
        if "old_per_token_logps" not in output:
            columns = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
            output["old_per_token_logps"] = self._logps(*(output[name] for name in columns))
        for old, row in zip(output["old_per_token_logps"], rows, strict=True):
            if row.behaviour_logps is not None:
                old[: len(row.behaviour_logps)] = torch.tensor(row.behaviour_logps)
        return output

    def _logps(self, prompt_ids, prompt_mask, completion_ids, completion_mask) -> torch.Tensor:
        """Returns today's log-probs of the completions' tokens, shape `(B, T)`."""
        with torch.no_grad():
            logps, _, _ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([prompt_ids, completion_ids], dim=1),
                torch.cat([prompt_mask, completion_mask], dim=1),
                completion_ids.size(1),
                batch_size=self.args.per_device_train_batch_size,
            )
        return logps

    # Environments

    def _set_kept_environments_aside(self, finished: Round, informative_P: torch.Tensor) -> None:
        share = len(finished.rows)
        kept_B = informative_P.repeat_interleave(self.num_generations)
        mine = kept_B[self.accelerator.process_index * share :][:share].tolist()
        instances = [row.environment for row, kept in zip(finished.rows, mine, strict=True) if kept]
        self._environment_pool, aside = environments.set_aside(self._environment_pool, instances)
        self._resting_environments = environments.merged(self._resting_environments, aside)

    @contextmanager
    def _finished_environments(self, rows: list) -> Generator[None]:
        """Lets the host pass over the rows without resetting anything; afterwards their environments are in place."""
        if self.environment_factories is None:
            yield
            return
        pool = environments.merged(self._resting_environments, self._environment_pool)
        self._resting_environments = {}
        names = [row.inputs.get("environment") if self._multi_environment else None for row in rows]
        self._environment_pool = environments.finished(names)
        try:
            yield
        finally:
            self._environment_pool = pool
            self.environments = [row.environment for row in rows]
