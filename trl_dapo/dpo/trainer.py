"""
`DPOTrainer`: TRL's `DPOTrainer`, which can also train without a reference model.

The loss is always TRL's. Without a reference, TRL finds zeros in the batch as the reference's log-probabilities, as if
they had been precomputed. With `reference_free=False`, training is TRL's bit for bit, except for the precision of
adapters on a quantized base.
"""

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from transformers import BitsAndBytesConfig, DataCollator, EvalPrediction, PreTrainedModel, TrainerCallback
from trl import DPOConfig as HostConfig
from trl import DPOTrainer as HostTrainer

from ..host.adapter_start import from_adapter_folder
from ..host.arguments import EvalData, Optimizers, ProcessingClass, TrainData
from ..host.checkpoint_seams import CheckpointSeams
from ..host.compat import DPO_GATHERED, check_host, is_of_a_later_release
from ..host.finite_weights import FiniteWeights, check_finite_weights, trained_parameters
from ..host.foreign import check_config
from ..host.model_card import fields
from ..host.new_weights import refuse_new, watching_loads
from ..host.output_folders import check_output_folder, folders_of
from ..host.preference_rows import check_token_ids, checked_preferences, first_row, report_lengths
from ..host.promotion import promoted
from ..host.ranges import check_preference_fields
from ..host.starting_point import REFERENCE, check_given, copies_start_plainly, probe_ids, settle_start
from ..qlora.adapter_needed import check_adapter_is_given, check_no_adapter_on_head
from ..qlora.precision import adapters_kept
from ..qlora.preparation import prepare_quantized
from .config import DPOConfig


# The implicit advantage lies between 0 and 1. Pairs below this teach next to nothing
SMALL_ADVANTAGE = 0.05


