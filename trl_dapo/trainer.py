"""
`DAPOTrainer`: TRL's `GRPOTrainer` with a batch that is settled before TRL scores it.

Clip-higher, token-level loss and overlong filtering are TRL's own, switched on by [`DAPOConfig`]. What is added here
is dynamic sampling and the length penalty's column. Candidate rounds run TRL's generation and reward code and stop
there; then one ordinary pass of TRL's replays the kept rows, so that log-probs, advantages, denominators and logs
remain TRL's and are computed for what is trained on. The invariant: with every toggle off, each host method runs as it
stands.
"""

import inspect
import math
import textwrap
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather, gather_object
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from trl import GRPOConfig
from trl import GRPOTrainer as HostTrainer
from trl.trainer.utils import get_config_model_id, pad

from . import environments, logs
from .compat import check_host
from .config import PROMPT_SWITCHES, DAPOConfig, settled
from .grpo import GRPOTrainer
from .planning import check_dataset, too_few_prompts
from .rewards.columns import LENGTH_PENALTY, length_penalties, metric_columns
from .rewards.overlong import soft_overlong_punishment
from .sampling.candidates import Candidates
from .sampling.groups import Selection, judge_groups, raw_metric, select_groups
from .sampling.history import PromptHistory
from .sampling.prompts import Place, PromptStream
from .sampling.refill import FIRST_QUANTILE, QUANTILE, KeepRate, round_size
from .sampling.rollouts import Generation, Round, Row, merged_extra_logs, merged_generation
from .token_weights import checked_weights, padded, row_factors, weight_sums


logger = get_logger(__name__)


class _RoundScored(Exception):
    """Leaves the host's pass once a candidate round has its rewards."""


@dataclass(frozen=True)
class _Replay:
    generation: Generation
    rewards: torch.Tensor


