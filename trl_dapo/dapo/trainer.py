"""
`DAPOTrainer`: TRL's `GRPOTrainer` with a batch that dynamic sampling fills before TRL scores it.

Clip-higher, token-level loss and overlong filtering are TRL's own, switched on by [`DAPOConfig`]. The other parts are
objects: dynamic sampling in `sampling.sampler`, the length penalty in `length_penalty`, weights of tokens in
`weighted_tokens`. With every toggle off, each method of TRL's runs as it stands.
"""

import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import trl
from accelerate.logging import get_logger
from accelerate.utils import gather
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from ..grpo.trainer import GRPOTrainer, model_name
from ..host.arguments import EvalData, Optimizers, ProcessingClass, RewardFunc, RolloutFunction, TrainData
from ..host.card_text import Section
from ..host.fetching import EmptyRows
from ..host.foreign import check_config
from ..host.required import required
from ..host.resume import Parts
from . import logs
from .above_symmetric import AboveSymmetric
from .card import deviations_section, toggles_section, totals_section
from .config import DAPOConfig
from .dead_groups import DeadGroupsWarning, shaped_rewards
from .length_penalty import LISTS, LengthPenalty, add_length_penalty
from .raw_metric import PENALTY_NAME, RawMetric, penalty_columns
from .sampling.candidates import Candidates
from .sampling.groups import Selection
from .sampling.history import PromptHistory
from .sampling.prompts import PromptStream
from .sampling.rounds import Rounds
from .sampling.sampler import DynamicSampler
from .sampling.tally import Tally
from .toggles import PROMPT_SWITCHES, TOGGLES
from .weighted_tokens import WeightedTokens


logger = get_logger(__name__)


