"""
Groups all wrong: hardly a group has a right completion, so there is nothing to learn from.
"""

from functools import partial

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings
from . import _groups


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    found = _groups.share("wrong", seen, settings)
    if found is None:
        return None
    size = settings.number("num_generations")
    change = f"num_generations={2 * size:.0f}" if size else "num_generations=twice as many"
    return Symptom(
        seen.row.step, f"{found:.0%} of the groups are all wrong.", {"all_wrong": found}, ("easier prompts", change)
    )


RULE = Rule(
    name="groups_all_wrong",
    watches=partial(_groups.key_of, "wrong"),
    needs="`frac_reward_zero_std` or `dapo/frac_all_wrong`",
    look=_look,
    minimum=1,
    patience=4,
    advice="Take easier prompts, more completions per group or a warm start, and check that the reward reads the "
    "format: without a right completion, advantages are 0.",
    reference="DAPO (https://huggingface.co/papers/2503.14476), section 3.2",
)
