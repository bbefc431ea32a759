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
        last_rollout (`dict[str, float]`):
            What the last rollout logged, by name.
    """

    completions_generated: int = 0
    exhaustions: int = 0
    last_rollout: dict[str, float] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.completions_generated = state["completions_generated"]
        self.exhaustions = state["exhaustions"]
        self.last_rollout = dict(state["last_rollout"])