class DAPOTrainer(GRPOTrainer):
    """
    Trainer for Decoupled Clip and Dynamic sAmpling Policy Optimization
    ([DAPO](https://huggingface.co/papers/2503.14476)).

    Takes the place of [`~trl.GRPOTrainer`] in any script: same arguments in the same order. A plain
    [`~trl.GRPOConfig`] is promoted to a [`DAPOConfig`], and the log says what changed.

    Example:

    ```python
    >>> from trl_dapo import DAPOTrainer
    >>> from trl_dapo.evaluation.scorers import math_verify
    >>> from trl_dapo.problems import load_problems

    >>> trainer = DAPOTrainer(
    ...     model="Qwen/Qwen2.5-0.5B-Instruct",
    ...     reward_funcs=math_verify,
    ...     train_dataset=load_problems("gsm8k", split="train", answer_format=math_verify.answer_format),
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
        eval_dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dictionary of these, *optional*):
            Prompts to evaluate on.
        processing_class, reward_processing_classes, callbacks, optimizers, quantization_config, peft_config, tools,
        rollout_func, environment_factory:
            As for [`~trl.GRPOTrainer`].
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
    args: DAPOConfig  # ty: ignore[incompatible-mutable-override]
    train_dataset: Dataset | IterableDataset

    # Defaults of the class, as in `Seams`
    sampler: DynamicSampler | None = None
    length_penalty: LengthPenalty | None = None
    above_symmetric: AboveSymmetric | None = None

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        reward_funcs: RewardFunc | list[RewardFunc] | None = None,
        args: DAPOConfig | trl.GRPOConfig | None = None,
        train_dataset: TrainData | None = None,
        eval_dataset: EvalData | None = None,
        processing_class: ProcessingClass | None = None,
        reward_processing_classes: PreTrainedTokenizerBase | list[PreTrainedTokenizerBase] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: Optimizers = (None, None),
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
        tools: list[Callable] | None = None,
        rollout_func: RolloutFunction | None = None,
        environment_factory: Callable[[], Any] | dict[str, Callable[[], Any]] | None = None,
        *,
        token_importance_func: Callable[..., Sequence[Sequence[float]]] | None = None,
    ) -> None:
        self._token_importance_func = token_importance_func
        self._step_started = 0.0
        self._rollout_seconds = 0.0
        self._update_seconds = 0.0
        self.tally = Tally()
        super().__init__(
            model,
            reward_funcs,
            args,
            train_dataset,
            eval_dataset,
            processing_class,
            reward_processing_classes,
            callbacks,
            optimizers,
            quantization_config,
            peft_config,
            tools,
            rollout_func,
            environment_factory,
        )
        # Placeholder rows of an environment that makes up its prompts are all alike
        self._prompts_differ = train_dataset is not None
        self._check_prompt_switches()
        self.length_penalty = add_length_penalty(self, self.args)
        self._dead_groups = DeadGroupsWarning(self)
        self.above_symmetric = AboveSymmetric(self)
        self._raw_metric = RawMetric(self.reward_func_names, self.reward_weights, self.args)
        self._rounds = Rounds(self, super()._generate_and_score_completions)
        self._token_weights = WeightedTokens(token_importance_func, self.args.token_level_scope, self.num_generations)
        self.sampler = DynamicSampler(self, self._rounds, self._raw_metric, *self._open_stream(), self.tally)

    @classmethod
    def own_config(cls, model: Any, args: trl.GRPOConfig | None) -> DAPOConfig:
        if args is None:
            return DAPOConfig(f"{model_name(model)}-DAPO")
        check_config(args, DAPOConfig, trl.GRPOConfig, cls.__name__)
        if isinstance(args, DAPOConfig):
            return args
        promoted, changes = DAPOConfig.from_grpo_config(args)
        for line in changes:
            logger.warning(f"GRPOConfig promoted to DAPOConfig: {line}")
        return promoted

    def check_arguments(self, args, given: dict[str, Any]) -> None:
        if self._token_importance_func is not None:
            args.check_token_weights("token_importance_func")
        super().check_arguments(args, given)

    @property
    def completions_generated(self) -> int:
        """Completions generated for training so far, by all processes, those of dropped groups included."""
        return self.tally.completions_generated

    # Hooks of the seams

    def rows_to_load(self, dataset: Any, description: str) -> Any:
        # Called once per `train`, which starts the dataset from its beginning
        required(self.sampler).restart(*self._open_stream())
        required(self.above_symmetric).forget()
        if self.length_penalty is not None:
            self.length_penalty.forget()
        if not self.args.dynamic_sampling or not isinstance(self.train_dataset, Dataset):
            return super().rows_to_load(dataset, description)
        # The stream serves the prompts; the loader only says how many batches a run has
        return EmptyRows(len(self.train_dataset), self.train_dataset)

    def step_begins(self) -> None:
        super().step_begins()
        self._step_started, self._rollout_seconds = time.perf_counter(), 0.0

    def step_ended(self) -> None:
        super().step_ended()
        if self.sampler is None:
            return
        self._update_seconds += time.perf_counter() - self._step_started - self._rollout_seconds
        if self.host.step % self.current_gradient_accumulation_steps == 0:
            clipped = required(self.above_symmetric).metrics()
            self._log_rollout({"dapo/update_seconds": self._slowest(self._update_seconds), **clipped})
            self._update_seconds = 0.0

    def log_begins(self, logs: dict[str, float]) -> None:
        super().log_begins(logs)
        # A rollout feeds several updates; those after the first would have no `dapo/*` keys
        if self.sampler is not None and self.model.training and "train_runtime" not in logs:
            for name, value in self.tally.last_rollout.items():
                self.host.metrics["train"].setdefault(name, [value])

    def functions_to_call(self) -> dict[str, list]:
        called = super().functions_to_call()
        if self.length_penalty is None:
            return called
        # The host warns of rows that no reward function applies to, and must not count the length penalty for that
        lists = {name: getattr(self, name) for name in LISTS} | called
        return {name: entries[:-1] for name, entries in lists.items()}

    def shaped(self, rewards: torch.Tensor, completion_ids: list[list[int]]) -> torch.Tensor:
        if self.length_penalty is None:
            return rewards
        if self.model.training and not self.args.dynamic_sampling:
            # TRL makes advantages of these rewards next; otherwise all rounds of the rollout are waited for
            self.length_penalty.learn(rewards)
        column = self.length_penalty.column(rewards, completion_ids, self.model.training)
        return torch.cat([rewards, column], dim=1)

    def watched_loss(self, host, model, inputs) -> torch.Tensor:
        watch = self.above_symmetric
        return host(model, inputs) if watch is None else watch.loss(host, model, inputs)

    def shared_parts(self) -> Parts:
        sampler = required(self.sampler)
        own = {"prompts": sampler.stream, "history": sampler.history, "keep_rate": sampler.keep_rate}
        penalty = {} if self.length_penalty is None else {"length_penalty": self.length_penalty}
        return {**super().shared_parts(), **own, "tally": self.tally, **penalty}

    @property
    def settings(self) -> tuple[str, ...]:
        switches = ("max_refill_rounds", "token_level_scope", "surplus", *PROMPT_SWITCHES)
        return (*super().settings, *TOGGLES, *switches)

    def card_sections(self) -> list[Section]:
        waiting = required(self.sampler).surplus.groups
        own = totals_section(self.tally, self.num_generations, waiting, self.args.dynamic_sampling)
        return [*super().card_sections(), toggles_section(self.args), own, deviations_section(self.args)]

    def own_parts(self) -> Parts:
        return {**super().own_parts(), "surplus": required(self.sampler).surplus}

    # Methods of the host

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.sampler is None or not self.model.training:
            output = super()._generate_and_score_completions(inputs)
            if self.length_penalty is not None:
                for statistic in ("mean", "std"):
                    self.host.metrics["eval"].pop(f"rewards/{PENALTY_NAME}/{statistic}", None)
            return output
        started = time.perf_counter()
        if self.args.dynamic_sampling:
            output = self._train_on_settled(self.sampler, len(inputs))
        else:
            output = self._train_on_all(self.sampler, inputs)
        self._rollout_seconds = time.perf_counter() - started
        self._log_rollout({"dapo/generation_seconds": self._slowest(self._rollout_seconds)})
        return output

    # A rollout

    def _open_stream(self) -> tuple[PromptStream, PromptHistory]:
        dataset = self.train_dataset
        if isinstance(dataset, Dataset):
            dataset = self.host.without_unused_columns(dataset, "training")
        history = PromptHistory(
            self.args.seed,
            skip_degenerate=self.args.skip_degenerate is not None,
            skip_solved_above=self.args.skip_solved_above,
            thompson=self.args.prompt_selection is not None,
        )
        stream = PromptStream(
            dataset, self.args.seed, bool(self.shuffle_dataset), distinct=self._prompts_differ, history=history
        )
        return stream, history

    def _train_on_all(self, sampler: DynamicSampler, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """One pass of the host, watched: without dynamic sampling, every group is trained on."""
        output, watched = self._rounds.run_watched(inputs)
        candidates = sampler.empty_candidates()
        sampler.judge(candidates, watched)
        groups = list(range(len(candidates.informative)))
        self._log_groups(candidates, Selection(groups, [False] * len(groups)))
        return self._token_weights.put_into(output, watched.rows, self.accelerator.process_index)

    def _train_on_settled(self, sampler: DynamicSampler, num_rows: int) -> dict[str, Any]:
        """Lets dynamic sampling fill the batch, then lets the host score the kept rows once."""
        batch, surplus = sampler.settle(num_rows), sampler.surplus
        candidates, selection, rows = batch.candidates, batch.selection, batch.rows
        if self.length_penalty is not None:
            self.length_penalty.learn(candidates.column("rewards"))
        output = self._rounds.train_on(candidates, selection, rows)
        if self.args.surplus == "carry":
            output = surplus.with_behaviour_logps(output, rows, candidates.carried_groups)
            surplus.take_from(candidates, selection, sampler.granule)
        self._log_groups(candidates, selection)
        return self._token_weights.put_into(output, rows, self.accelerator.process_index)

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
        self.tally.completions_generated += len(rewards[candidates.new_rows])
        metrics = logs.group_metrics(
            candidates,
            selection,
            metric_B=self._raw_metric.of(rewards),
            shaped_B=shaped_rewards(
                rewards, self.reward_weights, self.num_generations, self.multi_objective_aggregation
            ),
            length_penalty_columns=penalty_columns(self.reward_func_names),
            tolerance=self.args.dynamic_sampling_tolerance,
            filters_truncated=self.args.overlong_filtering,
            updates_per_rollout=self.args.updates_between_generations,
            step=self.state.global_step,
        )
        self.tally.count(metrics)
        self._log_rollout(metrics)
        self._dead_groups.tell(metrics["dapo/dead_groups"], rewards)
        self._log_rollout(self._prompt_metrics())

    def _prompt_metrics(self) -> dict[str, float]:
        """Returns how far the run is in the dataset: TRL's own count without dynamic sampling, else the stream's."""
        if not self.args.dynamic_sampling:
            seen = self.tally.completions_generated // self.num_generations
            return {
                "dapo/epoch": float(self.state.epoch or 0),
                "dapo/prompts_seen": float(seen),
                "dapo/prompts_skipped": 0.0,
            }
        stream = required(self.sampler).stream
        return {
            "dapo/epoch": stream.progress,
            "dapo/prompts_seen": float(stream.served),
            "dapo/prompts_skipped": float(stream.passed_over),
        }

    def _log_rollout(self, metrics: dict[str, float]) -> None:
        self.host.log(metrics)
        self.tally.last_rollout.update(metrics)

    def _slowest(self, seconds: float) -> float:
        """Returns the largest of all ranks' seconds: the one that the others wait for."""
        return gather(torch.tensor([seconds], device=self.accelerator.device)).max().item()
