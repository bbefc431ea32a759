"""
`LiveView`: a run on the screen while it goes, for every trainer of this package.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from transformers import TrainerCallback

from ..host.log_level import wants
from ..host.quiet import quiet
from ..host.watch import Watch
from .metrics import metrics_of
from .samples import pick
from .screens import SHOW, Screen, Show, make_screen
from .state import Evaluating, Rollout, RunState


logger = get_logger(__name__)


class LiveView(TrainerCallback, Watch):
    """
    Shows a run while it goes: progress and time left, a few metrics with their trend, how full the batch of a rollout
    is, a right and a wrong completion, and what the diagnosis finds.

    On a terminal it is a panel at its foot, in a notebook a table with two charts, elsewhere one line per log. The
    progress bars, logs and completions that transformers and TRL print are off meanwhile; files and trackers get what
    they get without it, and so does training, bit for bit. Only the main process shows anything.

    Args:
        diagnosis (`Any`, *optional*):
            What has `findings`, such as a [`DiagnosisCallback`]. By default the callback of the trainer that has some.
        samples_every (`int`, *optional*, defaults to `10`):
            Steps from one pair of completions to the next; 0 for none.
        show (`str`, *optional*, defaults to `"auto"`):
            `"terminal"`, `"lines"` or `"notebook"`. By default what is there; `disable_tqdm=True` means lines.
        clock (`Callable[[], float]`, *optional*, defaults to `time.monotonic`):
            Seconds.

    Raises:
        `ValueError`: For a `show` that is none of these, or `samples_every` below 0.

    Example:

    ```python
    trainer = DAPOTrainer(model, reward_funcs, args, train_dataset, callbacks=[LiveView()])
    ```
    """

    def __init__(
        self,
        diagnosis: Any = None,
        samples_every: int = 10,
        show: Show = "auto",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if show not in SHOW:
            raise ValueError(f"show={show!r} is none of {', '.join(SHOW)}.")
        if samples_every < 0:
            raise ValueError(f"samples_every={samples_every}: steps from one pair to the next, or 0 for none.")
        self._diagnosis, self._samples_every, self._show, self._clock = diagnosis, samples_every, show, clock
        self._lock = threading.RLock()
        self._trainer: Any = None
        self._surrounds = self._has_failed = False
        self._forget()

    def _forget(self) -> None:
        self.state: RunState | None = None
        self._screen: Screen | None = None
        self._sampled_at: int | None = None
        self._processes = 1
        self._warns = True

    # A run, as its trainer tells it

    @contextmanager
    def training(self, trainer: Any) -> Generator[None]:
        """Shows the run that is surrounded, and its end, however it ends."""
        self._trainer, self._surrounds = trainer, True
        ended = "done"
        try:
            with quiet(trainer):
                yield
        except BaseException as error:
            ended = f"stopped by {type(error).__name__}"
            raise
        finally:
            self._close(ended)
            self._trainer, self._surrounds = None, False

    @contextmanager
    def generation(self) -> Generator[None]:
        """Says that completions are generated."""
        self._set(phase="generating")
        try:
            yield
        finally:
            self._set(phase="")

    def written(self, completion_ids: list[list[int]]) -> None:
        """Counts completions; all processes write as many."""
        state = self.state
        if state is not None and state.evaluating is None and self._is_training():
            self._set(units=state.units + self._processes * len(completion_ids))

    def judged(self, kept: int, wanted: int, finished: int, most: int) -> None:
        """Shows how full the batch is."""
        self._set(rollout=Rollout(kept, wanted, finished, most))

    def logs(self, table: Mapping[str, Any]) -> None:
        """Takes a right and a wrong completion, every so many steps."""
        state = self.state
        if state is None or not self._samples_every:
            return
        step = self._trainer.state.global_step
        if self._sampled_at is None or step - self._sampled_at >= self._samples_every:
            self._sampled_at = step
            with self._told():
                found = pick(table, step)
                self._set(samples=found or state.samples)

    def evaluates(self, name: str, done: int, total: int) -> None:
        """Shows how far an evaluation is."""
        self._set(evaluating=Evaluating(name or "held-out questions", done, total) if done < total else None)

    # A run, as transformers tells it

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Begins, with the log that a resumed run has."""
        if not state.is_world_process_zero:
            return
        self._forget()
        self._warns = wants(args, logging.WARNING)
        with self._told():
            self._processes = args.world_size
            title, metrics = metrics_of(args)
            online = hasattr(args, "num_generations")
            self.state = RunState(
                title=f"{title} · {Path(str(args.output_dir)).name}",
                metrics=metrics,
                max_steps=state.max_steps,
                unit="completions" if online else "pairs",
                began=self._clock(),
                step=state.global_step,
                units=self._units_before(args, state.global_step),
                patience=_logs_per_rollout(args),
            )
            for entry in state.log_history:
                self.state.logged(entry, int(entry.get("step", 0)))
            self._take_findings()
            self._screen = make_screen(self._show, args, self._lock, self._fail, self._clock)
            self._screen.begin(self.state)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Notes a step."""
        if self.state is None:
            return
        with self._told(), self._lock:
            if not self._surrounds or self.state.unit == "pairs":
                self.state.units = self._per_step(args) * state.global_step
            self.state.stepped(state.global_step, self._clock())
            self.state.phase = ""
            self._take_findings()
        self._set()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Notes a log."""
        if self.state is None or logs is None:
            return
        with self._told(), self._lock:
            self.state.step, self.state.now = state.global_step, self._clock()
            shows = self.state.logged(logs, state.global_step)
            self._take_findings()
            if shows and self._screen is not None:
                self._screen.logged(self.state, logs)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs) -> None:
        """Shows how far the trainer's own evaluation is."""
        if self.state is None or eval_dataloader is None:
            return
        with suppress(TypeError):  # of a dataset without a length
            before = self.state.evaluating
            done = 1 + (before.done if before is not None and before.name == "evaluation" else 0)
            self._set(evaluating=Evaluating("evaluation", done, len(eval_dataloader)))

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        """Ends an evaluation."""
        self._set(evaluating=None)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Ends, where the trainer is none of this package."""
        if not self._surrounds:
            self._close("done")

    # Beneath

    def _units_before(self, args: Any, step: int) -> int:
        known = getattr(self._trainer, "completions_generated", None)
        return known if isinstance(known, int) and step else self._per_step(args) * step

    def _per_step(self, args: Any) -> int:
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        return rows // max(getattr(args, "num_iterations", 1), 1)

    def _is_training(self) -> bool:
        return self._trainer is not None and self._trainer.model.training

    def _take_findings(self) -> None:
        if self.state is None:
            return
        source = self._diagnosis
        if source is None and self._trainer is not None:
            callbacks = self._trainer.callback_handler.callbacks
            source = next((one for one in callbacks if isinstance(getattr(one, "findings", None), tuple)), None)
        self.state.findings = tuple(getattr(source, "findings", ()))

    def _set(self, **values: Any) -> None:
        """Gives fields of the state other values, and tells the screen."""
        if self.state is None:
            return
        with self._told(), self._lock:
            self.state.now = self._clock()
            for name, value in values.items():
                setattr(self.state, name, value)
            if self._screen is not None:
                self._screen.changed(self.state)

    def _close(self, ended: str) -> None:
        screen, self._screen = self._screen, None
        if self.state is None or screen is None:
            return
        with self._told(), self._lock:
            self.state.ended, self.state.now = ended, self._clock()
            self.state.phase, self.state.evaluating = "", None
            self._take_findings()
        with self._told():
            screen.end(self.state)

    @contextmanager
    def _told(self) -> Generator[None]:
        """Lets no error of the view into the run."""
        try:
            yield
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Shows nothing from now on, and says so once."""
        screen, self._screen = self._screen, None
        if screen is not None and self.state is not None:
            self.state.ended = "no longer shown"
            with suppress(Exception):
                screen.end(self.state)
        if not self._has_failed:
            self._has_failed = True
            if self._warns:
                logger.warning(f"The live view stops, and the run goes on: {type(error).__name__}: {error}")


def _logs_per_rollout(args: Any) -> int:
    updates = getattr(args, "steps_per_generation", 1) * getattr(args, "num_iterations", 1)
    every = args.logging_steps if args.logging_steps >= 1 else 1
    return max(math.ceil(updates / args.gradient_accumulation_steps / every), 1)
