"""
The update phase: TRL's losses over micro-batches that are packed anew, so that padding costs next to nothing.

TRL deals the rows of a rollout to optimizer steps at random, which stays as it is. Within one step the loss is a sum
over rows, so it does not matter in which micro-batch a row is, nor is there anything to compute for a row that has no
gradient. The gradient is therefore TRL's up to rounding, on any number of processes. TRL's metrics are means over
TRL's micro-batches: TRL computes them from the log-probs of these passes, put back into its own micro-batches.

How rows are packed is in `bins`, what belongs to a row in `rows`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..host.passes import Pass
from ..host.seams import HostSteps
from ..host.state import gradients_not_exchanged
from ..host.swapped import swapped
from .accumulation_window import LogProbs, MicroBatch, Window
from .bins import pack, pack_within, padded_tokens, turns
from .logprobs import largest_of_all


# Where packing saves less than this share of the padded tokens, TRL's micro-batches are as good
WORTHWHILE = 0.05


class PreparedPass(Pass):
    """A pass over a batch that the rollout has given already; TRL would generate once more."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def inputs(self, host: Callable, batch: Any) -> Any:
        return self._batch


class MicroBatchPass(Pass):
    """A packed micro-batch: without logs, and without asking other processes for their numbers."""

    is_hosts = False

    def __init__(self, trainer: Any, window: Window, microbatch: MicroBatch) -> None:
        self._trainer, self._window, self._microbatch = trainer, window, microbatch
        self.offset = microbatch.offset

    def inputs(self, host: Callable, batch: Any) -> Any:
        return self._microbatch.inputs

    def loss(self, host: Callable, model: Any, inputs: Any) -> torch.Tensor:
        alone = swapped(self._trainer, accelerator=_Alone(self._trainer.accelerator))
        with self._trainer.host.logging_apart(), alone:
            return host(model, inputs) * self._microbatch.scale

    def logps(self, host: Callable, model: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> LogProbs:
        with self._trainer.packed_passes.positions_from(model, self.offset):
            found = host(model, input_ids, *args, **kwargs)
        self._window.record(self._microbatch, found)
        return found


class LogPass(Pass):
    """TRL's loss once more, for what it logs, from log-probs that are known."""

    def __init__(self, known: LogProbs) -> None:
        self._known = known

    def logps(self, host: Callable, model: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> LogProbs:
        return self._known


@dataclass(frozen=True)
class Wish:
    """What a process would do by itself: how many micro-batches it needs, and whether packing is worth it."""

    microbatches: int
    worthwhile: bool


class UpdatePhase:
    """
    Accumulation steps of a trainer, over packed micro-batches.

    Args:
        trainer ([`~host.seams.Seams`]):
            Whose steps they are; it has [`~logprobs.PackedPasses`].
        needs_advantage (`bool`):
            Whether a row has no gradient where its advantage is 0.
        averages_rows (`bool`):
            Whether the loss is a mean over rows rather than a sum over tokens.

    Attributes:
        window ([`~accumulation_window.Window`] or `None`):
            The accumulation steps that are being run.
    """

    def __init__(self, trainer: Any, needs_advantage: bool, averages_rows: bool) -> None:
        self._trainer, self._needs_advantage, self._averages_rows = trainer, needs_advantage, averages_rows
        self.window: Window | None = None
        self._steps_in_update = 0

    def reset(self) -> None:
        """Forgets an update that an error or an interruption ended halfway."""
        self.window, self._steps_in_update = None, 0

    def run(self, steps: HostSteps, model: Any, inputs: Any) -> torch.Tensor:
        """Runs one accumulation step and returns its loss, as the host's `training_step` does."""
        started = time.perf_counter()
        model.train()  # as the host does before it generates; a callback may have evaluated
        if self.window is None:
            self.window = self._open_window(inputs)
        window = self.window
        loss = self._run_turn(window, steps, model, inputs, started)
        window.steps_done += 1
        synchronised = self._trainer.accelerator.sync_gradients
        self._steps_in_update = 0 if synchronised else self._steps_in_update + 1
        if window.steps_done == len(window.host_batches):
            self._log_window(model, window)
            self.window = None
        return loss

    def _open_window(self, inputs: Any) -> Window:
        """Generates where a rollout is due, and plans the accumulation steps up to its end or the update's."""
        trainer, host = self._trainer, self._trainer.host
        host.prepare_inputs(inputs)
        per_rollout, per_update = host.steps_per_generation, trainer.current_gradient_accumulation_steps
        first = host.step % per_rollout
        steps = min(per_update - self._steps_in_update, per_rollout - first)
        window = Window(host.batches[first : first + steps], trainer.pad_to_multiple_of, self._needs_advantage)
        wish = self._wish(window)
        count, worthwhile = largest_of_all(trainer.accelerator, wish.microbatches, int(wish.worthwhile))
        if worthwhile:
            # The last step of an update runs a stand-in at least: gradients of 0, on every process
            ends_update = self._steps_in_update + steps == per_update
            window.plan = window.packed(count)
            window.turns = turns(max(count, int(ends_update)), steps)
        return window

    def _wish(self, window: Window) -> Wish:
        limit = self._trainer.args.max_tokens_per_microbatch
        numbers, steps = window.live_numbers, len(window.host_batches)
        sides = [window.sides[row] for row in numbers]
        packed = pack(sides, steps) if limit is None else pack_within(sides, limit)
        tokens = sum(padded_tokens([sides[place] for place in places]) for places in packed)
        saved = tokens < (1 - WORTHWHILE) * len(window.sides) * sum(window.full)
        return Wish(len(packed), saved or limit is not None)

    def _run_turn(self, window: Window, steps: HostSteps, model: Any, inputs: Any, started: float) -> torch.Tensor:
        """Runs the micro-batches that take the place of one of TRL's; returns the sum of their losses."""
        trainer, host, items = self._trainer, self._trainer.host, steps.num_items_in_batch
        if window.plan is None:
            host.add_step_seconds(time.perf_counter() - started)
            with trainer.in_charge(PreparedPass(window.host_batches[window.steps_done])):
                return steps.trl(model, inputs, items)
        losses = [torch.zeros((), device=trainer.accelerator.device)]
        turn = window.turns[window.steps_done]
        for number in turn:
            microbatch = window.microbatch(number, self._averages_rows)
            with trainer.in_charge(MicroBatchPass(trainer, window, microbatch)):
                if number == turn[-1]:
                    host.add_step_seconds(time.perf_counter() - started)
                    losses.append(steps.trl(model, inputs, items))
                else:
                    with gradients_not_exchanged(trainer.accelerator, model):
                        losses.append(steps.transformers(model, inputs, items))
        if not turn:
            host.step += 1
            host.add_step_seconds(time.perf_counter() - started)
        return torch.stack(losses).sum()

    # Logs

    def _log_window(self, model: Any, window: Window) -> None:
        if window.plan is not None:
            self._log_as_trl(model, window)
        accelerator = self._trainer.accelerator
        counts = window.counts()
        local = torch.tensor([counts.live_rows, counts.rows, counts.padded, counts.real], device=accelerator.device)
        live, rows, padded, real = accelerator.reduce(local, reduction="sum").tolist()
        self._trainer.host.log(
            {
                "packing/live_rows": live / rows,
                "packing/padded_per_real_token": padded / real if real else 1.0,
                "packing/microbatches": float(sum(map(len, window.turns))),
            }
        )

    def _log_as_trl(self, model: Any, window: Window) -> None:
        """Lets the host log what it would have logged, from the log-probs that were computed."""
        trainer = self._trainer
        facts = trainer.accelerator.reduce(window.token_counts(), reduction="sum")
        for step, batch in enumerate(window.host_batches):
            with trainer.in_charge(LogPass(window.logps_of(step))), torch.no_grad():
                trainer.host.compute_loss(model, batch)
            known, tokens = facts[:, step].tolist()
            if known != tokens:
                # The entropy of rows that were left out is not known: the mean is over the others
                trainer.host.metrics["train"]["entropy"][-1] *= tokens / known if known else float("nan")
        if not facts[1].any():
            self._leave_out_means(len(window.host_batches))

    def _leave_out_means(self, logged: int) -> None:
        """Takes the last values out of what the host logs as means over tokens: over no token, it logs 0."""
        for name, values in self._trainer.host.metrics["train"].items():
            if name in ("entropy", "kl") or "clip_ratio" in name:
                values[-logged:] = [float("nan")] * min(logged, len(values))


class _Alone:
    """An accelerator that finds nobody to gather from; all else is the accelerator's."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def reduce(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return tensor
