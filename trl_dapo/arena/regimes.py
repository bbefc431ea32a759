"""
Regimes of the built-in task: settings in which one technique of DAPO has something to act on.

In the task as it is, some techniques hardly act, and a comparison with and without them is null by construction. A
regime changes lengths, limits, updates or the warm start so that its technique acts, and says by which metrics to
check that. Its settings were chosen for that check and for a baseline that learns, not for the difference, which is in
`docs/ablation_pilots.md`. In here: plain values. Not in here: how a run is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..dapo.toggles import TOGGLES
from .model import SEEDS
from .settings import MAX_COMPLETION_LENGTH
from .task import LENGTHS


@dataclass(frozen=True)
class Check:
    """
    A manipulation check: whether the technique acted, whatever it did to accuracy.

    Args:
        metric (`str`):
            Name in `docs/metrics.md`. Its mean over a run is checked.
        bound (`float`):
            A mean beyond it says that the technique acted: above it, or below it where `bound` is negative.
        with_technique (`bool`):
            Whether the row with the technique is looked at, or the row without, in which the metric says how often
            the technique would have acted.
        meaning (`str`):
            What the metric says here, in words.
    """

    metric: str
    bound: float
    with_technique: bool
    meaning: str

    def passes(self, mean: float) -> bool:
        """Returns whether a mean says that the technique acted; NaN never does."""
        return mean < self.bound if self.bound < 0 else mean > self.bound


@dataclass(frozen=True)
class Regime:
    """
    Settings of the task, and the technique that can act in them.

    Args:
        name (`str`):
            Name on the command line.
        description (`str`):
            What it is, in one or two sentences.
        technique (`str`, *optional*):
            The toggle in which the two rows of its comparison differ; `None` for the task as it is.
        others (`dict[str, bool]`):
            The other toggles, which are the same in both rows.
        why_others (`str`):
            Why they are as they are.
        fields (`dict[str, Any]`):
            Fields of the training config that differ from the task's own settings.
        lengths (`tuple[int, ...]`):
            Numbers of moves of training and held-out prompts, equally often each; a number can stand there twice.
        warm_start (`str`, *optional*):
            Name of the warm starts; `None` for the plain ones.
        completions (`int`):
            Completions that a run generates.
        checks (`tuple[Check, ...]`):
            The manipulation checks.
    """

    name: str
    description: str
    technique: str | None = None
    others: Mapping[str, bool] = field(default_factory=dict)
    why_others: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    lengths: tuple[int, ...] = LENGTHS
    warm_start: str | None = None
    completions: int = 5120
    checks: tuple[Check, ...] = ()

    @property
    def max_completion_length(self) -> int:
        """Longest completion in tokens, in training and in evaluation."""
        return self.fields.get("max_completion_length", MAX_COMPLETION_LENGTH)

    @property
    def starts(self) -> tuple[str, ...]:
        """Names of its warm starts, one per seed of theirs, as `load_warm_start` takes them."""
        return tuple(str(seed) if self.warm_start is None else f"{self.warm_start}-{seed}" for seed in SEEDS)

    def start_of(self, seed: int) -> str:
        """Returns the warm start of a run's seed: they take turns, so that an interval over seeds covers them."""
        return self.starts[seed % len(self.starts)]

    def toggles(self, with_technique: bool) -> dict[str, bool]:
        """
        Returns all five toggles of the row with the technique, or of the row without.

        Raises:
            `ValueError`: If the regime is about no technique.
        """
        if self.technique is None:
            raise ValueError(f"regime {self.name!r} is about no single technique. Choose a design for its rows.")
        return {**self.others, self.technique: with_technique}


def _others(technique: str, *on: str) -> dict[str, bool]:
    return {toggle: toggle in on for toggle in TOGGLES if toggle != technique}


ALONE = "The others are off, so that none does part of its work."

_OFF_POLICY = Regime(
    name="off-policy",
    description="32 updates per rollout (8 minibatches, 4 passes), and a warm start that answers at once and walks "
    "step by step, which is far better, about one time in ten. A symmetric clip range holds such rare tokens down.",
    technique="clip_higher",
    others=_others("clip_higher"),
    why_others=ALONE,
    fields={"num_iterations": 4},
    lengths=LENGTHS[:5],
    warm_start="rare-steps",
    completions=2560,
    checks=(Check("dapo/above_symmetric", 0.01, False, "share of tokens that the symmetric range clips from above"),),
)
_TRUNCATION = Regime(
    name="truncation",
    description="2 to 7 moves, a limit that only walks of up to 5 moves fit in, and a warm start that seldom slips: "
    "most completions that are cut off are right so far.",
    technique="overlong_filtering",
    others=_others("overlong_filtering"),
    why_others=ALONE,
    fields={"max_completion_length": 18},
    lengths=LENGTHS[:6],
    warm_start="long-winded",
    completions=2560,
    checks=(Check("dapo/rows_filtered", 0.2, True, "share of rows taken out of the loss"),),
)
_PUNISHMENT = Regime(
    name="punishment",
    description="2 to 7 moves, a limit that every walk fits in, and a warm start whose self-checks often do not: it "
    "pays to be brief.",
    technique="soft_overlong_punishment",
    others=_others("soft_overlong_punishment"),
    why_others=ALONE + " Without overlong filtering, truncated rows are punished, too.",
    fields={"max_completion_length": 30},
    lengths=LENGTHS[:6],
    warm_start="long-winded",
    completions=1536,
    checks=(Check("dapo/mean_length_penalty", -0.05, True, "length penalty paid per row, before its factor"),),
)
_LENGTHS = Regime(
    name="lengths",
    description="Problems of 2 moves and of 10, two to one, and room for 64 tokens: a completion is as long as five "
    "others.",
    technique="token_level_loss",
    others=_others("token_level_loss", *TOGGLES),
    why_others="The others are on: with dynamic sampling, every row in the loss has an advantage, so that the weight "
    "moved is weight of the gradient.",
    fields={"max_completion_length": 64},
    lengths=(2, 2, 10),
    completions=5120,
    checks=(Check("dapo/weight_moved", 0.25, True, "share of the loss's weight that moves from short rows to long"),),
)
_DEGENERATE = Regime(
    name="degenerate",
    description="Groups of 4, and problems that are soon solved (2 moves) or seldom (9 and 10 moves): in half of the "
    "groups, all are right or all are wrong.",
    technique="dynamic_sampling",
    others=_others("dynamic_sampling"),
    why_others=ALONE,
    fields={"num_generations": 4},
    lengths=(2, 2, 9, 10),
    completions=5120,
    checks=(
        Check("dapo/groups_replaced", 16.0, True, "degenerate groups replaced per rollout, in batches of 32 groups"),
    ),
)

REGIMES: Mapping[str, Regime] = MappingProxyType(
    {
        regime.name: regime
        for regime in (
            Regime(
                name="default",
                description="The task as it is: 2 to 10 moves, 40 tokens, 8 updates per rollout, and a warm start "
                "that answers at once half of the time.",
            ),
            _OFF_POLICY,
            _TRUNCATION,
            _PUNISHMENT,
            _LENGTHS,
            _DEGENERATE,
        )
    }
)
