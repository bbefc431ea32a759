"""
Learning rate, schedule and the optimizer's own fields, as a config says and not as a checkpoint holds.

transformers loads the optimizer's state from a checkpoint, with the learning rate, betas and weight decay in it, and
the schedule's base rate. A config that says otherwise would change nothing. Here the changed fields are written over
what was loaded; moments and counts of steps stay.
"""

from collections.abc import Iterable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from ..host.required import required
from .fields import GROUP_KEYS, OPTIMIZER_FIELDS, RATES, SCHEDULE


class OptimizerChanges(TrainerCallback):
    """
    Makes fields of the optimizer act that differ from the checkpoint's.

    Args:
        trainer ([`~transformers.Trainer`]):
            Before it trains; its optimizer is made.
        changed (`Iterable[str]`):
            Names of the fields, of those in `OPTIMIZER_FIELDS`.

    Raises:
        `ValueError`: If the trainer is sharded, so that its optimizer cannot be made yet, or its optimizer has no such
            field.
    """

    def __init__(self, trainer: Any, changed: Iterable[str]) -> None:
        self._changed = [name for name in OPTIMIZER_FIELDS if name in set(changed)]
        self._fresh: list[dict[str, Any]] = []
        if not self._changed:
            return
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError(
                f"{self._changed[0]} cannot change at a checkpoint of a sharded run: FSDP and DeepSpeed keep the "
                "optimizer's fields themselves."
            )
        groups = trainer.create_optimizer().param_groups
        self._fresh = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        for name in self._changed:
            if name in GROUP_KEYS and GROUP_KEYS[name] not in self._fresh[0]:
                raise ValueError(f"{name} has no effect: optim={trainer.args.optim} has no {GROUP_KEYS[name]}.")

    def on_train_begin(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs):
        keys = {GROUP_KEYS[name] for name in self._changed if name in GROUP_KEYS}
        for group, fresh in zip(required(optimizer).param_groups, self._fresh, strict=bool(keys)):
            for key in keys:
                group[key] = fresh[key]
        if {*RATES, *SCHEDULE} & {*self._changed}:
            self._reschedule(optimizer, getattr(lr_scheduler, "scheduler", lr_scheduler))

    def _reschedule(self, optimizer: Any, schedule: Any) -> None:
        """Computes the rate of the next update as the schedule of the config has it at this step."""
        if not isinstance(schedule, LambdaLR):
            raise ValueError(
                f"{self._changed[0]} cannot change at a checkpoint: {type(schedule).__name__} keeps a rate of its "
                "own, which hangs on what was measured before."
            )
        if {*RATES} & {*self._changed}:
            schedule.base_lrs = [fresh["lr"] for fresh in self._fresh]
        factors = [function(schedule.last_epoch) for function in schedule.lr_lambdas]
        rates = [base * factor for base, factor in zip(schedule.base_lrs, factors, strict=True)]
        for group, base, rate in zip(optimizer.param_groups, schedule.base_lrs, rates, strict=True):
            group["initial_lr"], group["lr"] = base, rate
        schedule._last_lr = rates
