"""
The one layer over TRL's `GRPOTrainer`: every host method that the online trainers override, once. Those that save and
load are in `checkpoint_seams`, for all trainers.

Each override hands over to the pass in charge (`passes`), to a part (the update phase, the packed passes), or to a
hook, which is a public method that a trainer below extends. What TRL computes is reached through `super()`. Without
parts and with the plain pass, every method does what TRL's does, also on an instance that was made without `__init__`.
"""

import functools
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel
from trl import GRPOTrainer as HostTrainer

from .checkpoint_seams import CheckpointSeams
from .finite_weights import Named, check_finite_weights, trained_parameters
from .passes import Pass
from .randomness import random_state_kept
from .resume import Parts, load_parts, save_parts
from .rollout_rows import checked_rollout
from .state import HostState
from .swapped import swapped
from .watch import Watch, watch_of


class Steps(Protocol):
    """What runs accumulation steps in TRL's place, see `packing.update_phase`."""

    def reset(self) -> None:
        """Forgets an update that did not end."""

    def run(self, steps: "HostSteps", model: Any, inputs: Any) -> torch.Tensor:
        """Runs one accumulation step and returns its loss."""
        ...


class Passes(Protocol):
    """What runs passes without gradient in TRL's place, see `packing.logprobs`."""

    def logps(self, host: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns what TRL's method `host` would."""


PassInCharge = TypeVar("PassInCharge", bound=Pass)


@dataclass(frozen=True)
class HostSteps:
    """
    The accumulation step as the host runs it.

    Attributes:
        trl (`Callable`):
            TRL's, which counts one accumulation step.
        transformers (`Callable`):
            That of transformers, below TRL's: forward and backward without counting.
        num_items_in_batch (`Any`):
            What transformers gives both.
    """

    trl: Any
    transformers: Any
    num_items_in_batch: Any


class Seams(CheckpointSeams, HostTrainer):
    """[`~trl.GRPOTrainer`] whose passes can be taken charge of, and whose checkpoints have parts."""

    # Optional in the host's types, never in fact
    model: PreTrainedModel
    num_generations: int
    pad_to_multiple_of: int | None

    has_state_file = True

    # Defaults of the class, which hold for an instance made without `__init__` too
    present_pass: Pass = Pass()
    update_phase: Steps | None = None
    packed_passes: Passes | None = None

    @property
    def host(self) -> HostState:
        """The host's private state."""
        return HostState(self)

    @property
    def watch(self) -> Watch:
        """What looks at the run."""
        return watch_of(self)

    @contextmanager
    def in_charge(self, one: PassInCharge) -> Generator[PassInCharge]:
        """Puts a pass in charge while it is entered. Only the plain pass can be replaced."""
        if type(self.present_pass) is not Pass:
            raise RuntimeError(f"{type(one).__name__} begins inside of {type(self.present_pass).__name__}")
        with swapped(self, present_pass=one):
            yield one

    # Hooks of the trainers below, in the order in which a run comes to them

    def run_begins(self, checkpoint: str | None) -> None:
        super().run_begins(checkpoint)
        self.host.pending_columns.clear()
        self.host.pending_metrics.clear()
        if self.update_phase is not None:
            self.update_phase.reset()

    def rows_to_load(self, dataset: Any, description: str) -> Any:
        """Returns what the train dataloader reads in place of a dataset."""
        return dataset

    def continued(self, sampler: Sampler) -> Sampler:
        """Returns the sampler of the train dataloader, moved on to where the run is."""
        return sampler

    def packs(self) -> bool:
        """Returns whether micro-batches may be packed at this moment."""
        return True

    def step_begins(self) -> None:
        """Called before each accumulation step."""

    def step_ended(self) -> None:
        """Called after each accumulation step."""

    def log_begins(self, logs: dict[str, float]) -> None:
        """Called before each log, with what transformers logs; the host's metrics can be added to."""

    def while_generating(self) -> AbstractContextManager[None]:
        """Returns what surrounds the host's generation."""
        return nullcontext()

    def while_stepping(self) -> AbstractContextManager[Any]:
        """Returns what surrounds each accumulation step."""
        return nullcontext()

    def functions_to_call(self) -> dict[str, list]:
        """Returns the attributes that the host reads its reward functions from, where they differ for the call."""
        return {}

    def check_rewards(self, rewards: torch.Tensor, prompts: list, completions: list) -> None:
        """
        Raises for rewards of the user's functions that cannot be trained on, before anything is computed from them.

        Args:
            rewards (`torch.Tensor`):
                Shape `(rows of all processes, functions)`.
            prompts, completions (`list`):
                Texts or messages of this process's rows.
        """

    def shaped(self, rewards: torch.Tensor, completion_ids: list[list[int]]) -> torch.Tensor:
        """
        Returns the rewards of the user's functions, shape `(rows of all processes, functions)`, with what shapes them.
        """
        return rewards

    def watched_loss(self, host: Any, model: Any, inputs: Any) -> torch.Tensor:
        """Returns what TRL's method `host` does: the loss of a micro-batch. What it computes can be noted."""
        return host(model, inputs)

    def trained(self) -> Named:
        """Returns all that training moves, by name."""
        return trained_parameters(self.model)

    def shared_parts(self) -> Parts:
        """Returns the parts of a checkpoint that are the same on every process."""
        return {}

    def own_parts(self) -> Parts:
        """Returns the parts of a checkpoint that each process has of its own."""
        return {}

    def checkpoint_begins(self, folder: Path) -> None:
        save_parts(folder, self, self.shared_parts(), self.own_parts())

    # The host's methods: a run

    def _get_dataloader(self, dataset, description, *args, is_training=False, **kwargs) -> DataLoader:
        if is_training:
            sampler_of = kwargs["sampler_fn"]
            kwargs["sampler_fn"] = lambda dataset: self.continued(sampler_of(dataset))
            dataset = self.rows_to_load(dataset, description)
        return super()._get_dataloader(dataset, description, *args, is_training=is_training, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        self.step_begins()
        with self.while_stepping():
            if self.update_phase is None or not self.packs():
                loss = super().training_step(model, inputs, num_items_in_batch)
            else:
                # Behind TRL's step is that of transformers, which does not count
                steps = HostSteps(super().training_step, super(HostTrainer, self).training_step, num_items_in_batch)
                loss = self.update_phase.run(steps, model, inputs)
        self.step_ended()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.log_begins(logs)
        if self.model.training:
            self.watch.logs(self.host.completions_table)
        # The host logs `None` for a name that has no number, such as a clip ratio where no token is in the loss
        self.host.drop_numberless()
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        # The host tells what belongs to training by the model's mode, and a callback may evaluate inside of a step.
        # What it draws would change the rest of the run, which evaluations on schedule do as in the host
        training, log_is_due = self.model.training, self.control.should_log
        by_callback = self.is_in_train and not self.control.should_evaluate
        try:
            with random_state_kept() if by_callback else nullcontext():
                return super().evaluate(*args, **kwargs)
        finally:
            self.model.train(training)
            if log_is_due and by_callback:
                self.control.should_log = True  # the step's own, which the host takes the evaluation's for

    # The host's methods: a pass

    def _prepare_inputs(self, generation_batch):  # ty: ignore[lost-keyword-for-regular-parameter]
        return self.present_pass.inputs(super()._prepare_inputs, generation_batch)

    def _generate(self, prompts: list) -> Any:
        host = super()._generate

        def generate(prompts: list) -> Any:
            own = getattr(self, "rollout_func", None)
            checked = {} if own is None else {"rollout_func": checked_rollout(own)}
            with self.watch.generation(), self.while_generating(), swapped(self, **checked):
                return host(prompts)

        return self.present_pass.generation(generate, prompts)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> torch.Tensor:
        host = super()._calculate_rewards

        def rewards() -> torch.Tensor:
            self.watch.written(completion_ids_list)
            with swapped(self, **self.functions_to_call()):
                rewards = host(inputs, prompts, completions, completion_ids_list)
            self.check_rewards(rewards, prompts, completions)
            return self.shaped(rewards, completion_ids_list)

        return self.present_pass.rewards(rewards, inputs)

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        host: Any = super()._get_per_token_logps_and_entropies
        if self.packed_passes is not None and self.packs():
            host = functools.partial(self.packed_passes.logps, host)
        return self.present_pass.logps(host, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)

    def _compute_loss(self, model, inputs) -> torch.Tensor:
        return self.present_pass.loss(functools.partial(self.watched_loss, super()._compute_loss), model, inputs)

    # The host's methods: checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        check_finite_weights(self.trained(), self.state.global_step)
        super().save_model(output_dir, _internal_call)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            load_parts(Path(checkpoint), self.accelerator, self.shared_parts(), self.own_parts())
