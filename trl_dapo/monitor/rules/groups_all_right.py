"""
Groups all right: hardly a group has a wrong completion, so there is nothing left to learn.
"""

from functools import partial

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings
from . import _groups


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    found = _groups.share("right", seen, settings)
    if found is None:
        return None
    return Symptom(
        seen.row.step,
        f"{found:.0%} of the groups are all right.",
        {"all_right": found},
        ("harder prompts", "skip_solved_above=0.9"),
    )


RULE = Rule(
    name="groups_all_right",
    watches=partial(_groups.key_of, "right"),
    needs="`frac_reward_zero_std` or `dapo/frac_all_correct`",
    look=_look,
    minimum=1,
    patience=4,
    advice="Take harder prompts, leave out those that are solved, or end the run: it has learned what these teach.",
    reference="DAPO (https://huggingface.co/papers/2503.14476), section 3.2",
)
