"""
All truncated at start: hardly a completion ends by itself, from the first rollout on.

A truncated completion is seldom right, so every reward is 0 and nothing is learned.
"""

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings
from ..signals import truncation


BOUND = 0.9
START = 8  # rollouts


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    series = seen.rollouts(str(truncation(seen)))
    # Later, it is growth: `length_growth`
    if len(series) > START or series.values[-1] < BOUND:
        return None
    limit = settings.number("max_completion_length")
    change = f"max_completion_length={2 * limit:.0f}" if limit else "max_completion_length=twice as many"
    share = series.values[-1]
    return Symptom(
        series.steps[-1],
        f"{share:.0%} of the completions are cut off at the length limit, from the start.",
        {"truncated": share},
        (change,),
    )


RULE = Rule(
    name="truncated_at_start",
    watches=truncation,
    needs="`completions/clipped_ratio` or `dapo/overlong_frac`",
    look=_look,
    minimum=1,
    patience=2,
    advice="Raise the limit, and check that prompts go through the chat template and that the model knows its end "
    "token: a completion that is cut off has no answer.",
    reference="docs/verify.md",
)
