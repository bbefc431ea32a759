"""
What a run counts over all of its rollouts.
"""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Tally:
    """
    Counts of a run, which go on after a resume.

    Attributes:
        completions_generated (`int`):
            Completions generated for training by all processes, those of dropped groups included.
        exhaustions (`int`):
            Rollouts that spent their rounds without filling the batch.
        rollouts, rounds (`int`):
            Rollouts, and the rounds of generation that they took.
        groups_generated, groups_kept (`int`):
            Groups generated, and informative ones trained on.
        counted_from (`int`):
            Completions at which the counts of rollouts, rounds and groups begin: more than 0 where a run resumed from
            a checkpoint without them.
        last_rollout (`dict[str, float]`):
            What the last rollout logged, by name.
    """

    completions_generated: int = 0
    exhaustions: int = 0
    rollouts: int = 0
    rounds: int = 0
    groups_generated: int = 0
    groups_kept: int = 0
    counted_from: int = 0
    last_rollout: dict[str, float] = field(default_factory=dict)

    def count(self, metrics: dict[str, float]) -> None:
        """Counts a rollout by what it logs."""
        self.rollouts += 1
        self.rounds += 1 + int(metrics["dapo/refill_rounds"])
        self.groups_generated += int(metrics["dapo/groups_generated"])
        self.groups_kept += int(metrics["dapo/groups_kept"])

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.completions_generated = state["completions_generated"]
        self.exhaustions = state["exhaustions"]
        for name in ("rollouts", "rounds", "groups_generated", "groups_kept"):
            setattr(self, name, state.get(name, 0))
        self.counted_from = state.get("counted_from", self.completions_generated)
        self.last_rollout = dict(state["last_rollout"])
