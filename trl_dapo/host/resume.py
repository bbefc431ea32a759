"""
What a checkpoint of an online trainer holds beside TRL's files, and how a run goes on from it.

TRL saves neither the completions that it has still to train on nor its place among them, so a run resumed inside a
rollout generates anew. Here a checkpoint holds both, and what was counted since the last log: a run that was killed
and resumed computes what it would have computed.

A checkpoint is made of named parts, each an object with `state_dict` and `load_state_dict`. Parts that all processes
share are JSON in one file; what each process has of its own is tensors and plain values in a file per process.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from .checkpoints import choose, clear, rank_file, read_state, write_state
from .plain import storable, stored
from .state import HostState
from .unfinished import only_unfinished, set_aside


logger = get_logger(__name__)

# Parts that a checkpoint of the present version may lack; they are then given `None`
YOUNGER_PARTS = ("settings", "length_penalty")


class Part(Protocol):
    """A part of a checkpoint."""

    def state_dict(self) -> Any:
        """Returns what the part goes on from."""

    def load_state_dict(self, state: Any) -> None:
        """Goes on from what [`~Part.state_dict`] returned; `None` where the checkpoint has no such part."""


Parts = Mapping[str, Part]


class RolloutShape:
    """
    The size of a rollout, which must not change inside of one.

    Args:
        host ([`HostState`]):
            State of the trainer.
        num_iterations (`int`):
            Passes over a rollout.
    """

    def __init__(self, host: HostState, num_iterations: int) -> None:
        self._host, self._num_iterations = host, num_iterations

    def state_dict(self) -> dict[str, Any]:
        return {"inside": self._host.is_inside_rollout, **self._sizes()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises `ValueError` where the state was saved inside a rollout of another size."""
        for name, size in self._sizes().items():
            if state["inside"] and state[name] != size:
                raise ValueError(
                    f"the checkpoint was saved inside a rollout with {name}={state[name]}, and this run has "
                    f"{name}={size}. Resume with the same value, or from a checkpoint saved at the end of a rollout."
                )

    def _sizes(self) -> dict[str, int]:
        return {"steps_per_generation": self._host.steps_per_generation, "num_iterations": self._num_iterations}


