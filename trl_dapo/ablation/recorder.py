"""
Watches a run: what it has spent, when it is measured, and when it ends.

What was spent is counted in completions, optimizer steps and seconds. A budget of completions ends with the rollout
that reaches it, once all updates from that rollout are done. All of this is in the trainer's checkpoints, so that a
run that was killed goes on with the numbers that it had.
"""

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from .measurement import Measurement
from .progress import Progress, write_progress
from .results import DataSet, End, SampleCompletion, end_of
from .run_spec import RunSpec


# Logged, and no metrics of a rollout
NOT_A_METRIC = ("epoch", "total_flos", "train_loss", "train_runtime")
DIGITS = 6


class Recorder(TrainerCallback, ExportableState):
    """
    Measures a run at each of its budgets and on the way, and stops it when all are spent.

    Args:
        trainer ([`DAPOTrainer`]):
            The trainer.
        spec ([`RunSpec`]):
            The run.
        measurement ([`Measurement`]):
            What it is measured with.
        folder (`Path`):
            The run's folder, for `progress.json`.

    Attributes:
        seconds (`float`): spent on training, without evaluations and checkpoints.
        ends (`dict[str, End]`): what was found at each budget.
        curve (`list[dict[str, float]]`): the training logs.
        held_out (`list[dict[str, float]]`): the measurements on the way.
        completions (`list[SampleCompletion]`): some of the last measurement.
    """

    def __init__(self, trainer: Any, spec: RunSpec, measurement: Measurement, folder: Path) -> None:
        self._trainer, self._spec, self._measurement, self._folder = trainer, spec, measurement, folder
        self._mark = 0.0
        self._forget()

    def _forget(self) -> None:
        self.seconds = 0.0
        self.points = 0  # measurements on the way that are done
        self.ends: dict[str, End] = {}
        self.curve: list[dict[str, float]] = []
        self.held_out: list[dict[str, float]] = []
        self.completions: list[SampleCompletion] = []

    def state(self) -> dict:
        """Returns what a checkpoint keeps, as JSON has it."""
        return {
            "seconds": self.seconds,
            "points": self.points,
            "ends": {match: asdict(end) for match, end in self.ends.items()},
            "curve": self.curve,
            "held_out": self.held_out,
            "completions": [asdict(one) for one in self.completions],
        }

    def _recall(self, kept: Mapping[str, Any]) -> None:
        self.seconds, self.points = kept["seconds"], kept["points"]
        self.curve, self.held_out = list(kept["curve"]), list(kept["held_out"])
        self.completions = [SampleCompletion(**one) for one in kept["completions"]]
        self.ends = {match: end_of(values) for match, values in kept["ends"].items()}

    # What happens in a run

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Takes up what a checkpoint has kept, or measures the start."""
        self._forget()
        if state.global_step:
            self._recall(state.stateful_callbacks[type(self).__name__])
        else:
            self._measure_on_the_way()
        self._mark = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Counts, measures where a budget is spent or a point is reached, and stops when all budgets are spent."""
        self.seconds += time.perf_counter() - self._mark
        spent = self._spent()
        if self._folder_is_ours:
            # A full disk is for the checkpoint to tell; how far the run is, is not worth its end
            with suppress(OSError):
                write_progress(self._folder, self._progress(spent))
        reached = self._reached(spent)
        if reached:
            self._measure_ends(reached)
        if len(self.ends) == len(self._spec.budgets):
            control.should_training_stop = True
            # From a checkpoint of its last step, a run would train one step more
            control.should_save = False
        elif self._is_point_due(spent):
            self._measure_on_the_way()
        self._mark = time.perf_counter()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Adds a log of training to the curve."""
        if not logs or "dapo/accuracy_generated" not in logs:
            return
        numbers = {name: value for name, value in logs.items() if name not in NOT_A_METRIC}
        finite = {
            name: float(f"{value:.{DIGITS}g}")
            for name, value in numbers.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        self.curve.append({**self._place(), **finite})

    def on_save(self, args, state, control, **kwargs) -> None:
        """Leaves the time that a checkpoint takes out of the seconds."""
        self._mark = time.perf_counter()

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        """Leaves the time that the trainer's own evaluation takes out of the seconds."""
        self._mark = time.perf_counter()

    # What was spent

    def _spent(self) -> dict[str, float]:
        trainer = self._trainer
        if "seconds" in self._spec.budgets:
            # All processes end with the same step
            told = torch.tensor([self.seconds], device=trainer.accelerator.device, dtype=torch.float32)
            self.seconds = float(broadcast(told).item()) if trainer.accelerator.num_processes > 1 else self.seconds
        return {
            "samples": float(trainer.completions_generated),
            "steps": float(trainer.state.global_step),
            "seconds": self.seconds,
        }

    def _fraction(self, spent: Mapping[str, float]) -> float:
        return min(1.0, *(spent[match] / budget for match, budget in self._spec.budgets.items()))

    def _reached(self, spent: Mapping[str, float]) -> list[str]:
        """Returns the budgets that are spent now and were not before."""
        state = self._trainer.state
        # The updates of a rollout belong to its completions
        rollout_ends = state.global_step % max(1, int(self._trainer.args.updates_between_generations)) == 0
        return [
            match
            for match, budget in self._spec.budgets.items()
            if match not in self.ends and spent[match] >= budget and (match != "samples" or rollout_ends)
        ]

    def _progress(self, spent: Mapping[str, float]) -> Progress:
        accuracy = self.curve[-1]["dapo/accuracy_generated"] if self.curve else None
        return Progress(self._fraction(spent), int(spent["steps"]), int(spent["samples"]), accuracy)

    def _measure_ends(self, reached: list[str]) -> None:
        measured = self._measurement.at_end()
        for match in reached:
            self.ends[match] = End(
                budget=self._spec.budgets[match],
                steps=self._trainer.state.global_step,
                completions=self._trainer.completions_generated,
                seconds=self.seconds,
                data_sets=measured.data_sets,
            )
        self.completions = list(measured.completions)
        self.held_out.append({**self._place(), **_accuracies(measured.data_sets)})

    def _is_point_due(self, spent: Mapping[str, float]) -> bool:
        """Whether the next of the points is reached, which divide the budget in equal parts from the start on."""
        points = self._spec.measuring.points
        return self.points <= points and self._fraction(spent) * (points + 1) >= self.points

    def _measure_on_the_way(self) -> None:
        # A large rollout may pass several points at once
        while self._is_point_due(self._spent()):
            self.points += 1
        if self._spec.measuring.points:
            self.held_out.append({**self._place(), **self._measurement.on_the_way()})

    def _place(self) -> dict[str, float]:
        return {
            "step": self._trainer.state.global_step,
            "completions": self._trainer.completions_generated,
            "seconds": round(self.seconds, 3),
        }

    @property
    def _folder_is_ours(self) -> bool:
        return self._trainer.is_world_process_zero()


def _accuracies(data_sets: Mapping[str, DataSet]) -> dict[str, float]:
    return {name: one.accuracy for name, one in data_sets.items()}
