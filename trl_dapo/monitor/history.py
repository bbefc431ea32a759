"""
What a run has logged, as `trainer_state.json` keeps it: rows of numbers by step.

A log is untrusted: it may be cut off, of another library, or have entries that are no numbers.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..host.checkpoints import is_finished, numbered
from .event_checkpoints import event_checkpoints


STATE = "trainer_state.json"


@dataclass(frozen=True)
class Row:
    """
    One entry of a log.

    Args:
        step (`int`):
            Optimizer step at which it was logged.
        values (`dict[str, float]`):
            Its numbers by name, NaN and infinity included. `None` and what is no number are left out.
    """

    step: int
    values: Mapping[str, float]

    @classmethod
    def of(cls, entry: Any, place: str = "the log") -> "Row":
        """
        Returns an entry of `log_history`.

        Raises:
            `ValueError`: If it is no mapping with a `step`.
        """
        if not isinstance(entry, Mapping):
            raise ValueError(f"{place} is {_short(entry)}, and an entry of a log is a mapping with a `step`.")
        step = entry.get("step")
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(f"{place} has step={_short(step)}: a whole number from 0 on is needed.")
        numbers = {str(name): float(value) for name, value in entry.items() if name != "step" and _is_number(value)}
        return cls(step, numbers)


@dataclass(frozen=True)
class History:
    """
    The log of a run.

    Args:
        rows (`tuple[Row, ...]`):
            Its entries, in the order in which they were logged; steps never fall.
    """

    rows: tuple[Row, ...]

    @classmethod
    def of(cls, log_history: Any, place: str = "log_history") -> "History":
        """
        Returns the log of a trainer's `state.log_history`.

        Args:
            log_history (`list[dict]`):
                The logs, in the order of their steps.
            place (`str`, *optional*, defaults to `"log_history"`):
                What errors call it.

        Raises:
            `ValueError`: If it is no list of mappings with a `step`, or its steps fall.
        """
        if not isinstance(log_history, Iterable) or isinstance(log_history, str | bytes | Mapping):
            raise ValueError(f"{place} is {_short(log_history)}, and a log is a list.")
        rows: list[Row] = []
        for number, entry in enumerate(log_history):
            row = Row.of(entry, f"{place}[{number}]")
            if rows and row.step < rows[-1].step:
                raise ValueError(
                    f"{place}[{number}] has step={row.step} after step {rows[-1].step}: these are the logs of several "
                    "runs. Give the log of one."
                )
            rows.append(row)
        return cls(tuple(rows))

    @classmethod
    def read(cls, path: Path) -> "History":
        """
        Returns the log in a `trainer_state.json`.

        Args:
            path (`Path`):
                The file.

        Raises:
            `ValueError`: If the file cannot be read as one.
        """
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(f"There is no file {path}.") from error
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is not whole, or no JSON: {_short(str(error) or type(error).__name__)}. Take an older "
                "checkpoint."
            ) from error
        if not isinstance(state, dict) or "log_history" not in state:
            raise ValueError(f"{path} has no `log_history`: it is not the trainer_state.json of a run.")
        return cls.of(state["log_history"], f"log_history of {path}")


def find_state(run: Path) -> Path:
    """
    Returns the `trainer_state.json` of a run: the file itself, that of a checkpoint, or the latest in a run's folder.

    Raises:
        `ValueError`: If there is none.
    """
    if run.is_file():
        return run
    if not run.is_dir():
        raise ValueError(f"There is no run {run}: give its output_dir, a checkpoint, or a {STATE}.")
    inside = [*numbered(run), *(folder for _, folder in reversed(event_checkpoints(run)))]
    found = [folder / STATE for folder in [run, *inside] if is_finished(folder)]
    if found:
        return max(found, key=_last_step)
    damaged = [folder.name for folder in [run, *inside] if (folder / STATE).is_file()]
    if damaged:
        raise ValueError(f"{run}: {STATE} of {', '.join(damaged)} is cut short or no JSON, and there is no other.")
    raise ValueError(
        f"{run} has no {STATE}, and no checkpoint with one. A run writes it with each checkpoint (save_strategy, "
        "save_steps), or by `trainer.save_state()`."
    )


def _last_step(path: Path) -> int:
    step = json.loads(path.read_bytes()).get("global_step")
    return step if isinstance(step, int) else -1


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