class DAPOTrainer(GRPOTrainer):
    """
    Trainer for Decoupled Clip and Dynamic sAmpling Policy Optimization
    ([DAPO](https://huggingface.co/papers/2503.14476)).

    Takes the place of [`~trl.GRPOTrainer`] in any script: same arguments in the same order. A plain
    [`~trl.GRPOConfig`] is promoted to a [`DAPOConfig`], and the log says what changed.

    Example:

    ```python
    >>> from trl_dapo import DAPOTrainer
    >>> from trl.rewards import accuracy_reward
    >>> from datasets import load_dataset

    >>> trainer = DAPOTrainer(
    ...     model="Qwen/Qwen2.5-0.5B-Instruct",
    ...     reward_funcs=accuracy_reward,
    ...     train_dataset=load_dataset("trl-lib/DeepMath-103K", split="train"),
    ... )
    >>> trainer.train()
    ```

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Policy, as for [`~trl.GRPOTrainer`].
        reward_funcs (`RewardFunc | list[RewardFunc]`, *optional*):
            Reward functions, as for [`~trl.GRPOTrainer`]. Soft overlong punishment is added behind them.
        args ([`DAPOConfig`] or [`~trl.GRPOConfig`], *optional*):
            Configuration. If `None`, all of DAPO with default values.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`], *optional*):
            Prompts, as for [`~trl.GRPOTrainer`].
        *rest, **kwargs:
            All further arguments of [`~trl.GRPOTrainer`], from `eval_dataset` to `environment_factory`.
        token_importance_func (`Callable`, *optional*):
            Weights of tokens in the token-level loss: called with `prompts`, `completions`, `completion_ids` and one
            list per further column of the dataset, it returns one list of weights per completion, one weight of at
            least 0 per token. The loss is `sum_t(w_t * loss_t) / sum_t(w_t)`. By default all weights are 1.

    Attributes:
        completions_generated (`int`):
            Completions generated for training so far, by all processes, those of dropped groups included.
    """

    _tag_names = ["trl", "dapo"]  # noqa: RUF012
    _name = "DAPO"
    _paper = {  # noqa: RUF012
        "title": "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
        "id": "2503.14476",
        "citation": textwrap.dedent("""\
            @article{yu2025dapo,
                title        = {{DAPO: An Open-Source LLM Reinforcement Learning System at Scale}},
                author       = {Qiying Yu and Zheng Zhang and Ruofei Zhu and Yufeng Yuan and Xiaochen Zuo and others},
                year         = 2025,
                eprint       = {arXiv:2503.14476},
            }"""),
    }

    args: DAPOConfig  # ty: ignore[incompatible-mutable-override]
    # Optional in the host's types, never in fact
    model: PreTrainedModel
    num_generations: int
    max_completion_length: int
    train_dataset: Dataset | IterableDataset
    reward_processing_classes: list

    def __init__(
        self, model, reward_funcs=None, args=None, train_dataset=None, *rest, token_importance_func=None, **kwargs
    ) -> None:
        check_host()
        args = _as_dapo_config(model, args)
        if token_importance_func is not None:
            args.check_token_weights("token_importance_func")
        self._token_importance_func = token_importance_func
        self.reward_timeout = args.reward_timeout
        check_dataset(train_dataset, args)
        self._round: Round | None = None
        self._replay: _Replay | None = None
        self._rollout_seconds = 0.0
        self._update_seconds = 0.0
        self._exhaustions = 0
        self.completions_generated = 0
        self._last_rollout: dict[str, float] = {}
        self._keep_rate = KeepRate()
        self._surplus: Round | None = None
        self._resting_environments: environments.Pool = {}
        super().__init__(model, reward_funcs, args, train_dataset, *rest, **kwargs)
        self._adds_length_penalty = self._add_length_penalty()
        self._metric_columns = metric_columns(self.reward_func_names, args)
        # Placeholder rows of an environment that makes up its prompts are all alike
        self._prompts_differ = train_dataset is not None
        self._check_prompt_switches()
        self._stream = self._open_stream()
        for line in args.inert_parts():
            logger.warning(line)

    # Seams of the host, in the order in which a run passes through them

    def get_train_dataloader(self) -> DataLoader:
        # Called once per `train`, which starts the dataset from its beginning; with dynamic sampling the loader only
        # says how many batches a run has
        self._stream = self._open_stream()
        self._keep_rate = KeepRate()
        self._surplus = None
        return super().get_train_dataloader()

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return self._score_for_evaluation(inputs)
        started = time.perf_counter()
        output = self._train_on_settled(len(inputs)) if self.args.dynamic_sampling else self._train_on_all(inputs)
        self._rollout_seconds = time.perf_counter() - started
        self._log_rollout({"dapo/generation_seconds": self._slowest(self._rollout_seconds)})
        return output

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
        # The host warns of rows that no reward function applies to, and must not count the length penalty for that
        with self._only_user_rewards():
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self._adds_length_penalty:
            rewards = torch.cat([rewards, self._length_penalties(rewards, completion_ids_list)], dim=1)
        if self._round is not None:
            self._record_scores(self._round, inputs, rewards)
            if not self._round.keeps_going:
                raise _RoundScored
        return rewards

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        started, self._rollout_seconds = time.perf_counter(), 0.0
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._update_seconds += time.perf_counter() - started - self._rollout_seconds
        if self._step % self.current_gradient_accumulation_steps == 0:
            self._log_rollout({"dapo/update_seconds": self._slowest(self._update_seconds)})
            self._update_seconds = 0.0
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # A rollout feeds several updates; those after the first would have no `dapo/*` keys
        if self.model.training and "train_runtime" not in logs:
            for name, value in self._last_rollout.items():
                self._metrics["train"].setdefault(name, [value])
        super().log(logs, start_time)

    def _shared_state(self) -> dict[str, Any]:
        return {
            **super()._shared_state(),
            "prompts": self._stream.state_dict(),
            "history": self._history.state_dict(),
            "keep_rate": self._keep_rate.state_dict(),
            "completions_generated": self.completions_generated,
            "exhaustions": self._exhaustions,
            "last_rollout": self._last_rollout,
        }

    def _load_shared_state(self, state: dict[str, Any]) -> None:
        super()._load_shared_state(state)
        self._stream.load_state_dict(state["prompts"])
        self._history.load_state_dict(state["history"])
        self._keep_rate.load_state_dict(state["keep_rate"])
        self.completions_generated = state["completions_generated"]
        self._exhaustions = state["exhaustions"]
        self._last_rollout = state["last_rollout"]

    def _rank_state(self) -> dict[str, Any]:
        carried = None if self._surplus is None else self._surplus.state_dict()
        return {**super()._rank_state(), "surplus": carried}

    def _load_rank_state(self, state: dict[str, Any]) -> None:
        super()._load_rank_state(state)
        self._surplus = None if state["surplus"] is None else Round.from_state_dict(state["surplus"])

    # A rollout

    def _open_stream(self) -> PromptStream:
        dataset = self.train_dataset
        if isinstance(dataset, Dataset):
            dataset = self._remove_unused_columns(dataset, "training")
        self._history = PromptHistory(
            self.args.seed,
            skip_degenerate=self.args.skip_degenerate is not None,
            skip_solved_above=self.args.skip_solved_above,
            thompson=self.args.prompt_selection is not None,
        )
        return PromptStream(
            dataset,
            self.args.seed,
            bool(self.shuffle_dataset),
            distinct=self._prompts_differ,
            history=self._history,
        )

    def _train_on_all(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """One pass of the host, watched: without dynamic sampling, every group is trained on."""
        self._round = Round(keeps_going=True)
        try:
            output = super()._generate_and_score_completions(inputs)
            candidates = Candidates(self.num_generations, self.accelerator.num_processes)
            self._judge(candidates, self._round)
            rows = self._round.rows
        finally:
            self._round = None
        groups = list(range(len(candidates.informative)))
        self._log_groups(candidates, Selection(groups, [False] * len(groups)))
        return self._with_token_weights(output, rows)

    def _train_on_settled(self, num_rows: int) -> dict[str, Any]:
        """Generates until the batch is full or the rounds are spent, then lets the host score the kept rows once."""
        wanted = num_rows * self.accelerator.num_processes // self.num_generations
        candidates = self._generate_candidates(wanted)
        selection = candidates.in_rank_order(select_groups(candidates.informative, wanted))
        if any(selection.filler):
            self._tell_exhaustion(candidates, wanted)
        rows = candidates.own_rows(selection.groups, self.accelerator.process_index)
        output = self._score_kept(candidates, selection, rows)
        if self.args.surplus == "carry":
            output = self._with_behaviour_logps(output, rows, candidates.carried_groups)
            self._surplus = self._carried(candidates, selection)
        self._log_groups(candidates, selection)
        return self._with_token_weights(output, rows)

    def _generate_candidates(self, wanted: int) -> Candidates:
        """Runs rounds of new prompts until `wanted` groups are informative, or no further round is allowed."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        candidates = Candidates(self.num_generations, ranks)
        if self._surplus is not None:
            self._judge(candidates, self._surplus)
        self._stream.begin_batch()
        self._keep_rate.begin_rollout()
        while size := self._size_of_round(candidates, wanted):
            places = self._stream.take(size, self._granule)
            if not candidates.generation_rounds and candidates.carried_groups + len(places) < wanted:
                raise ValueError(too_few_prompts(len(places), self.args))
            if not places:
                break
            share = len(places) * self.num_generations // ranks
            inputs = self._stream.rows(places, self.num_generations, slice(rank * share, (rank + 1) * share))
            self._judge(candidates, self._run_candidate_round(inputs))
            self._remember(candidates, places)
        self._history.end_rollout()
        return candidates

    @property
    def _granule(self) -> int:
        """Groups whose rows divide evenly over the ranks: each generates as many as the others in every round."""
        # vLLM's server mode relies on it
        ranks = self.accelerator.num_processes
        return ranks // math.gcd(ranks, self.num_generations)

    def _size_of_round(self, candidates: Candidates, wanted: int) -> int:
        """Returns how many groups to generate next; 0 where the batch is settled."""
        kept, rounds = sum(candidates.informative), candidates.generation_rounds
        if kept >= wanted or rounds > self.args.max_refill_rounds:
            return 0
        limit = int(wanted * self.args.max_round_batches) // self._granule * self._granule
        quantile = QUANTILE if rounds else FIRST_QUANTILE
        return round_size(wanted - kept, self._keep_rate, quantile, self._granule, limit)

    def _remember(self, candidates: Candidates, places: list[Place]) -> None:
        """Counts the last round towards the keep-rate and the history of its prompts."""
        informative = candidates.informative[-len(places) :]
        self._keep_rate.observe(sum(informative), len(informative))
        metric_PG = self._raw_metric(candidates.rounds[-1].rewards).view(-1, self.num_generations)
        scored_PG = metric_PG.isfinite()
        right_P, scored_P = (scored_PG & (metric_PG > 0)).sum(dim=1).tolist(), scored_PG.sum(dim=1).tolist()
        for place, right, scored, teaches in zip(places, right_P, scored_P, informative, strict=True):
            self._history.record(place.identity, right, scored - right, teaches)

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

    def _judge(self, candidates: Candidates, finished: Round) -> None:
        metric_B = self._raw_metric(finished.rewards)
        live_B = ~finished.truncated if self.mask_truncated_completions else torch.ones_like(finished.truncated)
        verdicts = judge_groups(
            metric_B.view(-1, self.num_generations),
            live_B.view(-1, self.num_generations),
            self.args.dynamic_sampling_tolerance,
        )
        candidates.add(finished, verdicts)
        if self.environments is not None and not finished.keeps_going:
            self._set_kept_environments_aside(finished, verdicts.informative_P)

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

    def _tell_exhaustion(self, candidates: Candidates, wanted: int) -> None:
        kept, generated = sum(candidates.informative), len(candidates.informative)
        message = (
            f"Dynamic sampling found {kept} of {wanted} informative groups among {generated} generated in "
            f"{len(candidates.rounds)} rounds at step {self.state.global_step}; "
            f"{candidates.column('truncated').double().mean():.0%} of their completions were truncated. "
        )
        if self.args.dynamic_sampling_on_exhaustion == "raise":
            raise RuntimeError(
                message + "Raise `max_refill_rounds`, use prompts of medium difficulty, or set "
                "dynamic_sampling_on_exhaustion='fill'."
            )
        self._exhaustions += 1
        # Filtering without refills is meant to leave groups out; otherwise once, twice, four, eight... times
        if self.args.max_refill_rounds > 0 and self._exhaustions.bit_count() == 1:
            logger.warning(
                message + f"The other {wanted - kept} stay out of the loss. `dapo/exhausted` counts how often; see "
                "`dapo/frac_all_correct`, `dapo/frac_all_wrong` and `dapo/overlong_frac` for why."
            )

    # Surplus groups

    def _carried(self, candidates: Candidates, selection: Selection) -> Round | None:
        """Returns the surplus groups that the next rollout may train on, shared evenly among the ranks."""
        next_rollout = self.state.global_step + self.args.updates_between_generations
        ages = next_rollout - candidates.column("steps")[:: self.num_generations]
        oldest = self.args.surplus_max_age or self.args.updates_between_generations
        young = [group for group in candidates.surplus(selection) if ages[group] <= oldest]
        # Not a whole batch: every rollout generates something
        most = min(len(young), len(selection.groups) - self._granule)
        groups = young[: most // self._granule * self._granule]
        if not groups:
            return None
        groups = candidates.in_rank_order(Selection(groups, [False] * len(groups))).groups
        rows = candidates.own_rows(groups, self.accelerator.process_index)
        if not all(gather_object([all(row.is_plain for row in rows)])):
            logger.warning_once("surplus='carry' carries text alone: groups with images or other objects are dropped.")
            return None
        numbers = candidates.row_numbers(groups)
        columns: dict[str, Any] = {
            name: candidates.column(name)[numbers] for name in ("rewards", "lengths", "truncated", "steps")
        }
        return Round(keeps_going=False, carried=True, rows=self._with_own_logps(rows), **columns)

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

    # Token weights

    def _with_token_weights(self, output: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
        """Returns the output with one advantage per token, of which the weights are a factor."""
        if self._token_importance_func is None and self.args.token_level_scope == "batch":
            return output
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        weights = self._token_weights(rows, mask.size(1)).to(mask.device)
        facts = [weight_sums(weights, mask), mask.sum(dim=1).double(), weight_sums((weights - 1).abs(), mask)]
        weight, tokens, difference = gather(torch.stack(facts, dim=1)).T
        if self.args.token_level_scope == "batch" and not difference.any():
            return output
        factors = row_factors(weight, tokens, self.num_generations, self.args.token_level_scope)
        mine = factors[self.accelerator.process_index * len(rows) :][: len(rows)].to(weights.dtype)
        output["advantages"] = output["advantages"].unsqueeze(1) * (weights * mine.unsqueeze(1))
        return output

    def _token_weights(self, rows: list[Row], width: int) -> torch.Tensor:
        completion_ids = [row.completion_ids for row in rows]
        function: Any = self._token_importance_func
        if function is None:
            return padded([torch.ones(len(ids)) for ids in completion_ids], width)
        columns = [name for name in rows[0].inputs if name not in ("prompt", "completion", "completion_ids")]
        returned = function(
            prompts=[row.prompt for row in rows],
            completions=[row.completion for row in rows],
            completion_ids=completion_ids,
            **{name: [row.inputs[name] for row in rows] for name in columns},
        )
        return padded(checked_weights(returned, completion_ids, "token_importance_func"), width)

    # Rewards

    def _check_prompt_switches(self) -> None:
        """Refuses switches that need prompts, or rows, that this run does not have."""
        if self.args.selects_prompts and not self._prompts_differ:
            switch = next(name for name in PROMPT_SWITCHES if getattr(self.args, name) is not None)
            raise ValueError(
                f"{switch}={getattr(self.args, switch)!r} keeps a record of each prompt of `train_dataset`, and "
                f"there is none: the environment makes up its prompts. Leave `{switch}` out."
            )
        if self.args.surplus == "carry" and self.environment_factories is not None:
            raise ValueError(
                "surplus='carry' keeps groups for a later rollout, and the environments of `environment_factory` "
                "serve other rows by then. Set surplus='discard'."
            )

    def _add_length_penalty(self) -> bool:
        """Appends TRL's soft overlong punishment behind the user's reward functions, unless one is among them."""
        if not self.args.soft_overlong_punishment:
            return False
        if length_penalties(self.reward_func_names):
            logger.warning(
                f"`reward_funcs` has a {LENGTH_PENALTY} already: soft_overlong_punishment=True adds none, and "
                "dynamic sampling does not look at yours. Its widths and weight stay as you gave them."
            )
            return False
        # New lists: the host's are those that the user passed
        self._length_penalty = soft_overlong_punishment(
            self.max_completion_length, settled(self.args.soft_punish_cache)
        )
        self.reward_funcs = [*self.reward_funcs, self._length_penalty]
        self.reward_func_names = [*self.reward_func_names, LENGTH_PENALTY]
        self.reward_processing_classes = [*self.reward_processing_classes, None]
        self.reward_weights = torch.cat([self.reward_weights, torch.tensor([self.args.overlong_penalty_factor])])
        return True

    def _raw_metric(self, rewards: torch.Tensor) -> torch.Tensor:
        named = self.args.dynamic_sampling_metric is not None
        weights = torch.ones(1) if named else self.reward_weights[self._metric_columns].cpu()
        return raw_metric(rewards[:, self._metric_columns], weights)

    @contextmanager
    def _only_user_rewards(self) -> Generator[None]:
        if not self._adds_length_penalty:
            yield
            return
        names = ("reward_funcs", "reward_func_names", "reward_processing_classes")
        full = {name: getattr(self, name) for name in names}
        try:
            for name in names:
                setattr(self, name, full[name][:-1])
            yield
        finally:
            for name in names:
                setattr(self, name, full[name])

    def _length_penalties(self, rewards: torch.Tensor, completion_ids_list: list[list[int]]) -> torch.Tensor:
        """Returns the column of the length penalty, shape `(B, 1)`: NaN, "does not apply", for unscored rows."""
        if not self.model.training:
            # Evaluation reports the reward as the user defined it
            return torch.full_like(rewards[:, :1], torch.nan)
        penalties = torch.tensor(self._length_penalty(completion_ids=completion_ids_list), device=rewards.device)
        penalties = gather(penalties.to(rewards.dtype))
        return penalties.masked_fill(rewards.isnan().all(dim=1), torch.nan).unsqueeze(1)

    def _score_for_evaluation(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self._adds_length_penalty:
            for statistic in ("mean", "std"):
                self._metrics["eval"].pop(f"rewards/{LENGTH_PENALTY}/{statistic}", None)
        return output

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

    # Logs

    def _log_host_metrics(self, candidates: Candidates, selection: Selection) -> None:
        """Gives TRL's own keys the kept rows' values, once."""
        for name, value in logs.host_metrics(candidates, selection.groups).items():
            self._metrics["train"][name].append(value)
        self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]
        for name, value in logs.user_metrics(candidates, selection.groups).items():
            self._pending_metrics[name] = [value]

    def _log_groups(self, candidates: Candidates, selection: Selection) -> None:
        rewards = candidates.column("rewards")
        self.completions_generated += len(rewards[candidates.new_rows])
        self._log_rollout(
            logs.group_metrics(
                candidates,
                selection,
                metric_B=self._raw_metric(rewards),
                length_penalty_columns=length_penalties(self.reward_func_names),
                updates_per_rollout=self.args.updates_between_generations,
                step=self.state.global_step,
            )
        )
        self._log_rollout(self._prompt_metrics())

    def _prompt_metrics(self) -> dict[str, float]:
        """Returns how far the run is in the dataset: TRL's own count without dynamic sampling, else the stream's."""
        if not self.args.dynamic_sampling:
            seen = self.completions_generated // self.num_generations
            return {
                "dapo/epoch": float(self.state.epoch or 0),
                "dapo/prompts_seen": float(seen),
                "dapo/prompts_skipped": 0.0,
            }
        return {
            "dapo/epoch": self._stream.progress,
            "dapo/prompts_seen": float(self._stream.served),
            "dapo/prompts_skipped": float(self._stream.passed_over),
        }

    def _log_rollout(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        self._last_rollout.update(metrics)

    def _slowest(self, seconds: float) -> float:
        """Returns the largest of all ranks' seconds: the one that the others wait for."""
        return gather(torch.tensor([seconds], device=self.accelerator.device)).max().item()


def _as_dapo_config(model: Any, args: GRPOConfig | None) -> DAPOConfig:
    if args is None:
        name = model if isinstance(model, str) else get_config_model_id(model.config)
        return DAPOConfig(f"{name.split('/')[-1]}-DAPO")
    if isinstance(args, DAPOConfig):
        return args
    promoted, changes = DAPOConfig.from_grpo_config(args)
    for line in changes:
        logger.warning(f"GRPOConfig promoted to DAPOConfig: {line}")
    return promoted


def _signature() -> inspect.Signature:
    """Returns the constructor's signature: the host's, and the weights of tokens behind it."""
    host = inspect.signature(HostTrainer.__init__)
    weights = inspect.Parameter("token_importance_func", inspect.Parameter.KEYWORD_ONLY, default=None)
    return host.replace(parameters=[*host.parameters.values(), weights])


# For `help()` and editors
setattr(DAPOTrainer.__init__, "__signature__", _signature())  # noqa: B010
