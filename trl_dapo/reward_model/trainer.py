"""
`RewardTrainer`: TRL's `RewardTrainer` with a head that is always trained and saved, and with calibration metrics.

With an adapter whose `task_type` is not that of sequence classification, TRL crashes, or silently leaves the head
frozen at random weights; here it is set. Losses and gradients are TRL's. A saved model gives the same rewards after
loading.
"""

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from accelerate.logging import get_logger
from peft import PeftConfig, PeftModel, TaskType
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    DataCollator,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from trl import RewardConfig as HostConfig
from trl import RewardTrainer as HostTrainer

from ..host.adapter_start import from_adapter_folder
from ..host.arguments import EvalData, Optimizers, TrainData
from ..host.checkpoint_seams import CheckpointSeams
from ..host.compat import check_host
from ..host.finite_weights import FiniteWeights, check_finite_weights, trained_parameters
from ..host.foreign import check_config
from ..host.model_card import fields
from ..host.new_weights import (
    Load,
    listed,
    modules_to_add,
    neither_trained_nor_saved,
    new_in_memory,
    watching_loads,
)
from ..host.output_folders import check_output_folder, folders_of
from ..host.preference_rows import check_token_ids, checked_preferences, report_lengths
from ..host.promotion import promoted
from ..host.ranges import check_preference_fields
from ..host.starting_point import check_given, probe_ids, settle_start
from ..qlora.adapter_needed import check_adapter_is_given
from ..qlora.precision import adapters_kept
from ..qlora.preparation import prepare_quantized
from .calibration import pair_metrics
from .config import RewardConfig
from .folders import HEAD_NAMES
from .loading import float_head
from .statistics import STATISTICS_FILE, RewardStatistics


logger = get_logger(__name__)

# What PEFT trains and saves of a model for sequence classification, whatever its config says
_HEADS_OF_PEFT = ("classifier", "score")


