"""
What every online trainer here shares: TRL's `GRPOTrainer` with packed passes, exact resume, reward functions that fail
by name, and adapters on a quantized base that keep their precision.

How the host is reached is in `host.seams`, how rows are packed in `packing`, what a checkpoint holds in `host.resume`.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import trl
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch.utils.data import Sampler
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl.trainer.utils import get_config_model_id

from ..host.adapter_start import from_adapter_folder
from ..host.arguments import EvalData, Optimizers, ProcessingClass, RewardFunc, RolloutFunction, TrainData, given
from ..host.compat import check_host
from ..host.custom_loss import changed_loss
from ..host.fetching import FetchedOnce
from ..host.finite_weights import FiniteWeights
from ..host.foreign import check_config
from ..host.model_card import fields
from ..host.new_weights import refuse_new, watching_loads
from ..host.output_folders import check_output_folder, folders_of
from ..host.promotion import promoted
from ..host.prompt_rows import checked_prompts
from ..host.ranges import check_generation_fields
from ..host.required import required
from ..host.resume import Parts, RolloutPlace, RolloutShape, epochs_behind
from ..host.seams import Seams
from ..host.settings import Settings
from ..host.starting_point import check_given, copies_start_plainly, settle_start
from ..packing.logprobs import PackedPasses
from ..packing.suitability import tied_to_batch
from ..packing.unfinished_rows import only_unfinished_rows
from ..packing.update_phase import UpdatePhase
from ..qlora.adapter_needed import check_adapter_is_given, check_no_adapter_on_head
from ..qlora.precision import adapters_kept, is_quantized
from ..qlora.preparation import prepare_quantized
from ..rollouts.chunks import ChunkSize, in_chunks
from ..rollouts.engine_settings import EngineSettings, check_8bit, check_engine_fields
from ..rollouts.generation_mode import other_mode, warn_of_no_cache
from ..rollouts.mismatch import mismatch_metrics
from ..rollouts.own_engine import OwnGeneration, own_engine
from ..rollouts.shared_prefill import CacheKind, sharing_prompts
from .batch_size import check_dataset
from .config import ROW_MEAN_LOSSES, GRPOConfig
from .first_rollout import FirstTruncation, warn_of_plain_prompts
from .generation_calls import check_sharded_calls
from .offloading import offloading
from .reward_errors import named
from .reward_models import with_reward_models
from .reward_values import check_rewards, check_weights


logger = get_logger(__name__)

# Fields that decide what every online trainer computes: a checkpoint remembers them
REMEMBERED = (
    "loss_type",
    "beta",
    "epsilon",
    "epsilon_high",
    "delta",
    "scale_rewards",
    "multi_objective_aggregation",
    "importance_sampling_level",
    "mask_truncated_completions",
    "num_generations",
    "max_completion_length",
    "temperature",
)
REMARKS = {
    "dynamic_sampling": "Prompts come from another stream: those that the run has had so far may come again.",
}


class GRPOTrainer(Seams):
    """
    [`~trl.GRPOTrainer`] that resumes anywhere, and whose errors name the reward function and the row.

    Takes what [`~trl.GRPOTrainer`] takes, in the same order. With `compact_microbatches=False` and without a quantized
    model, training is the host's, bit for bit.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Policy, as for [`~trl.GRPOTrainer`].
        reward_funcs (`RewardFunc | list[RewardFunc]`, *optional*):
            Reward functions, as for [`~trl.GRPOTrainer`].
        args ([`GRPOConfig`] or [`~trl.GRPOConfig`], *optional*):
            A [`~trl.GRPOConfig`] gets the defaults of the fields that [`GRPOConfig`] adds.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`], *optional*):
            Prompts, as text or conversations.
        eval_dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dictionary of these, *optional*):
            Prompts to evaluate on.
        processing_class, reward_processing_classes, callbacks, optimizers, quantization_config, peft_config, tools,
        rollout_func, environment_factory:
            As for [`~trl.GRPOTrainer`].

    Raises:
        `ValueError`: Where vLLM cannot have the adapter or the base, or prompts are too few for one batch.
    """

    args: GRPOConfig
    card_metrics = ("reward",)

    # Defaults of the class, as in `Seams`
    reward_timeout: float | None = None
    drops_finished_rows: bool = False
    rollout_place: RolloutPlace | None = None
    packed_passes: PackedPasses | None = None  # ty: ignore[incompatible-mutable-override]
    _epochs_behind: int = 0
    _told_of: str | None = None
    tie: str | None = None
    _truncation = FirstTruncation()
    _cache_kind = CacheKind()
    _offloading: AbstractContextManager[Any] = nullcontext()

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        reward_funcs: RewardFunc | list[RewardFunc] | None = None,
        args: GRPOConfig | trl.GRPOConfig | None = None,
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
    ) -> None:
        check_host()
        args = self.own_config(model, args)
        taken: dict[str, Any] = {
            "model": model,
            "reward_funcs": reward_funcs,
            "args": args,
            "train_dataset": train_dataset,
            "eval_dataset": eval_dataset,
            "processing_class": processing_class,
            "reward_processing_classes": reward_processing_classes,
            "callbacks": callbacks,
            "optimizers": optimizers,
            "quantization_config": quantization_config,
            "peft_config": peft_config,
            "tools": tools,
            "rollout_func": rollout_func,
            "environment_factory": environment_factory,
        }
        self.source_folders = tuple(folders_of([model, reward_funcs]))
        check_output_folder(args.output_dir, {"model": model, "reward_funcs": reward_funcs})
        taken = from_adapter_folder(with_reward_models(given(taken), args))
        model, args = taken["model"], taken["args"]
        self.check_arguments(args, taken)
        check_given(model, args.beta != 0)
        for name in ("train", "eval"):
            if f"{name}_dataset" in taken:
                taken[f"{name}_dataset"] = checked_prompts(taken[f"{name}_dataset"], name)
        engine = EngineSettings(args.vllm_sync, args.vllm_base, args.vllm_sync_tolerance)
        with adapters_kept(model), copies_start_plainly(model), watching_loads(refuse_new), own_engine(engine):
            super().__init__(**taken)
        self._set_up(args)

    def _set_up(self, args: GRPOConfig) -> None:
        """What follows the host's constructor: parts, checks of what it has made, and what the log says of both."""
        prepare_quantized(self.model, args.adapter_dtype)
        self.reward_timeout = args.reward_timeout
        self.drops_finished_rows = args.drops_finished_rows
        self._truncation, self._cache_kind = FirstTruncation(), CacheKind()
        self.rollout_place = RolloutPlace(self.host, self.accelerator.device, self.log_completions)
        self._set_up_packing(args)
        self._offloading = offloading(self.model, args.activation_offloading, self.accelerator.device.type == "cpu")
        self.add_callback(FiniteWeights(self.trained))
        for line in args.inert_parts():
            logger.warning(line)
        warn_of_plain_prompts(self.processing_class, self.train_dataset)
        settle_start(self, self.host.probe_logps, has_reference=self.beta != 0)
        if self.packed_passes is not None:
            self.packs()  # so that the log says it, or the run is refused, before it begins

    @classmethod
    def own_config(cls, model: Any, args: trl.GRPOConfig | None) -> GRPOConfig:
        """Returns the config that this trainer works with, made from what the user gave."""
        if args is None:
            return GRPOConfig(f"{model_name(model)}-GRPO")
        check_config(args, GRPOConfig, trl.GRPOConfig, cls.__name__)
        config = promoted(args, GRPOConfig)
        check_generation_fields(config)
        return config

    def check_arguments(self, args: GRPOConfig, given: dict[str, Any]) -> None:
        """Raises for arguments of the constructor, by name, that cannot be right, before a model is loaded."""
        check_dataset(given.get("train_dataset"), args)
        check_weights(args.reward_weights)
        check_adapter_is_given(
            given["model"], given.get("quantization_config"), args.model_init_kwargs, given.get("peft_config")
        )
        check_no_adapter_on_head(given.get("peft_config"))
        check_sharded_calls(args, bool(given.get("tools") or given.get("environment_factory")))
        loading: Any = args.model_init_kwargs or {}
        asked = given.get("quantization_config") or loading.get("quantization_config")
        check_engine_fields(args, is_quantized(given["model"]) or asked is not None)
        if args.use_vllm:
            check_8bit(given["model"], asked)

    @property
    def needs_advantage(self) -> bool:
        """Whether a row has no gradient where its advantage is 0."""
        # VESPO logs a mean over all rows, of weights that are not known for a row left out
        return self.beta == 0 and self.loss_type != "vespo"

    def _set_up_packing(self, args: GRPOConfig) -> None:
        if self.aux_loss_enabled and args.max_tokens_per_microbatch is not None:
            raise ValueError(
                f"max_tokens_per_microbatch={args.max_tokens_per_microbatch} deals rows to other micro-batches than "
                "TRL's, and the router's auxiliary loss of a Mixture-of-Experts model is a mean over those. Set "
                "router_aux_loss_coef=0.0, or leave `max_tokens_per_microbatch` out."
            )
        self.tie = tied_to_batch(self.model)
        limit = args.max_tokens_per_microbatch
        if self.tie is not None and limit is not None:
            raise ValueError(
                f"max_tokens_per_microbatch={limit} deals rows to other micro-batches than TRL's, and {self.tie}, so "
                "that log-probabilities would change. Leave `max_tokens_per_microbatch` out, and lower "
                "`per_device_train_batch_size` instead."
            )
        if self.tie is not None and (args.compacts or args.drops_finished_rows):
            logger.warning(f"No row is packed, and none is left out of generation: {self.tie}.")
        if args.compacts and not self.aux_loss_enabled and self.tie is None:
            self.packed_passes = PackedPasses(self)
            self.update_phase = UpdatePhase(self, self.needs_advantage, self.loss_type in ROW_MEAN_LOSSES)

    @property
    def can_drop_finished_rows(self) -> bool:
        """Whether rows that have ended are left out of the passes that generate the others."""
        if not (self.drops_finished_rows and self._rows_are_free and self.generation_config.eos_token_id is not None):
            return False
        return other_mode(self._causal_model, self.generation_config) is None

    @property
    def can_prefill_once(self) -> bool:
        """Whether prompts that rows share are read once. Where micro-batches are TRL's, so is this."""
        return self.args.prefill_once and self.args.compact_microbatches and self._rows_are_free

    @property
    def _causal_model(self) -> Any:
        """The language model without what PEFT and Accelerate put around it."""
        model: Any = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if is_peft_model(model) else model

    @property
    def _generates_itself(self) -> bool:
        """Whether the model's own `generate` makes the completions, in this process."""
        if self.rollout_place is None:  # made without `__init__`
            return False
        args = self.args
        return not (self.use_vllm or self.rollout_func is not None or args.use_transformers_continuous_batching)

    @property
    def _rows_are_free(self) -> bool:
        """Whether the rows of a pass can be chosen while completions are generated."""
        # Not where other code than `generate` may call the model, or its passes are shared with other processes, nor
        # where a model remembers something per row outside of its cache
        shared = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return self._generates_itself and not shared and not self.host.is_multimodal and self.tie is None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self.rollout_place is not None and self.use_vllm and self.model.training:
            masks = self.vllm_importance_sampling_mode in ("sequence_mask", "token_mask")
            self.host.log(mismatch_metrics(output, self.accelerator.gather, self.num_generations, masks))
            if isinstance(self.vllm_generation, OwnGeneration):
                for difference in self.vllm_generation.take_differences():
                    self.host.log({"rollout/sync_difference": difference})
        return output

    # Hooks of the seams

    def card_settings(self) -> dict[str, Any]:
        named = ("num_generations", "max_completion_length", "temperature", "beta", "loss_type", "scale_rewards")
        clip = ("epsilon", "epsilon_high", "num_iterations")
        functions = ", ".join(self.reward_func_names)
        return {**super().card_settings(), **fields(self.args, (*named, *clip)), "reward functions": functions}

    def packs(self) -> bool:
        # Asked at each step: a method can be replaced on the instance, or on a class, at any time
        method = changed_loss(self)
        if method is not None and method != self._told_of:
            self._told_of = method
            limit = self.args.max_tokens_per_microbatch
            if limit is not None:
                raise ValueError(
                    f"{method} changes the loss, and max_tokens_per_microbatch={limit} deals rows to other "
                    "micro-batches than TRL's, which would change its weight. Leave `max_tokens_per_microbatch` out."
                )
            logger.warning(f"{method} changes the loss: TRL's own micro-batches are run, and none is packed.")
        return method is None

    def run_begins(self, checkpoint: str | None) -> None:
        super().run_begins(checkpoint)
        self._epochs_behind = 0 if checkpoint is None else epochs_behind(checkpoint)
        if self.rollout_place is not None:
            self.rollout_place.forget()

    def rows_to_load(self, dataset: Any, description: str) -> Any:
        if not isinstance(dataset, Dataset):
            return dataset
        times = self.host.steps_per_generation * self.num_iterations
        return FetchedOnce(self.host.without_unused_columns(dataset, description), times)

    def continued(self, sampler: Sampler) -> Sampler:
        own: Any = sampler
        # The host's sampler draws an order per epoch, and in a resumed run begins again with the first epoch's
        for _ in range(self._epochs_behind if own.shuffle else 0):
            torch.randperm(own.num_samples, generator=own.generator)
        return sampler

    def step_begins(self) -> None:
        if self.rollout_place is not None:
            self.rollout_place.add_unlogged_loss()

    def step_ended(self) -> None:
        super().step_ended()
        if self.rollout_place is not None:
            self._truncation.look(self.host.metrics["train"], self.args.max_completion_length)

    def while_generating(self) -> AbstractContextManager[None]:
        return self._calls_of_generate() if self._generates_itself else super().while_generating()

    @contextmanager
    def _calls_of_generate(self) -> Generator[None]:
        """Bounds the calls of `generate`, reads shared prompts once, and leaves out rows that have ended."""
        model: Any = self.accelerator.unwrap_model(self.model)
        causal_model = self._causal_model
        warn_of_no_cache(causal_model, self.generation_config)
        with ExitStack() as stack:
            prefilled: Callable[[], None] = _nothing
            if self.can_drop_finished_rows:
                ends = self.generation_config.eos_token_id
                ends = ends if isinstance(ends, list) else [ends]
                prefilled = stack.enter_context(only_unfinished_rows(causal_model, ends))
            generate = model.generate
            if self.can_prefill_once:
                generate = sharing_prompts(causal_model, generate, prefilled, self._cache_kind)
            trains, args = self.model.training, self.args
            group = self.num_generations if trains else required(self.num_generations_eval)
            bounds = args.generation_chunk_size, args.max_tokens_per_generation_call
            size = ChunkSize(*bounds, group, splits_groups=not trains)
            stack.enter_context(in_chunks(model, size, generate))
            yield

    def while_stepping(self) -> AbstractContextManager[Any]:
        return self._offloading

    def functions_to_call(self) -> dict[str, list]:
        functions: list[Any] = self.reward_funcs
        pairs = zip(functions, self.reward_func_names, strict=True)
        return {"reward_funcs": [named(function, name, self.reward_timeout) for function, name in pairs]}

    @property
    def settings(self) -> tuple[str, ...]:
        """Fields that decide what is computed; a resume tells where they have changed."""
        return REMEMBERED

    def check_rewards(self, rewards: torch.Tensor, prompts: list, completions: list) -> None:
        if self.rollout_place is None:  # made without `__init__`, so without weights
            return
        weights = self.reward_weights[: rewards.size(1)]
        check_rewards(rewards, self.reward_func_names, weights, prompts, completions, self.accelerator.process_index)

    def shared_parts(self) -> Parts:
        rollout = RolloutShape(self.host, self.num_iterations)
        return {"rollout": rollout, "settings": Settings(self.args, self.settings, REMARKS)}

    def own_parts(self) -> Parts:
        return {} if self.rollout_place is None else {"rollout": self.rollout_place}


def _nothing() -> None:
    """Called where nobody waits for it."""


def model_name(model: Any) -> str:
    """Returns the name of a model, given as such or loaded, without its organisation."""
    name = model if isinstance(model, str) else get_config_model_id(model.config)
    return name.split("/")[-1]
