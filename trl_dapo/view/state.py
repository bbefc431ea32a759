"""
What is known of a run: how far it is, how fast, its metrics, its rollout, its samples and findings.

Numbers in, numbers out: nothing here draws, and time is given, never read.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from .metrics import Metric, held_out_metrics
from .samples import Sample
from .series import Series


# Steps over which the pace is taken
WINDOW = 20


@dataclass(frozen=True)
class Rollout:
    """How full the batch of a rollout is: groups, and rounds of which the first counts as one."""

    kept: int
    wanted: int
    finished: int
    most: int


@dataclass(frozen=True)
class Evaluating:
    """How far an evaluation is."""

    name: str
    done: int
    total: int


@dataclass
class RunState:
    """
    A run, as far as it is known.

    Args:
        title (`str`):
            What it is called.
        metrics (`tuple[Metric, ...]`):
            What is shown of its logs.
        max_steps (`int`):
            Steps that it shall have.
        unit (`str`, *optional*, defaults to `"completions"`):
            What it uses up: `"completions"` or `"pairs"`.
        began (`float`, *optional*, defaults to `0.0`):
            Time at which it began, in seconds.
        step (`int`, *optional*, defaults to `0`):
            Where it stands; above 0 where it goes on from a checkpoint.
        units (`int`, *optional*, defaults to `0`):
            How many completions or pairs it has had, before a resume too.

        patience (`int`, *optional*, defaults to `1`):
            Logs from one rollout to the next.

    Attributes:
        series (`dict[str, Series]`): each metric by its label, once it has had a value.
        rollout ([`Rollout`], *optional*): the rollout that goes on, or the last one.
        phase (`str`): what goes on, empty where it is nothing in particular.
        evaluating ([`Evaluating`], *optional*): the evaluation that goes on.
        samples (`tuple[Sample, ...]`): completions.
        findings (`tuple[Finding, ...]`): what the diagnosis has found.
        ended (`str`): how the run ended; empty while it goes.
    """

    title: str
    metrics: tuple[Metric, ...]
    max_steps: int
    unit: str = "completions"
    began: float = 0.0
    step: int = 0
    units: int = 0
    patience: int = 1
    series: dict[str, Series] = field(default_factory=dict)
    rollout: Rollout | None = None
    phase: str = ""
    evaluating: Evaluating | None = None
    samples: tuple[Sample, ...] = ()
    findings: tuple[Any, ...] = ()
    ended: str = ""

    def __post_init__(self) -> None:
        self.now = self.began
        self._held_out: dict[str, Metric] = {}
        self._pace: deque[tuple[int, float, int]] = deque([(self.step, self.began, self.units)], maxlen=WINDOW + 1)

    def stepped(self, step: int, now: float) -> None:
        """Notes the end of a step, for the pace as well."""
        self.step, self.now = step, now
        self._pace.append((step, now, self.units))

    def logged(self, entry: dict[str, Any], step: int) -> bool:
        """
        Notes a log; a metric without a value in it gets a gap.

        Returns:
            `bool`: Whether it has a metric that is shown.
        """
        held_out = held_out_metrics(entry)
        if held_out:
            self._held_out.update((one.label, one) for one in held_out)
            return self._note(held_out, entry, step, patience=1)
        if any(name.startswith(("eval_", "train_runtime")) for name in entry):
            return False
        return self._note(self.metrics, entry, step, self.patience)

    def _note(self, metrics: Any, entry: dict[str, Any], step: int, patience: int) -> bool:
        values = {one.label: one.of(entry) for one in metrics}
        if all(value is None for value in values.values()):
            return False
        for label, value in values.items():
            if value is not None or label in self.series:
                self.series.setdefault(label, Series(patience=patience)).add(step, value)
        return True

    @property
    def shown(self) -> list[Metric]:
        """The metrics that have had a value, those of held-out questions first."""
        return [one for one in (*self._held_out.values(), *self.metrics) if one.label in self.series]

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return self.now - self.began

    @property
    def seconds_per_step(self) -> float | None:
        """Pace of the last steps, `None` before the first one has ended."""
        (first, then, _), (last, now, _) = self._pace[0], self._pace[-1]
        return (now - then) / (last - first) if last > first else None

    @property
    def seconds_left(self) -> float | None:
        """How long the run will take from the end of its last step, less what has passed since."""
        pace = self.seconds_per_step
        if pace is None:
            return None
        return max((self.max_steps - self.step) * pace - (self.now - self._pace[-1][1]), 0.0)

    @property
    def units_left(self) -> int | None:
        """How many completions or pairs are to come, as many per step as in the last steps."""
        (first, _, before), (last, _, units) = self._pace[0], self._pace[-1]
        if last <= first:
            return None
        return round((self.max_steps - self.step) * (units - before) / (last - first))

    @property
    def units_per_second(self) -> float | None:
        """How many completions or pairs there were per second in the last steps."""
        (_, then, before), (_, now, units) = self._pace[0], self._pace[-1]
        return (units - before) / (now - then) if now > then and units > before else None