class RewardTrainer(CheckpointSeams, HostTrainer):
    """
    [`~trl.RewardTrainer`] with a head that is trained and saved, calibration metrics, and statistics of the rewards.

    Takes the arguments of [`~trl.RewardTrainer`], in the same order. Without adapters, training is the host's, bit for
    bit.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            As for [`~trl.RewardTrainer`].
        args ([`RewardConfig`] or [`~trl.RewardConfig`], *optional*):
            In a [`~trl.RewardConfig`], the fields that [`RewardConfig`] adds take their defaults.
        data_collator, train_dataset, eval_dataset, processing_class, compute_metrics, callbacks, optimizers,
        optimizer_cls_and_kwargs, preprocess_logits_for_metrics, quantization_config:
            As for [`~trl.RewardTrainer`].
        peft_config ([`~peft.PeftConfig`], *optional*):
            A copy is used, with `task_type="SEQ_CLS"`; the config itself is not changed.

    Raises:
        `ValueError`: If the head would not be trained and saved, or the datasets are not preferences.
    """

    args: RewardConfig
    model: Any
    card_task = "text-classification"
    card_metrics = ("accuracy",)
    own_files = (STATISTICS_FILE,)

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: RewardConfig | HostConfig | None = None,
        data_collator: DataCollator | None = None,
        train_dataset: TrainData | None = None,
        eval_dataset: EvalData | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: Optimizers = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
    ) -> None:
        check_host(HostTrainer)
        if args is not None:
            check_config(args, RewardConfig, HostConfig, type(self).__name__)
            args = promoted(args, RewardConfig)
            check_preference_fields(args)
            check_output_folder(args.output_dir, {"model": model})
        self._statistics = RewardStatistics()
        self._pairs: dict[str, list[torch.Tensor]] = {"train": [], "eval": []}  # rows (2 rewards, 2 lengths)
        self.source_folders = tuple(folders_of(model))
        taken = {"quantization_config": quantization_config, "peft_config": peft_config}
        start = from_adapter_folder(
            {"model": model, "args": args, "processing_class": processing_class, **taken},
            AutoModelForSequenceClassification,
            TaskType.SEQ_CLS,
        )
        model, args, processing_class, quantization_config, peft_config = start.values()
        given_kwargs = args.model_init_kwargs if args is not None else None
        check_adapter_is_given(model, quantization_config, given_kwargs, peft_config)
        check_given(model, has_reference=False)
        peft_config = _for_rewards(peft_config)
        self._new_weights = new_in_memory(_base_of(model)) if _has_adapter(model, peft_config) else ()
        _train_too(peft_config, self._new_weights)
        with adapters_kept(model), watching_loads(partial(self._note_new, peft_config)):
            super().__init__(
                model=model,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                compute_metrics=compute_metrics,
                callbacks=callbacks,
                optimizers=optimizers,
                optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
                preprocess_logits_for_metrics=preprocess_logits_for_metrics,
                quantization_config=quantization_config,
                peft_config=peft_config,
            )
        self.args = promoted(self.args, RewardConfig)
        prepare_quantized(self.model, self.args.adapter_dtype)
        if isinstance(self.model, PeftModel):
            self._settle_head(self.model)
        self.add_callback(FiniteWeights(lambda: trained_parameters(self.model)))
        settle_start(self, self._probe_rewards, has_reference=False)

    def _probe_rewards(self, model: Any) -> torch.Tensor:
        tokenizer: Any = self.processing_class
        size = min(len(tokenizer), self.model.config.get_text_config().vocab_size)
        ids = probe_ids(size, tokenizer.all_special_ids, self.accelerator.device)
        with self.accelerator.autocast():
            return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        dataset = checked_preferences(dataset, dataset_name, tokenized=True, margins=True)
        prepared = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        report_lengths(dataset, prepared, dataset_name, args.max_length)
        return prepared

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        check_token_ids(inputs["input_ids"], self.model.config.get_text_config().vocab_size)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        rewards_B2 = torch.stack(outputs.logits.detach().float().squeeze(-1).chunk(2), dim=1)
        lengths_B2 = torch.stack(inputs["attention_mask"].sum(dim=1).chunk(2), dim=1)
        rows = self.accelerator.gather_for_metrics(torch.cat([rewards_B2, lengths_B2.float()], dim=1))  # (B, 4)
        self._check_finite(rows[:, :2])
        mode = "train" if self.model.training else "eval"
        self._pairs[mode].append(rows.cpu())
        if mode == "train":
            self._statistics = self._statistics.after(rows[:, :2].flatten(), self.args.statistics_window)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        if self._pairs[mode]:
            # Over all rows since the last log, because a mean of calibration errors of batches is not one
            rows = torch.cat(self._pairs[mode])
            for name, value in pair_metrics(rows[:, :2], rows[:, 2:]).items():
                self._metrics[mode][name] = [value]
            self._pairs[mode].clear()
        super().log(logs, start_time)

    # Checkpoints

    def run_begins(self, checkpoint: str | None) -> None:
        super().run_begins(checkpoint)
        self._pairs["train"].clear()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        check_finite_weights(trained_parameters(self.model), self.state.global_step)
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        # The weights first; and all before the host may push the folder to the Hub
        folder = self.folder_to_save(output_dir)
        super()._save(folder, *args, **kwargs)
        if self.args.should_save and self._statistics.rows:
            self._statistics.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._statistics = RewardStatistics.load(resume_from_checkpoint) or RewardStatistics()

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._statistics = RewardStatistics.load(str(self.state.best_model_checkpoint)) or self._statistics

    def card_settings(self) -> dict[str, Any]:
        named = ("max_length", "center_rewards_coefficient", "statistics_window")
        return {**super().card_settings(), **fields(self.args, named)}

    # The head

    def _note_new(self, peft_config: PeftConfig | None, load: Load) -> None:
        self._new_weights = load.new
        _train_too(peft_config, load.new)

    def _settle_head(self, model: PeftModel) -> None:
        """Casts the head to float32 if adapters are float32; raises if anything would be neither trained nor saved."""
        heads = [name for name, _ in model.get_base_model().named_children() if name in HEAD_NAMES]
        if not heads:
            raise ValueError(
                f"The model {type(model.get_base_model()).__name__} has no head called {' or '.join(HEAD_NAMES)}, so "
                "there is no telling whether its head is trained. Load it with AutoModelForSequenceClassification."
            )
        config: Any = model.peft_config[str(model.active_adapter)]
        if not any(_trained_copies(model, name) for name in heads):
            raise ValueError(
                f"The head {heads[0]!r} of the model is frozen and not saved with its adapter (task_type="
                f"{config.task_type!r}, modules_to_save={config.modules_to_save!r}): it would stay random. Pass the "
                "base model and `peft_config` instead, or create the adapter with task_type='SEQ_CLS'."
            )
        lost = neither_trained_nor_saved(model, self._new_weights)
        if lost:
            raise ValueError(
                f"{len(lost)} parameters that the checkpoint of the base does not have are frozen and not saved with "
                f"the adapter: {listed(lost)}. They would be random, and others at each load. Add their modules to "
                "`modules_to_save`, or pass the name of the base and `peft_config`."
            )
        zero3 = self.args.deepspeed_plugin is not None and self.args.deepspeed_plugin.zero_stage == 3
        # ZeRO-3 can only gather parameters of the same dtype
        if self.args.adapter_dtype == "float32" and not zero3:
            for name in [*heads, *_owners(self._new_weights)]:
                for head in _trained_copies(model, name):
                    float_head(head)

    def _check_finite(self, rewards_B2: torch.Tensor) -> None:
        wrong = int((~rewards_B2.isfinite()).any(dim=1).sum())
        if wrong:
            raise ValueError(
                f"The model gave a reward that is not finite in {wrong} of {len(rewards_B2)} pairs at step "
                f"{self.state.global_step}. Lower `learning_rate` ({self.args.learning_rate:g}) or `max_grad_norm` "
                f"({self.args.max_grad_norm:g}), and check the weights that training starts from."
            )


