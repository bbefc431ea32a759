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
from .passes import Pass
from .resume import Parts, load_parts, save_parts
from .state import HostState
from .swapped import swapped


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

    def step_begins(self) -> None:
        """Called before each accumulation step."""

    def step_ended(self) -> None:
        """Called after each accumulation step."""

    def while_generating(self) -> AbstractContextManager[None]:
        """Returns what surrounds the host's generation."""
        return nullcontext()

    def functions_to_call(self) -> dict[str, list]:
        """Returns the attributes that the host reads its reward functions from, where they differ for the call."""
        return {}

    def shaped(self, rewards: torch.Tensor, completion_ids: list[list[int]]) -> torch.Tensor:
        """
        Returns the rewards of the user's functions, shape `(rows of all processes, functions)`, with what shapes them.
        """
        return rewards

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
        if self.update_phase is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:
            # Behind TRL's step is that of transformers, which does not count
            steps = HostSteps(super().training_step, super(HostTrainer, self).training_step, num_items_in_batch)
            loss = self.update_phase.run(steps, model, inputs)
        self.step_ended()
        return loss

    # The host's methods: a pass

    def _prepare_inputs(self, generation_batch):  # ty: ignore[lost-keyword-for-regular-parameter]
        return self.present_pass.inputs(super()._prepare_inputs, generation_batch)

    def _generate(self, prompts: list) -> Any:
        host = super()._generate

        def generate(prompts: list) -> Any:
            with self.while_generating():
                return host(prompts)

        return self.present_pass.generation(generate, prompts)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> torch.Tensor:
        host = super()._calculate_rewards

        def rewards() -> torch.Tensor:
            with swapped(self, **self.functions_to_call()):
                rewards = host(inputs, prompts, completions, completion_ids_list)
            return self.shaped(rewards, completion_ids_list)

        return self.present_pass.rewards(rewards, inputs)

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        host: Any = super()._get_per_token_logps_and_entropies
        if self.packed_passes is not None:
            host = functools.partial(self.packed_passes.logps, host)
        return self.present_pass.logps(host, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)

    def _compute_loss(self, model, inputs) -> torch.Tensor:
        return self.present_pass.loss(super()._compute_loss, model, inputs)

    # The host's methods: checkpoints

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            load_parts(Path(checkpoint), self.accelerator, self.shared_parts(), self.own_parts())
