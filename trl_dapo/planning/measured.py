"""
Records what a run needed: peak memory, seconds and tokens of each phase, in a file in its folder.

It looks and changes nothing: no random number is drawn, no tensor is made. Generation is what `host.watch` surrounds;
what comes after it without gradient is scoring; the first pass with gradient begins the update, which lasts until the
next generation.
"""

import json
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from transformers import TrainerCallback

from ..host.watch import Watch
from ..host.whole_files import write_whole
from .resident import Resident


logger = get_logger(__name__)

FILE = "memory_and_time.json"
VERSION = 1
PHASES = ("generate", "score", "update")


@dataclass
class Measured:
    """
    What one phase needed so far.

    Args:
        peak_bytes (`int`):
            Most bytes at a time: of tensors on a GPU, of the process on a CPU.
        reserved_bytes (`int`):
            Most bytes that PyTorch's allocator held on a GPU; 0 on a CPU.
        seconds (`float`):
            All its time.
        tokens (`int`):
            Completion tokens that were written; in other phases, tokens that were read, padding included.
    """

    peak_bytes: int = 0
    reserved_bytes: int = 0
    seconds: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class RunMeasured:
    """
    The file of a run.

    Args:
        device (`str`):
            `"cuda"` or `"cpu"`.
        steps (`int`):
            Optimizer steps that were measured.
        at_start_bytes (`int`):
            Before the first step, with the model loaded.
        phases (`dict[str, Measured]`):
            By name.
    """

    device: str
    steps: int
    at_start_bytes: int
    phases: dict[str, Measured]


def read_measured(folder: Path) -> RunMeasured:
    """
    Returns what a run has recorded.

    Raises:
        `ValueError`: If there is no such file in the folder, or it is another's.
    """
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["version"] != VERSION:
            raise ValueError(f"version {values['version']}")
        phases = {str(name): Measured(**one) for name, one in values["phases"].items()}
        return RunMeasured(str(values["device"]), int(values["steps"]), int(values["at_start_bytes"]), phases)
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} has no {FILE}. It is written by runs of `trl-dapo`, at their logs, checkpoints and end."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as what a run has measured: {error}.") from error


class MemoryAndTime(TrainerCallback, Watch):
    """
    Measures a trainer's run, see the module. [`watch`] adds it.

    Args:
        trainer (`Any`):
            Any trainer of this package.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._cuda = trainer.accelerator.device.type == "cuda"
        self._resident = Resident()
        self._forget()

    def _forget(self) -> None:
        self.phases: dict[str, Measured] = {}
        self.steps = 0
        self.at_start = 0
        self._now: str | None = None
        self._begun = 0.0

    # Phases

    def enter(self, name: str | None) -> None:
        """Ends the phase that is on, and begins another; `None` where nothing is measured."""
        if name == self._now:
            return
        self._end()
        self._now = name
        self._resident.reset()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        self._begun = time.perf_counter()

    def _end(self) -> None:
        if self._now is None:
            return
        if self._cuda:
            torch.cuda.synchronize()
        one = self.phases.setdefault(self._now, Measured())
        now = time.perf_counter()
        one.seconds += now - self._begun
        self._begun = now
        if self._cuda:
            one.peak_bytes = max(one.peak_bytes, torch.cuda.max_memory_allocated())
            one.reserved_bytes = max(one.reserved_bytes, torch.cuda.max_memory_reserved())
        else:
            one.peak_bytes = max(one.peak_bytes, self._resident.peak())

    def count(self, tokens: int) -> None:
        """Adds tokens to the phase that is on."""
        if self._now is not None:
            self.phases.setdefault(self._now, Measured()).tokens += tokens

    @property
    def is_training(self) -> bool:
        """Whether what happens belongs to training, and not to an evaluation or to the time before."""
        return self._now is not None and self._trainer.model.training

    @contextmanager
    def generation(self) -> Generator[None]:
        """Surrounds a generation of the trainer."""
        if not self.is_training:
            yield
            return
        self.enter("generate")
        try:
            yield
        finally:
            self.enter("score")

    def written(self, completion_ids: list[list[int]]) -> None:
        """Counts completions."""
        if self.is_training:
            self.phases.setdefault("generate", Measured()).tokens += sum(map(len, completion_ids))

    def read(self, input_ids: Any) -> None:
        """Sees the tokens of a pass before it runs."""
        if not self.is_training or self._now == "generate" or not isinstance(input_ids, torch.Tensor):
            return
        if torch.is_grad_enabled():
            self.enter("update")
        self.count(input_ids.numel())

    # What happens in a run

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Starts, or goes on with what a resumed run has recorded."""
        self._forget()
        if state.global_step:
            with suppress(ValueError):
                known = read_measured(self._folder)
                self.phases, self.steps = known.phases, min(known.steps, state.global_step)
        self.at_start = torch.cuda.memory_allocated() if self._cuda else self._resident.now()
        self.enter("score")

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Counts an optimizer step."""
        self.steps += 1

    def on_log(self, args, state, control, **kwargs) -> None:
        """Writes the file."""
        self._write()

    def on_save(self, args, state, control, **kwargs) -> None:
        """Writes the file, and leaves the time of a checkpoint out."""
        self._write()
        self._begun = time.perf_counter()

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        """Leaves the time of an evaluation out."""
        self._begun = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Writes the file for the last time."""
        self._write()
        self._now = None

    @property
    def _folder(self) -> Path:
        return Path(str(self._trainer.args.output_dir))

    def _write(self) -> None:
        self._end()
        if not self._trainer.is_world_process_zero():
            return
        values = {
            "version": VERSION,
            "device": "cuda" if self._cuda else "cpu",
            "steps": self.steps,
            "at_start_bytes": self.at_start,
            "phases": {name: asdict(self.phases[name]) for name in PHASES if name in self.phases},
        }
        # A full disk is for the checkpoint to tell; a record is not worth a run
        with suppress(OSError):
            write_whole(self._folder / FILE, json.dumps(values, indent=2) + "\n", sync=False)


def watch(trainer: Any) -> MemoryAndTime | None:
    """
    Records peak memory, seconds and tokens of a trainer's phases in `output_dir/memory_and_time.json`.

    Args:
        trainer (`Any`):
            Any trainer of this package, before it trains.

    Returns:
        [`MemoryAndTime`], *optional*: The callback that was added; `None` with `torch_compile`, where looking into a
        pass would break its graph.
    """
    if trainer.args.torch_compile:
        return None
    one = MemoryAndTime(trainer)
    trainer.add_callback(one)
    model = trainer.accelerator.unwrap_model(trainer.model)
    # Of all modules, every pass has this one in common: the critic's calls no whole model
    model.get_input_embeddings().register_forward_pre_hook(
        lambda module, inputs: one.read(inputs[0] if inputs else None)
    )
    return one