def _for_rewards(peft_config: PeftConfig | None) -> PeftConfig | None:
    """A copy for the task of sequence classification, for which PEFT trains and saves the head."""
    if not isinstance(peft_config, PeftConfig):
        return peft_config
    if peft_config.task_type != TaskType.SEQ_CLS:
        logger.info(
            f"peft_config.task_type: {peft_config.task_type} -> SEQ_CLS, so that the head is trained and saved"
        )
    result = copy.deepcopy(peft_config)
    result.task_type = TaskType.SEQ_CLS
    return result


def _train_too(peft_config: Any, new: Iterable[str]) -> None:
    """Makes PEFT train and save the modules that are new, beside the heads that it knows."""
    if isinstance(peft_config, PeftConfig) and hasattr(peft_config, "modules_to_save"):
        own: Any = peft_config
        known = [*(own.modules_to_save or ()), *_HEADS_OF_PEFT]
        if more := modules_to_add(new, known):
            own.modules_to_save = [*(own.modules_to_save or ()), *more]
            logger.info(f"peft_config.modules_to_save: + {', '.join(more)}, which the checkpoint does not have")


def _has_adapter(model: Any, peft_config: PeftConfig | None) -> bool:
    return isinstance(model, PeftModel) or (peft_config is not None and not isinstance(model, str))


def _base_of(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _owners(names: Iterable[str]) -> list[str]:
    owners = dict.fromkeys(name.rpartition(".")[0] for name in names)
    return [owner for owner in owners if owner.partition(".")[0] not in HEAD_NAMES]


def _trained_copies(model: PeftModel, name: str) -> list[nn.Module]:
    """The copies of a module, or of those within it, that PEFT trains and saves, one for each active adapter."""
    within = model.get_base_model().get_submodule(name).modules()
    wrappers = [module for module in within if isinstance(module, ModulesToSaveWrapper)]
    copies = [
        one.modules_to_save[key] for one in wrappers for key in model.active_adapters if key in one.modules_to_save
    ]
    return [module for module in copies if all(parameter.requires_grad for parameter in module.parameters())]
