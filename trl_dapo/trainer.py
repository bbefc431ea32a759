"""
`DAPOTrainer`: TRL's `GRPOTrainer` with a batch that is settled before TRL scores it.

Clip-higher, token-level loss and overlong filtering are TRL's own, switched on by [`DAPOConfig`]. What is added here
is dynamic sampling and the length penalty's column. Candidate rounds run TRL's generation and reward code and stop
there; then one ordinary pass of TRL's replays the kept rows, so that log-probs, advantages, denominators and logs
remain TRL's and are computed for what is trained on. The invariant: with every toggle off, each host method runs as it
stands.
"""

import inspect
import json
import math
import textwrap
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import get_config_model_id

from . import environments, logs
from .compat import check_host
from .config import DAPOConfig, settled
from .planning import check_dataset, too_few_prompts
from .rewards.columns import LENGTH_PENALTY, length_penalties, metric_columns
from .rewards.overlong import soft_overlong_punishment
from .sampling.candidates import Candidates
from .sampling.groups import Selection, judge_groups, raw_metric, refill_size, select_groups
from .sampling.prompts import PromptStream
from .sampling.rollouts import Generation, Round, merged_extra_logs, merged_generation


logger = get_logger(__name__)

STATE_FILE = "dapo_state.json"
STATE_VERSION = 1


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

    args: DAPOConfig
    # Optional in the host's types, never in fact
    model: PreTrainedModel
    num_generations: int
    max_completion_length: int
    train_dataset: Dataset | IterableDataset
    reward_processing_classes: list

    def __init__(self, model, reward_funcs=None, args=None, train_dataset=None, *rest, **kwargs) -> None:
        check_host()
        args = _as_dapo_config(model, args)
        check_dataset(train_dataset, args)
        self._round: Round | None = None
        self._replay: _Replay | None = None
        self._rollout_seconds = 0.0
        self._update_seconds = 0.0
        self._exhaustions = 0
        self.completions_generated = 0
        self._last_rollout: dict[str, float] = {}
        self._resting_environments: environments.Pool = {}
        super().__init__(model, reward_funcs, args, train_dataset, *rest, **kwargs)
        self._adds_length_penalty = self._add_length_penalty()
        self._metric_columns = metric_columns(self.reward_func_names, args)
        # Placeholder rows of an environment that makes up its prompts are all alike
        self._prompts_differ = train_dataset is not None
        self._stream = self._open_stream()
        for line in args.inert_parts():
            logger.warning(line)

    # Seams of the host, in the order in which a run passes through them

    def get_train_dataloader(self) -> DataLoader:
        # Called once per `train`, which starts the dataset from its beginning; with dynamic sampling the loader only
        # says how many batches a run has
        self._stream = self._open_stream()
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

    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            state = {
                "version": STATE_VERSION,
                "prompts": self._stream.state_dict(),
                "completions_generated": self.completions_generated,
            }
            (folder / STATE_FILE).write_text(json.dumps(state))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = Path(checkpoint) / STATE_FILE
        if not path.is_file():
            logger.warning(
                f"{checkpoint} has no {STATE_FILE}: with dynamic sampling, prompts start again at the first of the "
                "dataset, and `completions_generated` at 0."
            )
            return
        state = json.loads(path.read_text())
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"{path} has version {state.get('version')!r}, and this trl_dapo reads version {STATE_VERSION}. "
                "Resume with the trl_dapo that wrote the checkpoint."
            )
        self._stream.load_state_dict(state["prompts"])
        self.completions_generated = state["completions_generated"]

    # A rollout

    def _open_stream(self) -> PromptStream:
        dataset = self.train_dataset
        if isinstance(dataset, Dataset):
            dataset = self._remove_unused_columns(dataset, "training")
        return PromptStream(dataset, self.args.seed, bool(self.shuffle_dataset), distinct=self._prompts_differ)

    def _train_on_all(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """One pass of the host, watched: without dynamic sampling, every group is trained on."""
        self._round = Round(keeps_going=True)
        try:
            output = super()._generate_and_score_completions(inputs)
            candidates = Candidates(self.num_generations, self.accelerator.num_processes)
            self._judge(candidates, self._round)
        finally:
            self._round = None
        groups = list(range(len(candidates.informative)))
        self._log_groups(candidates, Selection(groups, [False] * len(groups)))
        return output

    def _train_on_settled(self, num_rows: int) -> dict[str, Any]:
        """Generates until the batch is full or the rounds are spent, then lets the host score the kept rows once."""
        wanted = num_rows * self.accelerator.num_processes // self.num_generations
        candidates = self._generate_candidates(wanted)
        selection = candidates.in_rank_order(select_groups(candidates.informative, wanted))
        if any(selection.filler):
            self._tell_exhaustion(candidates, wanted)
        output = self._score_kept(candidates, selection)
        self._log_groups(candidates, selection)
        return output

    def _generate_candidates(self, wanted: int) -> Candidates:
        """Runs rounds of new prompts until `wanted` groups are informative, or no further round is allowed."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        # Every rank generates the same number of rows in every round; vLLM's server mode relies on it
        granule = ranks // math.gcd(ranks, self.num_generations)
        candidates = Candidates(self.num_generations, ranks)
        self._stream.begin_batch()
        size = wanted
        while size:
            places = self._stream.take(size, granule)
            if not candidates.rounds and len(places) < wanted:
                raise ValueError(too_few_prompts(len(places), self.args))
            if not places:
                break
            share = len(places) * self.num_generations // ranks
            inputs = self._stream.rows(places, self.num_generations, slice(rank * share, (rank + 1) * share))
            self._judge(candidates, self._run_candidate_round(inputs))
            size = self._size_of_refill(candidates, wanted, granule)
        return candidates

    def _size_of_refill(self, candidates: Candidates, wanted: int, granule: int) -> int:
        kept = sum(candidates.informative)
        if kept >= wanted or candidates.refill_rounds >= self.args.max_refill_rounds:
            return 0
        return refill_size(wanted - kept, kept, len(candidates.informative), granule, limit=wanted)

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

    def _score_kept(self, candidates: Candidates, selection: Selection) -> dict[str, Any]:
        """One ordinary pass of the host over the kept rows, with generation and rewards replayed."""
        rank = self.accelerator.process_index
        numbers = candidates.row_numbers(selection.groups)
        rows = candidates.own_rows(selection.groups, rank)
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

    # Rewards

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
        self.completions_generated += len(rewards)
        self._log_rollout(
            logs.group_metrics(
                candidates,
                selection,
                metric_B=self._raw_metric(rewards),
                length_penalty_columns=length_penalties(self.reward_func_names),
                updates_per_rollout=self.args.updates_between_generations,
            )
        )

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


# For `help()` and editors: the constructor takes what the host's takes
setattr(DAPOTrainer.__init__, "__signature__", inspect.signature(GRPOTrainer.__init__))  # noqa: B010