class RolloutPlace:
    """
    One process's place in its rollout: the rows that it has still to train on, and what it has not logged yet.

    Args:
        host ([`HostState`]):
            State of the trainer.
        device (`torch.device`):
            Where the rows go.
        log_completions (`bool`):
            Whether the completions table is logged.
    """

    def __init__(self, host: HostState, device: torch.device, log_completions: bool) -> None:
        self._host, self._device, self._log_completions = host, device, log_completions
        self._unlogged: dict[str, Any] | None = None

    def forget(self) -> None:
        """Forgets a loss that was loaded and not added, as at the start of a run."""
        self._unlogged = None

    def add_unlogged_loss(self) -> None:
        """Adds the loss that a checkpoint held; TRL sets its sum to 0 once the checkpoint is loaded."""
        if self._unlogged is not None:
            self._host.add_unlogged_loss(**self._unlogged)
            self._unlogged = None

    def state_dict(self) -> dict[str, Any]:
        metrics = self._host.metrics["train"]
        return {
            "step": self._host.step,
            "batches": self._host.batches if self._host.is_inside_rollout else None,
            "unlogged": self._host.unlogged_loss(),
            "metrics": {name: [float(value) for value in values] for name, values in metrics.items()},
            "completions": self._completions(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._host.step = state["step"]
        self._host.batches = _on_device(state["batches"], self._device)
        self._unlogged = _on_device(state["unlogged"], self._device)
        metrics = self._host.metrics["train"]
        metrics.clear()
        metrics.update(state["metrics"])
        self._load_completions(stored(state["completions"]))

    def _completions(self) -> dict[str, Any]:
        """Returns the rows of the completions table that the next log will hold; images are left out."""
        if not (self._log_completions and self._host.is_inside_rollout):
            return {}
        table = self._host.completions_table
        plain = {name: list(table[name]) for name in ("prompt", "completion", "advantages")}
        columns = {
            name: {column: list(values) for column, values in table[name].items()} for name in ("rewards", "extra")
        }
        left_out: set[str] = set()
        rows = storable({**plain, **columns}, left_out)
        if left_out:
            logger.warning_once(
                f"Values of type {', '.join(sorted(left_out))} in the completions table are not saved in checkpoints: "
                "a run that is resumed inside a rollout logs None in their places."
            )
        return rows

    def _load_completions(self, completions: dict[str, Any]) -> None:
        table = self._host.completions_table
        # What an interrupted run of the same trainer left there
        for part in table.values():
            part.clear()
        for name, rows in completions.items():
            columns = {name: rows} if isinstance(rows, list) else rows
            for column, values in columns.items():
                (table if isinstance(rows, list) else table[name])[column].extend(values)


def save_parts(folder: Path, trainer: Any, shared: Parts, own: Parts) -> None:
    """
    Writes the parts into a checkpoint folder, before the host writes its own files; all processes must call it.

    Args:
        folder (`Path`):
            The checkpoint, which may hold what an earlier run left.
        trainer ([`~trl.GRPOTrainer`]):
            What is saved.
        shared (`Mapping[str, Part]`):
            Parts that are the same on every process.
        own (`Mapping[str, Part]`):
            Parts of this process.
    """
    args, accelerator = trainer.args, trainer.accelerator
    if args.should_save:
        clear(folder)
        processes = 0 if args.save_only_model else accelerator.num_processes
        write_state(folder, {"processes": processes, "parts": _states(shared)})
    accelerator.wait_for_everyone()
    folder.mkdir(parents=True, exist_ok=True)  # where nodes do not share their storage
    if not args.save_only_model:
        torch.save(_states(own), folder / rank_file(accelerator.process_index))


def load_parts(folder: Path, accelerator: Any, shared: Parts, own: Parts) -> None:
    """
    Loads the parts that [`save_parts`] wrote; those of a process only into the same number of processes.

    Raises:
        `ValueError`: Where the checkpoint was saved inside a rollout by another number of processes.
    """
    state = read_state(folder)
    for name, part in shared.items():
        # Of older checkpoints, not all have these
        if name in YOUNGER_PARTS:
            part.load_state_dict(state["parts"].get(name))
        else:
            part.load_state_dict(state["parts"][name])
    if state["processes"] != accelerator.num_processes:
        _check_other_layout(folder, state, accelerator.num_processes)
        return
    saved = torch.load(folder / rank_file(accelerator.process_index), map_location="cpu", weights_only=True)
    for name, part in own.items():
        part.load_state_dict(saved[name])


def checkpoint_to_resume(asked: str | bool, output_dir: str, online: bool = True) -> str | None:
    """
    Returns the checkpoint to resume from, the same on every process: the one that is asked for where it is whole.
    `None` where the run was killed before its first checkpoint was finished, so that it starts anew.

    Args:
        asked (`str` or `bool`):
            Folder of a checkpoint, or `True` for the newest in `output_dir`.
        output_dir (`str`):
            Where the run saves.
        online (`bool`, *optional*, defaults to `True`):
            Whether checkpoints have the state file of an online trainer.

    Raises:
        `ValueError`: Where there is none.
    """
    if asked is True and all(gather_object([only_unfinished(Path(output_dir))])):
        if PartialState().is_main_process:
            for line in set_aside(Path(output_dir)):
                logger.warning(line)
        PartialState().wait_for_everyone()
        return None
    newest = get_last_checkpoint(output_dir) if asked is True and Path(output_dir).is_dir() else asked
    if newest is None or newest is True:
        raise ValueError(
            f"resume_from_checkpoint=True, and output_dir={output_dir!r} holds no checkpoint. Leave it out to start "
            "anew, or give the folder of a checkpoint."
        )
    folder, lines = choose(str(newest), online)
    found = sorted(set(gather_object([str(folder)])))
    if len(found) > 1:
        # Nodes without shared storage see their own files; what one process cannot read, none takes
        folder = Path(min(found, key=lambda name: int(name.rsplit("-", 1)[-1])))
    for line in lines:
        logger.warning(line)
    return str(folder)


def epochs_behind(checkpoint: str) -> int:
    """Returns the whole epochs that a checkpoint has behind it."""
    state = json.loads((Path(checkpoint) / TRAINER_STATE_NAME).read_text())
    return int(state["epoch"] or 0)


def steps_behind(checkpoint: Path) -> int:
    """Returns the optimizer steps that a checkpoint has behind it."""
    return int(json.loads((checkpoint / TRAINER_STATE_NAME).read_text())["global_step"])


def _states(parts: Parts) -> dict[str, Any]:
    return {name: part.state_dict() for name, part in parts.items()}


def _check_other_layout(folder: Path, state: dict[str, Any], processes: int) -> None:
    if state["processes"] and state["parts"]["rollout"]["inside"]:
        raise ValueError(
            f"{folder} was saved inside a rollout by {state['processes']} processes, each with its own rows, and this "
            f"run has {processes}. Resume with {state['processes']}, or from a checkpoint saved at the end of a "
            "rollout."
        )
    cause = (
        f"it was saved by {state['processes']} processes, and this run has {processes}"
        if state["processes"]
        else "it was saved with save_only_model=True"
    )
    logger.warning(f"Resuming from {folder} is not exact: {cause}.")


def _on_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _on_device(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [_on_device(item, device) for item in value]
    return value
