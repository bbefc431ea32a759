"""
`DAPOTrainer`: TRL's `GRPOTrainer` with a batch that is settled before TRL scores it.

Clip-higher, token-level loss and overlong filtering are TRL's own, switched on by [`DAPOConfig`]. In here is dynamic
sampling: which prompts are generated, which groups are trained on, and what is logged of both. Not in here: how a
round leaves the host and comes back (`replay`), the length penalty (`shaping`), checkpoints (`grpo`). The invariant:
with every toggle off, each host method runs as it stands.
"""

import inspect
import math
import textwrap
import time
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather, gather_object
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from trl import GRPOConfig
from trl import GRPOTrainer as HostTrainer
from trl.trainer.utils import get_config_model_id

from ..grpo.batch_size import check_dataset, too_few_prompts
from ..host.compat import check_host
from ..host.fetching import EmptyRows
from . import logs
from .config import PROMPT_SWITCHES, DAPOConfig
from .reward_columns import length_penalties
from .sampling.candidates import Candidates
from .sampling.groups import Selection, judge_groups, select_groups
from .sampling.history import PromptHistory
from .sampling.prompts import PromptStream, StreamedPrompt
from .sampling.refill import FIRST_QUANTILE, QUANTILE, KeepRate, round_size
from .sampling.rollouts import Round, Row
from .sampling.rounds import ReplayingTrainer
from .token_weights import checked_weights, padded, row_factors, weight_sums


logger = get_logger(__name__)


class DAPOTrainer(ReplayingTrainer):
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

    # Optional in the host's types, never in fact
    train_dataset: Dataset | IterableDataset

    def __init__(
        self, model, reward_funcs=None, args=None, train_dataset=None, *rest, token_importance_func=None, **kwargs
    ) -> None:
        check_host()
        args = _as_dapo_config(model, args)
        if token_importance_func is not None:
            args.check_token_weights("token_importance_func")
        self._token_importance_func = token_importance_func
        check_dataset(train_dataset, args)
        self._rollout_seconds = 0.0
        self._update_seconds = 0.0
        self._exhaustions = 0
        self.completions_generated = 0
        self._last_rollout: dict[str, float] = {}
        self._keep_rate = KeepRate()
        self._surplus: Round | None = None
        super().__init__(model, reward_funcs, args, train_dataset, *rest, **kwargs)
        # Placeholder rows of an environment that makes up its prompts are all alike
        self._prompts_differ = train_dataset is not None
        self._check_prompt_switches()
        self._stream = self._open_stream()
        for line in args.inert_parts():
            logger.warning(line)

    # Seams of the host, in the order in which a run passes through them

    def get_train_dataloader(self) -> DataLoader:
        # Called once per `train`, which starts the dataset from its beginning
        self._stream = self._open_stream()
        self._keep_rate = KeepRate()
        self._surplus = None
        if not self.args.dynamic_sampling or not isinstance(self.train_dataset, Dataset):
            return super().get_train_dataloader()
        # The stream serves the prompts; the loader only says how many batches a run has
        dataset: Any = self.train_dataset
        self.train_dataset: Any = EmptyRows(len(dataset))
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = dataset

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        started = time.perf_counter()
        output = self._train_on_settled(len(inputs)) if self.args.dynamic_sampling else self._train_on_all(inputs)
        self._rollout_seconds = time.perf_counter() - started
        self._log_rollout({"dapo/generation_seconds": self._slowest(self._rollout_seconds)})
        return output

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
        output, watched = self._run_watched(inputs)
        candidates = Candidates(self.num_generations, self.accelerator.num_processes)
        self._judge(candidates, watched)
        groups = list(range(len(candidates.informative)))
        self._log_groups(candidates, Selection(groups, [False] * len(groups)))
        return self._with_token_weights(output, watched.rows)

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
        self._stream.begin_batch(held=candidates.prompts)
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

    def _remember(self, candidates: Candidates, places: list[StreamedPrompt]) -> None:
        """Notes the prompts of the last round, and counts it towards the keep-rate and their history."""
        candidates.rounds[-1].prompts = [(place.identity, place.epoch) for place in places]
        informative = candidates.informative[-len(places) :]
        self._keep_rate.observe(sum(informative), len(informative))
        metric_PG = self._raw_metric(candidates.rounds[-1].rewards).view(-1, self.num_generations)
        scored_PG = metric_PG.isfinite()
        right_P, scored_P = (scored_PG & (metric_PG > 0)).sum(dim=1).tolist(), scored_PG.sum(dim=1).tolist()
        for place, right, scored, teaches in zip(places, right_P, scored_P, informative, strict=True):
            self._history.record(place.identity, right, scored - right, teaches)

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

    def _tell_exhaustion(self, candidates: Candidates, wanted: int) -> None:
        kept, generated = sum(candidates.informative), len(candidates.informative) - candidates.carried_groups
        message = (
            f"Dynamic sampling found {kept} of {wanted} informative groups among {generated} generated in "
            f"{candidates.generation_rounds} rounds at step {self.state.global_step}; "
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
        spare = candidates.surplus(selection)
        # Not a whole batch, so that every rollout generates something, and uses up what was carried to it: the age of
        # a carried group is the updates of one rollout, which the config holds against `surplus_max_age`
        most = min(len(spare), len(selection.groups) - self._granule)
        groups = spare[: most // self._granule * self._granule]
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
        columns["prompts"] = [candidates.prompts[group] for group in groups]
        return Round(keeps_going=False, carried=True, rows=self._with_own_logps(rows), **columns)

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

    # Checks

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

    # Logs

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
