"""
Unparseable answers: the scorer finds no answer in many completions, and that does not get better.
"""

from statistics import fmean

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings


SHARE = 0.3
BETTER = 0.05
WINDOW = 3


def unparseable(seen: Observations) -> str | None:
    """Returns the key of the share of answers that a scorer cannot read: in training, else on held-out prompts."""
    keys = [key for key in seen.keys if key.endswith(("/unparseable", "_unparseable"))]
    return min(keys, key=lambda key: (key.startswith("eval_"), key), default=None)


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    key = str(unparseable(seen))
    series = seen.series(key)
    first, now = fmean(series.values[:WINDOW]), fmean(series.last(WINDOW))
    if now < SHARE or now < first - BETTER:
        return None
    return Symptom(
        series.since(lambda value: value >= SHARE),
        f"{now:.0%} of the answers cannot be read by the scorer ({key}).",
        {"unparseable": now, "at_start": first},
        ("reward_funcs=a scorer of the answers' format", "prompt_template=one that asks for the format"),
    )


RULE = Rule(
    name="unparseable_answers",
    watches=unparseable,
    needs="`<scorer>/unparseable`, which scorers log",
    look=_look,
    minimum=2 * WINDOW,
    patience=1,
    advice="Ask for the format that the scorer reads, or take another scorer: a right answer that cannot be read "
    "counts as wrong.",
    reference="docs/rewards.md",
    of_rollouts=False,
)
