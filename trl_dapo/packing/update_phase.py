"""
The update phase at the cost of its real tokens: TRL's losses over micro-batches that are packed anew.

TRL deals the rows of a rollout to optimizer steps at random, which stays as it is. Within one step the loss is a sum
over rows, so it does not matter in which micro-batch a row is, nor is there anything to compute for a row that has no
gradient. Packing is in `microbatch`, what belongs to a row in `batch_rows`. TRL's metrics, which are means over TRL's
micro-batches, are computed by TRL from the log-probs of these passes put back into its own micro-batches.
The invariant: gradients are TRL's up to rounding, on any number of processes.
"""

import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from trl import GRPOTrainer as HostTrainer

from ..grpo.config import ROW_MEAN_LOSSES
from ..host.required import required
from .accumulation_window import LogProbs, MicroBatch, Window
from .bins import pack, pack_within, padded_tokens, turns
from .logprobs import PackedPassesTrainer


# Where packing saves less than this share of the padded tokens, TRL's micro-batches are as good
WORTHWHILE = 0.05


class CompactTrainer(PackedPassesTrainer):
    """[`~trl.GRPOTrainer`] whose micro-batches are packed by length, where its config says so."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._window: Window | None = None
        self._running: MicroBatch | None = None
        self._replayed: LogProbs | None = None
        self._steps_in_update = 0
        super().__init__(*args, **kwargs)
        if self.aux_loss_enabled and self.args.max_tokens_per_microbatch is not None:
            raise ValueError(
                f"max_tokens_per_microbatch={self.args.max_tokens_per_microbatch} deals rows to other micro-batches "
                "than TRL's, and the router's auxiliary loss of a Mixture-of-Experts model is a mean over those. Set "
                "router_aux_loss_coef=0.0, or leave `max_tokens_per_microbatch` out."
            )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._window, self._steps_in_update = None, 0
        return super().train(*args, **kwargs)

    # Seams of the host

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        if not self._compacts:
            return super().training_step(model, inputs, num_items_in_batch)
        started = time.perf_counter()
        if self._window is None:
            model.train()  # as the host does before it generates
            self._window = self._open_window(inputs)
        window = self._window
        loss = self._run_turn(window, model, inputs, num_items_in_batch, started)
        window.steps_done += 1
        self._steps_in_update = 0 if self.accelerator.sync_gradients else self._steps_in_update + 1
        if window.steps_done == len(window.host_batches):
            self._log_window(model, window)
            self._window = None
        return loss

    def _prepare_inputs(self, generation_batch):  # ty: ignore[lost-keyword-for-regular-parameter]
        if self._running is not None:
            return self._running.inputs
        if self._window is not None:
            # The host would generate once more
            return self._window.host_batches[self._window.steps_done]
        return super()._prepare_inputs(generation_batch)

    def _compute_loss(self, model, inputs) -> torch.Tensor:
        if self._running is None:
            return super()._compute_loss(model, inputs)
        with self._unlogged_and_alone():
            return super()._compute_loss(model, inputs) * self._running.scale

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **kwargs
    ) -> LogProbs:
        host = super()._get_per_token_logps_and_entropies
        if self._replayed is not None:
            return self._replayed
        if self._running is not None:
            with self._positions_from(model, self._running.offset):
                scored = host(model, input_ids, attention_mask, logits_to_keep, **kwargs)
            self._present_window.record(self._running, scored)
            return scored
        return host(model, input_ids, attention_mask, logits_to_keep, batch_size=batch_size, **kwargs)

    # A window

    @property
    def _present_window(self) -> Window:
        if self._window is None:
            raise RuntimeError("a micro-batch is run outside of a window")
        return self._window

    @property
    def _needs_advantage(self) -> bool:
        """Whether a row has no gradient where its advantage is 0."""
        # VESPO logs a mean over all rows, of weights that are not known for a row left out
        return self.beta == 0 and self.loss_type != "vespo"

    def _open_window(self, inputs: Any) -> Window:
        """Generates where a rollout is due, and plans the accumulation steps up to its end or the update's."""
        self._prepare_inputs(inputs)
        per_rollout = required(self.args.steps_per_generation)
        first = self._step % per_rollout
        steps = min(self.current_gradient_accumulation_steps - self._steps_in_update, per_rollout - first)
        buffered: Any = self._buffered_inputs
        window = Window(buffered[first : first + steps], self.pad_to_multiple_of, self._needs_advantage)
        count, worthwhile = self._agreed(self._wishes(window))
        if worthwhile:
            # The last step of an update runs a stand-in at least: gradients of 0, on every process
            ends_update = self._steps_in_update + steps == self.current_gradient_accumulation_steps
            window.plan = window.packed(count)
            window.turns = turns(max(count, int(ends_update)), steps)
        return window

    def _wishes(self, window: Window) -> list[int]:
        """Returns how many micro-batches this process needs, and whether they are worth it."""
        limit = self.args.max_tokens_per_microbatch
        numbers, steps = window.live_numbers, len(window.host_batches)
        sides = [window.sides[row] for row in numbers]
        packed = pack(sides, steps) if limit is None else pack_within(sides, limit)
        tokens = sum(padded_tokens([sides[place] for place in places]) for places in packed)
        saved = tokens < (1 - WORTHWHILE) * len(window.sides) * sum(window.full)
        return [len(packed), int(saved or limit is not None)]

    def _run_turn(self, window: Window, model, inputs, num_items_in_batch, started: float) -> torch.Tensor:
        """Runs the micro-batches that take the place of one of TRL's; returns the sum of their losses."""
        if window.plan is None:
            self._current_train_step_time += time.perf_counter() - started
            return super().training_step(model, inputs, num_items_in_batch)
        losses = [torch.zeros((), device=self.accelerator.device)]
        turn = window.turns[window.steps_done]
        for number in turn:
            self._running = window.microbatch(number, averages_rows=self.loss_type in ROW_MEAN_LOSSES)
            try:
                if number == turn[-1]:
                    self._current_train_step_time += time.perf_counter() - started
                    losses.append(super().training_step(model, inputs, num_items_in_batch))
                else:
                    with self._without_sync(model):
                        # Behind TRL's, which would count one more accumulation step
                        losses.append(super(HostTrainer, self).training_step(model, inputs, num_items_in_batch))
            finally:
                self._running = None
        if not turn:
            self._step += 1
            self._current_train_step_time += time.perf_counter() - started
        return torch.stack(losses).sum()

    @contextmanager
    def _without_sync(self, model) -> Generator[None]:
        """Accumulates gradients without exchanging them, in the last accumulation step too."""
        state = self.accelerator.gradient_state
        if not state.sync_gradients:
            yield  # the host sees to it
            return
        state._set_sync_gradients(False)
        try:
            with self.accelerator.no_sync(model):
                yield
        finally:
            state._set_sync_gradients(True)

    @contextmanager
    def _unlogged_and_alone(self) -> Generator[None]:
        """Lets the host compute a loss without logging it, and without asking other processes for their numbers."""
        logged, accelerator = self._metrics["train"], self.accelerator
        self._metrics["train"], self.accelerator = defaultdict(list), _Alone(accelerator)
        try:
            yield
        finally:
            self._metrics["train"], self.accelerator = logged, accelerator

    # Logs

    def _log_window(self, model, window: Window) -> None:
        if window.plan is not None:
            self._replay_logs(model, window)
        local = torch.tensor(window.counts(), device=self.accelerator.device)
        live, rows, padded, real = self.accelerator.reduce(local, reduction="sum").tolist()
        for name, value in {
            "dapo/live_rows": live / rows,
            "dapo/padded_per_real_token": padded / real if real else 1.0,
            "dapo/microbatches": float(sum(map(len, window.turns))),
        }.items():
            self._metrics["train"][name].append(value)

    def _replay_logs(self, model, window: Window) -> None:
        """Lets the host log what it would have logged, from the log-probs that were computed."""
        facts = self.accelerator.reduce(window.token_counts(), reduction="sum")
        for step, batch in enumerate(window.host_batches):
            self._replayed = window.scored(step)
            try:
                with torch.no_grad():
                    self._compute_loss(model, batch)
            finally:
                self._replayed = None
            known, tokens = facts[:, step].tolist()
            if known != tokens:
                # The entropy of rows that were left out is not known: the mean is over the others
                self._metrics["train"]["entropy"][-1] *= tokens / known if known else float("nan")


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
