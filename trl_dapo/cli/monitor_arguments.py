"""
What all training commands share about looking into a run: script arguments, and the callbacks that they make.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from trl import ScriptArguments

from trl_dapo.monitor.callback import DiagnosisCallback
from trl_dapo.monitor.diagnosis import check_rules
from trl_dapo.view.callback import LiveView


@dataclass
class MonitoredScriptArguments(ScriptArguments):
    """
    Script arguments of a run that is looked into.

    Args:
        live_view (`"auto"`, `"on"` or `"off"`, *optional*, defaults to `"auto"`):
            Show the run: a panel on a terminal, else one line per log. `on` draws the panel wherever the output goes,
            `off` leaves the output to transformers.
        diagnose (`bool`, *optional*, defaults to `True`):
            Look for faults during training: one warning each, and `findings.json` in `output_dir`.
        stop_on (`list[str]`, *optional*):
            Rules that end the run, with a checkpoint; `any` for all of them.
        save_on_finding (`bool`, *optional*, defaults to `False`):
            Keep a checkpoint of each finding's step, which `save_total_limit` leaves alone.
    """

    live_view: Literal["auto", "on", "off"] = field(
        default="auto",
        metadata={
            "help": "Show the run: a panel on a terminal, else a line per log; on: a panel anywhere; off: none."
        },
    )
    diagnose: bool = field(
        default=True, metadata={"help": "Look for faults during training: one warning each, and findings.json."}
    )
    stop_on: list[str] | None = field(
        default=None,
        metadata={"help": "Rules of the diagnosis that end the run, with a checkpoint: their names, or any."},
    )
    save_on_finding: bool = field(
        default=False,
        metadata={"help": "Keep a checkpoint of each finding's step, which save_total_limit leaves alone."},
    )

    def __post_init__(self) -> None:
        # A YAML file may give a single name instead of a list
        self.stop_on = [self.stop_on] if isinstance(self.stop_on, str) else self.stop_on
        check_rules(self.stop_on or ())
        for name in ("stop_on", "save_on_finding"):
            if getattr(self, name) and not self.diagnose:
                raise ValueError(f"{name}={getattr(self, name)} needs diagnose=True: without it, nothing is found.")


def add_monitors(trainer: Any, script_args: MonitoredScriptArguments) -> None:
    """Adds the callbacks that the arguments ask for."""
    if script_args.diagnose:
        trainer.add_callback(DiagnosisCallback(script_args.stop_on or (), script_args.save_on_finding))
    if script_args.live_view != "off":
        trainer.add_callback(LiveView(show="terminal" if script_args.live_view == "on" else "auto"))
