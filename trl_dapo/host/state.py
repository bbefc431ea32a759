"""
The private state of TRL's online trainer, under public names.

The parts of a trainer, such as the update phase or dynamic sampling, read and write it through [`HostState`], so that
a renamed field is a matter of this file and of `compat`.
"""

import math
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from trl import GRPOTrainer as HostTrainer

from .compat import is_of_a_later_release
from .required import required
from .starting_point import probe_ids
from .swapped import swapped


# Older releases of TRL know the end token of the tokenizer alone. Looked up once: it reads a file
KNOWS_ONE_END = is_of_a_later_release("eos_token_ids")


class HostState:
    """
    What a trainer of TRL keeps of a run.

    Args:
        trainer ([`~trl.GRPOTrainer`]):
            The trainer.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    # The rollout

    @property
    def step(self) -> int:
        """Accumulation steps so far, those of all rollouts."""
        return self._trainer._step

    @step.setter
    def step(self, value: int) -> None:
        self._trainer._step = value

    @property
    def steps_per_generation(self) -> int:
        return required(self._trainer.args.steps_per_generation)

    @property
    def is_inside_rollout(self) -> bool:
        """Whether the present rollout has accumulation steps left."""
        return self.step % (self.steps_per_generation * self._trainer.num_iterations) != 0

    @property
    def batches(self) -> Any:
        """The micro-batches of the present rollout, one per accumulation step."""
        return self._trainer._buffered_inputs

    @batches.setter
    def batches(self, value: Any) -> None:
        self._trainer._buffered_inputs = value

    def prepare_inputs(self, rows: Any) -> Any:
        """Lets the trainer generate where a rollout is due; returns the micro-batch of the present step."""
        return self._trainer._prepare_inputs(rows)

    def compute_loss(self, model: Any, batch: Any) -> torch.Tensor:
        """Returns the trainer's loss of a micro-batch."""
        return self._trainer._compute_loss(model, batch)

    @contextmanager
    def noting_logps(self) -> Generator[list[torch.Tensor]]:
        """Gives the list of the log-probs, each of shape `(B, T)`, that the trainer computes meanwhile."""
        host, noted = self._trainer._get_per_token_logps_and_entropies, []

        def computed(*args: Any, **kwargs: Any) -> Any:
            found = host(*args, **kwargs)
            noted.append(found[0].detach())
            return found

        with swapped(self._trainer, _get_per_token_logps_and_entropies=computed):
            yield noted

    def without_unused_columns(self, dataset: Any, description: str) -> Any:
        """Returns a dataset without the columns that the trainer does not read."""
        return self._trainer._remove_unused_columns(dataset, description)

    def policy_logps(self, batch: dict[str, Any], batch_size: int) -> torch.Tensor:
        """
        Returns today's log-probs of the completions of a batch, shape `(B, T)`, without gradient.

        Args:
            batch (`dict[str, torch.Tensor]`):
                `prompt_ids` and `prompt_mask` of shape `(B, P)`, `completion_ids` and `completion_mask` of `(B, T)`.
            batch_size (`int`):
                Rows that go through the model together, at full width.
        """
        with torch.no_grad():
            logps, _, _ = self._trainer._get_per_token_logps_and_entropies(
                self._trainer.model, *sequences(batch), batch_size=batch_size
            )
        return logps

    def probe_logps(self, model: Any) -> torch.Tensor:
        """Returns log-probs of a few tokens by a model of the trainer's kind, as the loss computes them."""
        size = min(len(self.tokenizer), model.config.get_text_config().vocab_size)
        ids = probe_ids(size, self.tokenizer.all_special_ids, self._trainer.accelerator.device)
        # TRL's own, since a subclass may need a rollout
        host = HostTrainer._get_per_token_logps_and_entropies
        # It reports how long it takes, and trackio refuses what comes before a run has begun
        with swapped(self._trainer.args, report_to=[]):
            return host(self._trainer, model, ids, torch.ones_like(ids), ids.size(1) - 2)[0]

    # Text

    @property
    def tokenizer(self) -> Any:
        return self._trainer._tokenizer

    @property
    def is_multimodal(self) -> bool:
        return self._trainer._is_vlm

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end a completion. A padding token counts too, as in TRL."""
        ends = [self.tokenizer.eos_token_id] if KNOWS_ONE_END else self._trainer.eos_token_ids
        return [*ends, self.tokenizer.pad_token_id]

    # Logs

    @property
    def metrics(self) -> dict[str, dict[str, list[float]]]:
        """Numbers since the last log, by mode (`"train"` or `"eval"`) and name."""
        return self._trainer._metrics

    @property
    def mode(self) -> str:
        return "train" if self._trainer.model.training else "eval"

    def log(self, metrics: dict[str, float], mode: str = "train") -> None:
        """Adds numbers, of which the next log holds the mean."""
        for name, value in metrics.items():
            self.metrics[mode][name].append(value)

    def drop_numberless(self) -> None:
        """Leaves names out of the next log that have no number since the last one."""
        metrics = self.metrics[self.mode]
        for name in [name for name, values in metrics.items() if all(map(math.isnan, values))]:
            del metrics[name]

    @contextmanager
    def logging_apart(self) -> Generator[dict[str, list[float]]]:
        """Keeps the training metrics that TRL logs meanwhile apart, in the dictionary that it gives."""
        apart: dict[str, list[float]] = defaultdict(list)
        kept, self.metrics["train"] = self.metrics["train"], apart
        try:
            yield apart
        finally:
            self.metrics["train"] = kept

    @property
    def completions_table(self) -> dict[str, Any]:
        """The rows of the completions table that the next log holds, by column."""
        return self._trainer._logs

    @property
    def pending_columns(self) -> dict[str, list]:
        """What reward functions gave `log_extra` since the last scoring pass, by column."""
        return self._trainer._pending_extra_logs

    @property
    def pending_metrics(self) -> dict[str, list[float]]:
        """What reward functions gave `log_metric` since the last scoring pass, by name."""
        return self._trainer._pending_metrics

    def add_step_seconds(self, seconds: float) -> None:
        """Adds to the time that TRL logs for the present optimizer step."""
        self._trainer._current_train_step_time += seconds

    def unlogged_loss(self) -> dict[str, Any]:
        """Returns the sum of the losses since the last log, and the optimizer step of that log."""
        return {"loss": self._trainer._tr_loss, "since": self._trainer._globalstep_last_logged}

    def add_unlogged_loss(self, loss: torch.Tensor, since: int) -> None:
        """Goes on from what [`~HostState.unlogged_loss`] returned."""
        self._trainer._tr_loss += loss
        self._trainer._globalstep_last_logged = since

    # Environments

    @property
    def environment_pool(self) -> dict[str | None, list]:
        """Environments that are free to serve a row, by name."""
        return self._trainer._environment_pool

    @environment_pool.setter
    def environment_pool(self, value: dict[str | None, list]) -> None:
        self._trainer._environment_pool = value

    def environment_name(self, row: dict[str, Any]) -> str | None:
        """Returns which environment a row of the dataset asks for; `None` where there is only one."""
        return row.get("environment") if self._trainer._multi_environment else None

    # vLLM

    def keep_from_vllm(self, part_of_name: str) -> None:
        """Leaves parameters with this in their name out of what vLLM is sent."""
        generation = self._trainer.vllm_generation
        host = generation._iter_named_params
        generation._iter_named_params = lambda: (pair for pair in host() if part_of_name not in pair[0])


def sequences(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Returns ids and attention mask of prompts with completions, each of shape `(B, P + T)`, and T."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    return ids, mask, batch["completion_ids"].size(1)


@contextmanager
def gradients_not_exchanged(accelerator: Any, model: Any) -> Generator[None]:
    """Accumulates gradients without exchanging them among processes, in the last accumulation step too."""
    state = accelerator.gradient_state
    if not state.sync_gradients:
        yield  # transformers sees to it
        return
    state._set_sync_gradients(False)
    try:
        with accelerator.no_sync(model):
            yield
    finally:
        state._set_sync_gradients(True)
