"""
The diagnosis during training: a callback that tells each finding once, and may end the run or keep a checkpoint.
"""

import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.logging import get_logger
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from ..host.log_level import wants
from .diagnosis import Diagnosis, check_rules
from .event_checkpoints import keep, room_for_checkpoint
from .finding import FILE, Finding, write_findings
from .history import Row
from .movement import MOVED, Movement
from .prompts import PLAIN, share_plain
from .settings import Settings


logger = get_logger(__name__)


@dataclass(frozen=True)
class _Act:
    """What the main process does about a finding, and all others with it."""

    rule: str
    step: int
    stops: bool
    missing: str | None  # why no checkpoint is begun


class DiagnosisCallback(TrainerCallback):
    """
    Tells what is wrong with a run while it trains, since when, and what to change.

    For any trainer of this package or of TRL. Each finding is one warning (an error where it ends the run, and none
    where `log_level` asks for less), an entry of `findings.json` in
    `output_dir`, and an alert where trackio reports. It changes no number of training. To the log it adds
    `trained/share_moved`, and once `prompts/share_plain`. A run that resumes finds again
    what its log holds, so nothing is told twice. With several processes, the main one tells, and decides for all.

    Args:
        stop_on (`list[str]` or `str`, *optional*):
            Rules that end the run, with a checkpoint at the step of the finding; `"any"` for all of them.
        save_on_finding (`bool`, *optional*, defaults to `False`):
            Whether to keep a checkpoint of the step of each finding, as `finding-<rule>-<step>`, which
            `save_total_limit` leaves alone.

    Attributes:
        findings (`tuple[Finding, ...]`): what was found so far.
        notes (`tuple[str, ...]`): what is as it should be, and may look wrong.

    Raises:
        `ValueError`: If `stop_on` names no rule.

    Example:
    ```python
    trainer = DAPOTrainer(model, accuracy_reward, callbacks=[DiagnosisCallback(stop_on=["entropy_explosion"])])
    ```
    """

    def __init__(self, stop_on: Iterable[str] | str = (), save_on_finding: bool = False) -> None:
        self._stop_on = frozenset(check_rules(stop_on))
        self._saves = save_on_finding
        self._begin(Settings())

    def _begin(self, settings: Settings) -> None:
        self._diagnosis = Diagnosis(settings)
        self._movement: Movement | None = None
        self._plain: float | None = None
        self._rows = 0
        self._to_keep: str | None = None
        self._waiting: list[Finding] = []
        self._bytes = 0

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far, in order."""
        return self._diagnosis.findings

    @property
    def notes(self) -> tuple[str, ...]:
        """What is as it should be, and may look wrong."""
        return self._diagnosis.notes()

    def undecided(self) -> dict[str, str]:
        """Returns the rules that cannot tell so far, by name, each with what is missing."""
        return self._diagnosis.undecided()

    # What the trainer calls

    def on_train_begin(self, args, state, control, model=None, processing_class=None, **kwargs) -> None:
        """Looks at the prompts and at the log of a run that resumes."""
        # On every process: it is told on the main one, and decided alike on all
        self._begin(Settings.of(args))
        if model is not None:
            self._movement = Movement(model.named_parameters())
            self._bytes = sum(one.numel() * one.element_size() for one in model.parameters())
        if state.global_step == 0:
            self._plain = share_plain(getattr(kwargs.get("train_dataloader"), "dataset", None), processing_class)
        self._read(state)
        if not state.is_world_process_zero:
            return
        if self.findings or (Path(args.output_dir) / FILE).is_file():
            # What an earlier run found after this checkpoint has not happened yet
            self._write(args)
        for note in self.notes:
            logger.info(note)

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        """Notes weights before an update that is logged."""
        step = state.global_step + 1
        if self._movement is None:
            return
        if step % max(1, int(state.logging_steps)) == 0 or step == 1:
            self._movement.update_begins()
        else:
            self._movement.forget()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Looks at what was logged, and tells what it finds."""
        if not state.log_history:
            return control
        entry = state.log_history[-1]
        self._add_own(entry)
        found = self._read(state)
        if state.is_world_process_zero:
            for finding in found:
                self._tell(finding, args)
        if self._stop_on or self._saves:
            self._waiting += found
            if _logged_by_all(entry):
                self._act_on(_agreed(self._decided(args)), control)
        return control

    def on_save(self, args, state, control, **kwargs) -> None:
        """Keeps the checkpoint of a finding apart from those that are removed."""
        rule, self._to_keep = self._to_keep, None
        if rule is None:
            return
        # Other processes may still be writing their files of it
        PartialState().wait_for_everyone()
        if not state.is_world_process_zero:
            return
        try:
            keep(Path(args.output_dir) / f"checkpoint-{state.global_step}", rule, state.global_step)
        except OSError as error:
            logger.warning(f"The checkpoint of {rule} at step {state.global_step} is not kept: {error}")

    # What it does

    def _read(self, state: Any) -> list[Finding]:
        """Looks at the rows of the log that are new; wrong ones, which only a plug-in can make, are passed over."""
        new: list[Finding] = []
        for entry in state.log_history[self._rows :]:
            try:
                new += self._diagnosis.add(Row.of(entry))
            except ValueError as error:
                logger.warning_once(f"The diagnosis passes over a row of the log: {error}")
        self._rows = len(state.log_history)
        return new

    def _add_own(self, entry: dict[str, Any]) -> None:
        """Adds what only the callback can see to the row that the trainer has just logged."""
        if "loss" not in entry:
            return
        if self._movement is not None and (moved := self._movement.share_moved()) is not None:
            entry[MOVED] = moved
        if self._plain is not None:
            entry[PLAIN], self._plain = self._plain, None

    def _tell(self, finding: Finding, args: Any) -> None:
        since = f" since step {finding.onset}" if finding.onset != finding.step else ""
        change = f" Change {' or '.join(finding.settings)}." if finding.settings else ""
        # One that ends the run is more than a warning
        level = logging.ERROR if finding.rule in self._stop_on else logging.WARNING
        if wants(args, level):
            told = f"{finding.message}{change} {finding.advice}"
            logger.log(level, f"Step {finding.step}, {finding.rule}{since}: {told}")
        self._write(args)
        _alert(finding, args)

    def _write(self, args: Any) -> None:
        try:
            write_findings(Path(args.output_dir), self.findings)
        except OSError as error:
            logger.warning_once(f"Findings are not written to {args.output_dir}: {error}")

    def _decided(self, args: Any) -> _Act | None:
        """Returns what to do about the findings since the last decision."""
        found, self._waiting = self._waiting, []
        stops = any(finding.rule in self._stop_on for finding in found)
        if not found or not (stops or self._saves):
            return None
        # A save that fails ends the run with a traceback, so it is not begun
        missing = room_for_checkpoint(Path(args.output_dir), self._bytes, 1 + self._saves)
        # One checkpoint per step, whatever else is found there
        return _Act(found[0].rule, found[0].step, stops, missing)

    def _act_on(self, act: _Act | None, control: Any) -> None:
        """Asks for a checkpoint or for the end of the run."""
        if act is None:
            return
        control.should_training_stop = control.should_training_stop or act.stops
        if act.missing is not None:
            logger.warning(f"No checkpoint at {act.rule}, step {act.step}: {act.missing}.")
            return
        control.should_save = True
        if self._saves:
            self._to_keep = act.rule


def _logged_by_all(entry: dict[str, Any]) -> bool:
    """Whether the trainer has logged it, which it does on all processes at once; others may log on one alone."""
    return "loss" in entry or any(name.startswith("eval_") for name in entry)


def _agreed(act: _Act | None) -> _Act | None:
    """
    Returns what the main process has decided.

    Processes save and stop together, or wait for each other for ever, and their logs or disks may tell them apart.
    """
    return broadcast_object_list([act])[0]


def _alert(finding: Finding, args: Any) -> None:
    """Forwards a finding to trackio, where the run reports to it."""
    trackio = sys.modules.get("trackio")
    reports = args.report_to if isinstance(args.report_to, list) else [args.report_to]
    if trackio is None or not {"trackio", "all"} & set(reports) or not hasattr(trackio, "alert"):
        return
    try:
        trackio.alert(title=f"{finding.rule} at step {finding.step}", text=f"{finding.message} {finding.advice}")
    except Exception as error:
        # A tracker that is down is not worth a run
        logger.warning_once(f"trackio takes no alert: {error}")
