"""
The trainers that learn from pairs: their first loss, which is known before any training, and a reward model's head.
"""

import math
from itertools import islice
from typing import Any

from ..host import probing
from .findings import Finding, skipped
from .setup import Setup


FIRST_LOSS, HEAD_TRAINED = "first_loss", "reward_head"
LOG_2 = math.log(2)
PAIRS = 4
# A random head gives margins of a few tenths, which move the loss by less than this
HEAD = 0.5


def check_first_loss(trainer: Any, setup: Setup) -> Finding:
    """
    Returns whether the first loss is `-log sigmoid(0) = log 2 = 0.6931`.

    DPO's margin is a difference of log-ratios to the reference, and the policy is the reference at first. A reward
    model's head starts near 0.
    """
    if setup.kind == "dpo":
        if getattr(trainer, "reference_free", False):
            return skipped(FIRST_LOSS, "without a reference the margin does not begin at 0")
        if list(setup.args.loss_type) != ["sigmoid"] or setup.args.label_smoothing:
            return skipped(FIRST_LOSS, f"loss_type={setup.args.loss_type!r} does not begin at log 2")
    elif setup.args.center_rewards_coefficient is not None or "margin" in (setup.sample.rows or [{}])[0]:
        return skipped(FIRST_LOSS, "margins or center_rewards_coefficient move the first loss away from log 2")
    loss = probing.pair_loss(trainer, _batch(trainer))
    allowed = 0.01 if setup.kind == "dpo" else HEAD
    numbers = {"loss": loss, "log_2": LOG_2}
    message = f"the loss of the first pairs is {loss:.4f}, and log 2 is {LOG_2:.4f}"
    if abs(loss - LOG_2) <= allowed:
        return Finding(FIRST_LOSS, "pass", message, numbers)
    if setup.kind == "dpo":
        setting = "ref_model: leave it out, and the starting policy is the reference"
        return Finding(FIRST_LOSS, "warn", f"{message}: the reference is not the starting policy", numbers, setting)
    setting = "model_name_or_path: a model without a trained head, unless training goes on from it"
    return Finding(FIRST_LOSS, "warn", f"{message}: the head is not a new one", numbers, setting)


def check_head(trainer: Any) -> Finding:
    """Returns whether the head of a reward model is trained."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    heads = {
        name: parameter.requires_grad
        for name, parameter in model.named_parameters()
        if {"score", "classifier"} & set(name.split(".")) and "original_module" not in name
    }
    if not heads:
        return skipped(HEAD_TRAINED, "the model has no head called score or classifier")
    frozen = [name for name, trained in heads.items() if not trained]
    numbers = {"tensors": float(len(heads)), "frozen": float(len(frozen))}
    if not frozen:
        return Finding(HEAD_TRAINED, "pass", f"the head is trained: {', '.join(heads)}", numbers)
    message = f"the head is not trained: {frozen[0]} has requires_grad=False"
    return Finding(HEAD_TRAINED, "fail", message, numbers, "lora_task_type: SEQ_CLS, or modules_to_save: [score]")


def _batch(trainer: Any) -> dict[str, Any]:
    rows = list(islice(iter(trainer.train_dataset), PAIRS))
    device = trainer.accelerator.device
    batch = trainer.data_collator(rows)
    return {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