class DPOTrainer(CheckpointSeams, HostTrainer):
    """
    [`~trl.DPOTrainer`] that can train without a reference, and logs how much its pairs can still teach.

    Takes the arguments of [`~trl.DPOTrainer`], in the same order. Logs `implicit_advantage/mean` and
    `implicit_advantage/frac_below_0.05`. The implicit advantage of a pair is `1 - sigmoid(delta)`, with `delta` its
    reward margin; the gradient of the sigmoid loss is proportional to it.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            As for [`~trl.DPOTrainer`].
        ref_model ([`~transformers.PreTrainedModel`], *optional*):
            As for [`~trl.DPOTrainer`].
        args ([`DPOConfig`] or [`~trl.DPOConfig`], *optional*):
            In a [`~trl.DPOConfig`], the fields that [`DPOConfig`] adds take their defaults.
        data_collator, train_dataset, eval_dataset, processing_class, compute_metrics, callbacks, optimizers,
        quantization_config, peft_config:
            As for [`~trl.DPOTrainer`].

    Raises:
        `ValueError`: If the datasets are not preferences, or `reference_free=True` comes with a `ref_model`.
    """

    args: DPOConfig
    model: Any
    card_metrics = ("rewards/accuracies",)

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        ref_model: PreTrainedModel | None = None,
        args: DPOConfig | HostConfig | None = None,
        data_collator: DataCollator | None = None,
        train_dataset: TrainData | None = None,
        eval_dataset: EvalData | None = None,
        processing_class: ProcessingClass | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: Optimizers = (None, None),
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
    ) -> None:
        check_host(HostTrainer)
        if train_dataset is not None:
            first_row(train_dataset, "train")  # the host reads it before it prepares the dataset
        if args is not None:
            check_config(args, DPOConfig, HostConfig, type(self).__name__)
            args = promoted(args, DPOConfig)
            check_preference_fields(args)
            check_output_folder(args.output_dir, {"model": model, "ref_model": ref_model})
        self.source_folders = (*folders_of(model), *folders_of(ref_model))
        taken = {"quantization_config": quantization_config, "peft_config": peft_config}
        start = from_adapter_folder({"model": model, "args": args, "processing_class": processing_class, **taken})
        model, args, processing_class, quantization_config, peft_config = start.values()
        self.reference_free = args is not None and args.reference_free
        if args is not None and args.reference_free:
            args = _without_reference(
                args, ref_model, has_adapter=peft_config is not None or isinstance(model, PeftModel)
            )
        adapters = set(model.peft_config) if isinstance(model, PeftModel) else set()
        # With precomputed log-probabilities, the host asks the reference before its constructor ends
        self._starts, self._ref_given = False, ref_model is not None
        given_kwargs = args.model_init_kwargs if args is not None else None
        check_no_adapter_on_head(peft_config)
        check_adapter_is_given(model, quantization_config, given_kwargs, peft_config)
        check_given(model, ref_model is None and not self.reference_free)
        with adapters_kept(model), copies_start_plainly(model), watching_loads(refuse_new):
            super().__init__(
                model=model,
                ref_model=ref_model,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                compute_metrics=compute_metrics,
                callbacks=callbacks,
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=peft_config,
            )
        self.args = promoted(self.args, DPOConfig)
        prepare_quantized(self.model, self.args.adapter_dtype)
        if self.reference_free:
            self._drop_reference(adapters)
        self.add_callback(FiniteWeights(lambda: trained_parameters(self.model)))
        self._settle_start()

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        dataset = checked_preferences(dataset, dataset_name)
        prepared = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        report_lengths(dataset, prepared, dataset_name, args.max_length)
        return prepared

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if self.reference_free:
            return dataset
        replaced = self._settle_start()
        if replaced and not is_of_a_later_release("_precompute_model_hash"):
            # The host keeps what it precomputes in a file named by the model, and has not seen this reference
            self._precompute_model_hash = f"{self._precompute_model_hash}-{REFERENCE}"
        return super()._precompute_ref_logps(dataset, name, batch_size)

    def _settle_start(self) -> bool:
        """Checks what is trained and the reference, once; returns whether the reference was replaced."""
        if self._starts:
            return False
        self._starts = True
        return settle_start(self, self._probe_logits, not self.reference_free, chosen_reference=self._ref_given)

    def _probe_logits(self, model: Any) -> torch.Tensor:
        size = min(len(self._tokenizer), self.model.config.get_text_config().vocab_size)
        ids = probe_ids(size, self._tokenizer.all_special_ids, self.accelerator.device)
        with self.accelerator.autocast():
            return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.log_softmax(
                dim=-1
            )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self._check_batch(inputs)
        if self.reference_free:
            zeros_B = torch.zeros(len(inputs["input_ids"]) // 2, device=inputs["input_ids"].device)
            inputs = {**inputs, "ref_chosen_logps": zeros_B, "ref_rejected_logps": zeros_B}
        # Set during the loss only: at any other time it makes the host precompute log-probabilities
        precomputed = self.precompute_ref_logps
        self.precompute_ref_logps = precomputed or self.reference_free
        try:
            with _gathered_rows(self.accelerator) as rows:
                result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self.precompute_ref_logps = precomputed
        self._log_advantages(rows[DPO_GATHERED.index("margins")])
        return result

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        check_finite_weights(trained_parameters(self.model), self.state.global_step)
        super().save_model(output_dir, _internal_call)

    def card_settings(self) -> dict[str, Any]:
        named = ("beta", "loss_type", "label_smoothing", "max_length", "reference_free")
        return {**super().card_settings(), **fields(self.args, named)}

    def _log_advantages(self, margins_B: torch.Tensor) -> None:
        wrong = int((~margins_B.isfinite()).sum())
        if wrong:
            raise ValueError(
                f"The log-probabilities of {wrong} of {len(margins_B)} pairs are not finite at step "
                f"{self.state.global_step}. Lower `learning_rate` ({self.args.learning_rate:g}) or `max_grad_norm` "
                f"({self.args.max_grad_norm:g}), and check the weights that training starts from."
            )
        advantages_B = torch.sigmoid(-margins_B.float())  # 1 - sigmoid(delta), without cancellation
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["implicit_advantage/mean"].append(advantages_B.mean().item())
        small = (advantages_B < SMALL_ADVANTAGE).float().mean().item()
        metrics[f"implicit_advantage/frac_below_{SMALL_ADVANTAGE}"].append(small)

    def _drop_reference(self, adapters: set[str]) -> None:
        # It was set so that the host loads no second model; nothing is precomputed
        self.precompute_ref_logps = self.args.precompute_ref_log_probs = False
        if adapters and "ref" not in adapters and "ref" in self.model.peft_config:
            # The host copied the trained adapter of the model as its reference
            self.model.delete_adapter("ref")

    def _check_batch(self, inputs: dict[str, Any]) -> None:
        check_token_ids(inputs["input_ids"], self.model.config.get_text_config().vocab_size)
        if "completion_mask" in inputs and not inputs["completion_mask"].any(dim=1).all():
            raise ValueError(
                f"A completion has no tokens after truncation to max_length={self.args.max_length}. Raise "
                "`max_length`, or remove pairs with an empty completion from the dataset."
            )


def _without_reference(args: DPOConfig, ref_model: Any, has_adapter: bool) -> DPOConfig:
    """A copy of the config with which the host loads no reference model."""
    if ref_model is not None:
        raise ValueError("`ref_model` was given, and reference_free=True uses none. Leave one of the two out.")
    result = copy.copy(args)
    # With an adapter the host loads none anyway, and it would hash the whole model to name the precomputed values
    result.precompute_ref_log_probs = not has_adapter
    return result


@contextmanager
def _gathered_rows(accelerator: Any) -> Generator[list[torch.Tensor]]:
    """Yields a list that collects, in order, the one-dimensional tensors gathered over processes inside the block."""
    rows: list[torch.Tensor] = []
    gather = accelerator.gather

    def recorded(tensor: Any) -> Any:
        result = gather(tensor)
        if isinstance(tensor, torch.Tensor) and tensor.dim() == 1:
            rows.append(result.detach())
        return result

    accelerator.gather = recorded
    try:
        yield rows
    finally:
        del accelerator.gather  # the method of the class again
