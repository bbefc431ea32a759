"""
Zero-gradient steps: many updates have a gradient of exactly 0.
"""

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings


WINDOW = 20  # logs
SHARE = 0.2
ZERO = 1e-10


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    series = seen.series("grad_norm")
    values = series.last(WINDOW)
    share = sum(abs(value) < ZERO for value in values) / len(values)
    if share <= SHARE:
        return None
    first = next(i for i, value in enumerate(values) if abs(value) < ZERO)
    return Symptom(
        series.steps[-WINDOW:][first],
        f"{share:.0%} of the last {len(values)} logged updates had a gradient of 0.",
        {"share": share},
        ("dynamic_sampling=True", "prompts of medium difficulty"),
    )


RULE = Rule(
    name="zero_gradient",
    watches=lambda seen: seen.first_of("grad_norm"),
    needs="`grad_norm`",
    look=_look,
    minimum=10,
    patience=1,
    advice="Fill batches with informative groups (dynamic sampling), or look why every row is masked or of equal "
    "reward: these updates cost time and teach nothing.",
    reference="docs/dynamic_sampling.md",
    of_rollouts=False,
)
